"""Rows as JSON, CSV, a table and pictures, and the comparison of two runs."""
