"""Make every published page anew of the figures under ``benchmarks/results``: run this when one of them has changed.

``NAME.md`` is made of ``NAME.json``, the README's tables of some of the former; the site takes all of them as they are.
Nothing is measured and nothing trained. A test checks that all is as this script would write it.

    python benchmarks/readme.py [--check | --adopt]

``--adopt`` is for files that an older version of a benchmark wrote, whose JSON lacks title and notes: they are taken
from the Markdown beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import machine

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
START, END = "<!-- figures -->", "<!-- /figures -->"
TABLES = ("quick", "vision_first", "trainer_overhead", "loading")


def figures(pages: dict[str, str]) -> str:
    """The tables that were written so far, as Markdown, one heading down."""
    return "\n\n".join(pages[name].replace("# ", "### ", 1).strip() for name in TABLES if name in pages)


def updated(text: str, pages: dict[str, str]) -> str:
    """The README with the current tables between its marks."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{figures(pages)}\n{END}{after}"


def pages() -> dict[str, str]:
    """Name -> Markdown of every table, from its JSON."""
    found = {}
    for path in sorted(machine.RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if missing := [field for field in ("title", "command", "machine", "rows", "notes") if field not in content]:
            sys.exit(
                f"{path} has no {' and no '.join(missing)}: run its script, or python benchmarks/readme.py --adopt"
            )
        found[path.stem] = machine.rendered(content)
    return found


def adopted(content: dict[str, Any], text: str) -> dict[str, Any]:
    """Results with the title and the notes of the Markdown that was written with them."""
    title, command, *rest = text.split("\n\n", 2)
    notes = rest[0].split("\n\n", 1)[1] if "\n\n" in rest[0] else ""
    named, _, where = command.removeprefix("`").partition("` on ")
    kept = {name: value for name, value in content.items() if name not in ("machine", "command", "rows")}
    told = {"title": title.removeprefix("# "), "machine": where.removesuffix("."), "command": named}
    return {**told, "rows": content["rows"], "notes": notes.rstrip(), **kept}


def adopt() -> None:
    """Complete the results of older scripts."""
    for path in sorted(machine.RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "title" not in content:
            new = adopted(content, path.with_suffix(".md").read_text(encoding="utf-8"))
            path.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a page is behind")
    parser.add_argument("--adopt", action="store_true", help="take titles and notes of older results from their pages")
    options = parser.parse_args()
    if options.adopt:
        adopt()
    made = pages()
    wanted = {machine.RESULTS / f"{name}.md": text for name, text in made.items()}
    wanted[README] = updated(README.read_text(encoding="utf-8"), made)
    behind = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    behind += [path for path in machine.RESULTS.glob("*.md") if path not in wanted]
    if options.check and behind:
        names = ", ".join(path.relative_to(HERE.parent).as_posix() for path in behind)
        sys.exit(f"not as their figures are: {names}; run python benchmarks/readme.py")
    for path, text in wanted.items():
        if path in behind and not options.check:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
