"""Volumes: NIfTI files as slices, and what files say of their images' place in a series."""
