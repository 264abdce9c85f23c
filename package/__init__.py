"""medfocus: SAM2 finds the region, CLIP is made to look there, both run as one engine."""

__version__ = "0.1.0"
