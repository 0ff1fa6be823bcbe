"""The plugin's table of contents: every name it offers, and where it lives. Imports nothing heavy."""

from __future__ import annotations

from unlabel import hookimpl


@hookimpl
def commands() -> dict[str, str]:
    return {"spreadsheet": "unlabel_spreadsheet.runs:spreadsheet"}


@hookimpl
def observers() -> dict[str, str]:
    return {"csv": "unlabel_spreadsheet.metrics:CSV"}
