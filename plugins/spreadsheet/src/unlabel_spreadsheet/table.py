"""CSV as spreadsheets read it: UTF-8 with a mark, empty cells for what is not there, and no cell that is a formula."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from unlabel.storage import files

__all__ = ["cell", "read", "write", "write_aside"]


def cell(value: Any) -> Any:
    """What goes into a cell: numbers as they are, and text that a spreadsheet would execute with a quote before it."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file, column -> text."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write(rows: Iterable[Mapping[str, Any]], columns: list[str], file: IO[str]) -> None:
    """A line of column names, and one for each row."""
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def write_aside(rows: Iterable[Mapping[str, Any]], columns: list[str], path: Path) -> None:
    """Write a file that is whole or not there."""
    with files.writing(path) as aside, aside.open("w", encoding="utf-8-sig", newline="") as file:
        write(rows, columns, file)
