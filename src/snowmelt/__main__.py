"""`python -m snowmelt` is the command `snowmelt`."""

import sys

from snowmelt.cli import main

if __name__ == "__main__":
    sys.exit(main())
