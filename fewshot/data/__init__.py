"""Labelled images: image folders, tables, recipes of published data sets, and splits."""
