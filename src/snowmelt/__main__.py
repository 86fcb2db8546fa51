"""`python -m snowmelt` is the command `snowmelt`.

With -m, Python puts the current folder in front of all others that it imports from (unless it runs with -P);
that is where the images of strangers lie, so nothing more is imported from there. Snowmelt itself, where it
is run from its sources, has been found by then.
"""

import os
import sys

if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
    del sys.path[0]

from snowmelt.cli import main

if __name__ == "__main__":
    sys.exit(main())
