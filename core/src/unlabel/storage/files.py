"""Files that are there whole or not at all: written aside, then renamed."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, text: str) -> None:
    """A kill or a full disk while writing leaves what was there before."""
    aside = path.with_suffix(".writing")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
