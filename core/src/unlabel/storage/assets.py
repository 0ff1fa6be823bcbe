"""What a run depends on besides weights (a tokenizer, a graph, statistics): files with hashes, in the run.

They lie under ``assets/``, by whose they are (``dataset``, ``task``) and by name, and ``assets.json`` lists them with
their SHA-256. A component names them (`unlabel.Dataset.assets`, `unlabel.Task.assets`) and gets these copies back
whenever the run is opened, whatever has become of the originals.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from unlabel.errors import RunError, UsageError
from unlabel.storage.files import sha256, write_whole

__all__ = ["FOLDER", "LISTING", "load", "load_all", "names", "save"]

FOLDER, LISTING = "assets", "assets.json"


def save(run: Path, files: Mapping[str, Mapping[str, Path]]) -> None:
    """Copy assets into a run's folder; nothing is written if there are none.

    Args:
        run: the folder.
        files: owner -> name -> file. A name may hold slashes.

    Raises:
        UsageError: a name leads out of the folder, or a file is not there.
        OSError: the disk is full or not writable.
    """
    hashes = {}
    for owner, entries in files.items():
        for name, source in entries.items():
            key = f"{owner}/{name}"
            if not _inside(name):
                raise UsageError(f"asset {name!r} of the {owner}: expected a name without '..' that begins with no '/'")
            if not source.is_file():
                raise UsageError(f"asset {name!r} of the {owner}: there is no file {source}")
            target = run / FOLDER / key
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            hashes[key] = sha256(target)
    if hashes:
        write_whole(run / LISTING, json.dumps(hashes, indent=2) + "\n")


def names(run: Path) -> dict[str, str]:
    """The listing of a run: ``OWNER/NAME`` -> SHA-256; empty if it has no assets.

    Raises:
        RunError: the listing is damaged.
    """
    path = run / LISTING
    if not path.is_file():
        return {}
    try:
        listing = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    right = isinstance(listing, dict) and all(
        isinstance(name, str) and isinstance(value, str) and _inside(name) for name, value in listing.items()
    )
    if not right:
        raise RunError(f"{path} is damaged: expected names of files below {FOLDER}/ and their hashes")
    return dict(listing)


def load_all(run: Path) -> dict[str, Path]:
    """The files of a run by ``OWNER/NAME``, checked against their hashes.

    Raises:
        RunError: one is missing or altered, or the listing is damaged.
    """
    files = {}
    for key, expected in names(run).items():
        path = run / FOLDER / key
        if not path.is_file():
            raise RunError(f"{path} is missing; the run cannot be used without it")
        if sha256(path) != expected:
            raise RunError(f"{path} is damaged: its content does not match the hash in {LISTING}")
        files[key] = path
    return files


def load(run: Path, owner: str) -> dict[str, Path]:
    """The files of one owner by name; otherwise as `load_all`."""
    prefix = f"{owner}/"
    return {key.removeprefix(prefix): path for key, path in load_all(run).items() if key.startswith(prefix)}


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
