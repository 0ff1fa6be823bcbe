"""``python -m unlabel`` is the command line."""

import os
import sys

if __name__ == "__main__":
    # -m puts the current folder on the path, the installed script does not: what lies there must not be loaded
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it has been removed
        here = ""
    if not sys.flags.safe_path and sys.path[0] == here:
        del sys.path[0]

    from unlabel.cli import main

    main()
