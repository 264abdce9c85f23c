"""DICOMweb: instances are sent to be stored (STOW-RS), and come back with their predictions."""
