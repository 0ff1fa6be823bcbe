"""The command line: parse, call, print. Nothing is decided here.

Exit codes: 0 well, 1 failed on the way, 2 asked for something that cannot be, 128 + n stopped by signal n.
Messages go to standard error, results to standard output, so that ``--json`` can be piped.
"""

from __future__ import annotations

from unlabel.cli.application import app
from unlabel.cli.entry import main

__all__ = ["app", "main"]
