"""Importing much at once without looking through it for garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["uncollected"]


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Python's garbage collector waits while something is imported.

    Nearly all that an import makes stays; to look through it again and again costs half a second where that is much.
    """
    active = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if active:
            if not gc.get_freeze_count():  # of what others have frozen, nothing is touched
                gc.freeze()
                gc.unfreeze()  # together: what is there counts as old, without having been looked through
            gc.enable()
