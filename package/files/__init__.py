"""What is written to disks: whole or not at all, by one at a time, and where."""
