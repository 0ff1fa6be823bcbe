"""Put the latest benchmark tables into the README, between its two marks; a test checks that they are there.

python benchmarks/readme.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
START, END = "<!-- figures -->", "<!-- /figures -->"
TABLES = ("quick", "vision_first", "trainer_overhead", "loading")


def figures() -> str:
    """The tables that were written so far, as Markdown, one heading down."""
    parts = []
    for name in TABLES:
        path = HERE / "results" / f"{name}.md"
        if path.exists():
            parts.append(path.read_text(encoding="utf-8").replace("# ", "### ", 1).strip())
    return "\n\n".join(parts)


def updated(text: str) -> str:
    """The README with the current tables between its marks."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{figures()}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the README is behind")
    text = README.read_text(encoding="utf-8")
    if parser.parse_args().check:
        sys.exit("README is behind: run python benchmarks/readme.py" if updated(text) != text else 0)
    README.write_text(updated(text), encoding="utf-8")


if __name__ == "__main__":
    main()
