"""Studies whose results the documentation cites; not in the wheel."""
