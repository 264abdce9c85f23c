"""What goes in and comes out: image files, arrays and DICOM; result tables and journals."""
