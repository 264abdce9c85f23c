"""Labelled images: image folders, tables, published data sets, and splits."""
