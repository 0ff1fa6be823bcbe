"""How long looking around takes with no plugin, with those of this repository, and with twenty more.

Twenty as ``unlabel new-plugin`` writes them, or twenty larger ones (``tests/core/crowd.py``): nine names each, in
modules of some hundred lines. All are installed by pip in one environment. The commands take turns. Wall time is what a
person waits for; processor time is what other programs on the machine change less.

    python benchmarks/list_speed.py [--rounds N] [--plugins N]
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "core"))  # the environments and the crowd that the tests use

import crowd  # noqa: E402
import environments  # noqa: E402

COMMANDS = ("list", "list --json", "plugins", "--help")


def measured(environment: environments.Environment, words: str) -> tuple[float, float]:
    """Seconds on the clock and of processor time of one command."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    answer = environment.run("unlabel", *words.split())
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if answer.code or answer.err:
        raise SystemExit(f"unlabel {words} ended with {answer.code}: {answer.err}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--plugins", type=int, default=20)
    arguments = parser.parse_args()

    ours = sorted(path for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").is_file())
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = environments.clone(environments.template(Path(folder)), Path(folder))
        count = arguments.plugins
        environment.install(*ours, *crowd.fresh(Path(folder), count), *crowd.crowd(Path(folder), count))
        installed = len(list(environment.site.glob("*.dist-info")))
        libraries = len(list((Path(folder) / "libraries").glob("*.dist-info")))
        names = [path.name for path in ours]
        choices = {
            "0": [],
            f"{len(ours)} of this repository": names,
            f"these and {count} as new-plugin writes them": [*names, *(f"fresh{number:02}" for number in range(count))],
            f"these and {count} larger ones": [*names, *(f"crowd{number:02}" for number in range(count))],
        }
        for _ in range(arguments.rounds):
            for plugins, chosen in choices.items():
                environment.variables["UNLABEL_PLUGINS"] = ",".join(chosen)
                for words in COMMANDS:
                    times.setdefault((plugins, words), []).append(measured(environment, words))
    rows: list[dict[str, object]] = [
        {
            "plugins": plugins,
            "command": f"`unlabel {words}`",
            "wall, s": machine.spread([wall for wall, _ in found]),
            "processor, s": machine.spread([cpu for _, cpu in found]),
        }
        for (plugins, words), found in times.items()
    ]
    notes = (
        f"Medians of {arguments.rounds} rounds, in turn; in brackets smallest and largest. "
        f"{installed + libraries} distributions in the environment, {os.cpu_count()} cores, "
        f"load average {os.getloadavg()[0]:.1f} at the end."
    )
    machine.write("list_speed", "Looking around", "python benchmarks/list_speed.py", rows, notes)


if __name__ == "__main__":
    main()
