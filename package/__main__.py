"""`python -m medfocus` is `medfocus`."""

import sys

from medfocus.command import main

if __name__ == "__main__":
    sys.exit(main())
