"""Importing: by a name that the user gave, and much at once without looking through it for garbage."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator
from typing import Any

from unlabel.errors import UsageError, nearest, one_line

__all__ = ["attribute", "uncollected"]


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


def attribute(name: str) -> Any:
    """What ``package.module:attribute`` names; whoever calls has made sure that the user wants it imported.

    Raises:
        UsageError: the module cannot be imported, or has no such attribute (with the nearest).
    """
    module, _, attribute = name.partition(":")
    try:
        home = importlib.import_module(module)
    except Exception as error:  # the user's own code: an error in it is theirs to read, not a bug of ours
        raise UsageError(
            f"{name}: {module!r} cannot be imported ({one_line(error)}); is its folder on PYTHONPATH?"
        ) from error
    if not hasattr(home, attribute):
        raise UsageError(f"{name}: module {module!r} has no {attribute!r}{nearest(attribute, dir(home))}")
    return getattr(home, attribute)
