"""Runtimes of the two graphs: a file or a folder for each."""
