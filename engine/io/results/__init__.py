"""Result files: their formats, their journal, one writer at a time."""
