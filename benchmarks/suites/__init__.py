"""pytest-benchmark suites of single functions (`make bench`); not in the wheel."""
