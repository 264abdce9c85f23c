"""`python -m medfocus.export` is `medfocus-export`."""

import sys

from medfocus.export.command import main

if __name__ == "__main__":
    sys.exit(main())
