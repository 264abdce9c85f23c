"""Puts recorded numbers into README.md and docs/*.md; the prose there is written by hand."""
