"""What every benchmark prints beside its figures, and where its table goes."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from unlabel.run import processor

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
    """Mean and standard deviation: ``0.412 ± 0.006``."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.3f} ± {deviation:.3f}"


def write(name: str, title: str, command: str, rows: list[dict[str, object]], notes: str = "") -> None:
    """Print a table and keep it as Markdown and JSON under ``benchmarks/results``."""
    columns = list(rows[0])
    lines = [
        f"# {title}",
        "",
        f"`{command}` on {machine()}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    lines += ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows]
    text = "\n".join([*lines, "", notes]).rstrip() + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    (RESULTS / f"{name}.json").write_text(
        json.dumps({"machine": machine(), "command": command, "rows": rows}, indent=2) + "\n"
    )
    print(text)
