"""What every benchmark prints beside its figures, and where its table goes."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unlabel.environment import processor

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Processor, threads, versions: one line."""
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    threads = f"{torch.get_num_threads()} threads"
    return f"{processor()}, {threads}{gpu}, Python {platform.python_version()}, torch {torch.__version__}"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median with smallest and largest: ``1.02 (1.01 - 1.05)``."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean and standard deviation: ``0.412 ± 0.006``; of one value itself."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def command(parser: argparse.ArgumentParser, options: argparse.Namespace, *unnamed: str) -> str:
    """The command that makes a table again: the script, and every option that is not at its default.

    Args:
        parser: of the script.
        options: what it was called with.
        unnamed: options that say where things lie or how far to go, and change no figure; besides ``--runs``,
            ``--table`` and ``--only``.
    """
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    for action in parser._actions:
        if action.dest in ("help", "runs", "table", "only", *unnamed):
            continue
        value = getattr(options, action.dest)
        if value == action.default or value is None:
            continue
        words.append(action.option_strings[-1])
        words += [] if value is True else [str(one) for one in (value if isinstance(value, list) else [value])]
    return shlex.join(words)


def cells(path: Path, name: str) -> list[dict[str, Any]]:
    """The runs behind a table: the lines of a file if it is there, else those that the table was last made of."""
    if path.exists():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    table = RESULTS / f"{name}.json"
    found = json.loads(table.read_text(encoding="utf-8")) if table.exists() else {}
    return list(found.get("cells", []))


def rendered(content: Mapping[str, Any]) -> str:
    """The Markdown of what `write` keeps as JSON."""
    rows = content["rows"]
    columns = list(rows[0])
    lines = [
        f"# {content['title']}",
        "",
        f"`{content['command']}` on {content['machine']}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
        *("| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows),
    ]
    return "\n".join([*lines, "", content["notes"]]).rstrip() + "\n"


def write(
    name: str,
    title: str,
    command: str,
    rows: list[dict[str, object]],
    notes: str = "",
    *,
    remade: bool = False,
    **further: object,
) -> None:
    """Print a table and keep it under ``benchmarks/results``: as JSON, and as Markdown, which is made of the JSON.

    Args:
        name: of both files.
        title: of the page.
        command: that makes it again.
        rows: of the table, all with the same columns.
        notes: Markdown below it. Notes by hand go into the script, or the next run would lose them.
        remade: nothing was measured now, so the machine is the one of the table that is there.
        further: what else the JSON keeps, such as the ``cells`` that the rows are the means of.
    """
    path = RESULTS / f"{name}.json"
    on = json.loads(path.read_text(encoding="utf-8"))["machine"] if remade and path.exists() else machine()
    content = {"title": title, "machine": on, "command": command, "rows": rows, "notes": notes, **further}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    text = rendered(content)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
