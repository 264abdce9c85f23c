"""A model becomes an engine directory."""
