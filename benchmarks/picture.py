"""The README's picture: the end of a run as it stands on the terminal, out of the run's folder.

python benchmarks/picture.py RUN [--out docs/quick.svg]
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console

from unlabel import Run
from unlabel.terminal import print_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/quick.svg")
    options = parser.parse_args()

    run = Run(options.run)
    console = Console(record=True, width=78, file=io.StringIO(), highlight=False)
    console.print(f"$ unlabel train {run.recipe.name} --recipe quick\n...")
    print_results(console.print, run.evaluations)
    options.out.parent.mkdir(exist_ok=True)
    picture = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="unlabel"), flags=re.DOTALL)
    options.out.write_text(picture, encoding="utf-8")  # without the fonts, which would be fetched from elsewhere


if __name__ == "__main__":
    main()
