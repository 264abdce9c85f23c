"""What a command line refers to: files, folders, patterns, archives."""
