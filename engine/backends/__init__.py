"""One file or folder per runtime that can execute the two graphs."""
