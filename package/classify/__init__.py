"""`medfocus classify`."""
