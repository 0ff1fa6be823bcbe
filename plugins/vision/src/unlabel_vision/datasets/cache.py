"""Where lists and copies of a user's files are kept, and how they get there whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["home", "place", "written"]

_VERSION = 1  # of what is kept; raise it when a form changes


def home(kind: str) -> Path:
    """Where things of one kind are kept: in ``XDG_CACHE_HOME`` or ``~/.cache``, under ``unlabel``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unlabel" / kind


def place(kind: str, path: Path, suffix: str, *details: str) -> Path:
    """The place for what is derived from the file `path`, in `home`.

    It depends on the file's path, size and time of change, and on `details`; so a changed file finds nothing.
    """
    status = path.stat()
    identity = "\0".join((str(_VERSION), str(path.resolve()), str(status.st_size), str(status.st_mtime_ns), *details))
    name = hashlib.sha256(os.fsencode(identity)).hexdigest()[:32]
    return home(kind) / f"{name}{suffix}"


@contextlib.contextmanager
def written(target: Path) -> Iterator[Path]:
    """A temporary file that becomes `target` when the block ends well; nobody ever sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, suffix=target.suffix)
    os.close(descriptor)
    try:
        yield Path(name)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
