"""One module for each part of `medfocus-bench`; each yields rows."""
