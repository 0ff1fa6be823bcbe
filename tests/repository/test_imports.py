"""Looking around is fast: it imports neither torch nor any plugin's libraries."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "timm",
    "numpy",
    "torchvision",
    "sklearn",
    "scipy",
    "skimage",
    "PIL",
    "pandas",
    "pyarrow",
    "yaml",
    "safetensors",
}


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_importing_the_package_imports_nothing_of_weight() -> None:
    loaded = modules_after(
        "import unlabel\nfrom unlabel import hookimpl, Catalog, UsageError\nassert 'Task' in dir(unlabel)"
    )

    assert not loaded & HEAVY
    assert "unlabel_vision" not in loaded


@pytest.mark.parametrize(("given", "after"), [(None, "1"), ("0", "0")])
def test_huge_pages_are_asked_for_unless_the_user_says_otherwise(given: str | None, after: str) -> None:
    rest = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment = rest if given is None else rest | {"THP_MEM_ALLOC_ENABLE": given}
    code = "import os, unlabel; print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.split() == [after]


@pytest.mark.parametrize(
    "words", [("list",), ("list", "--json"), ("plugins",), ("--help",), ("train", "--help"), ("--version",), ("trian",)]
)
def test_looking_around_imports_nothing_of_weight(words: tuple[str, ...]) -> None:
    code = (
        f"sys.argv = ['unlabel', *{words!r}]\nfrom unlabel import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as stopped:\n"
        "    assert stopped.code == (2 if 'trian' in sys.argv else 0)"
    )

    assert not modules_after(code) & HEAVY


@pytest.mark.slow
@pytest.mark.parametrize("words", [("list", "--json"), ("--help",)])
def test_looking_around_takes_less_than_a_third_of_a_second(words: tuple[str, ...]) -> None:
    """Processor time of the best of five, which other programs on the machine do not change much."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "unlabel", *words], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.3


@pytest.mark.slow
def test_every_module_can_be_imported_first() -> None:
    """No two modules need each other to be imported already."""
    code = (
        "import importlib, pkgutil, unlabel\n"
        "names = {found.name for found in pkgutil.walk_packages(unlabel.__path__, 'unlabel.')} - {'unlabel.__main__'}\n"
        "for first in names:\n"
        "    for name in [name for name in sys.modules if name.partition('.')[0] == 'unlabel']:\n"
        "        del sys.modules[name]\n"
        "    importlib.import_module(first)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", "import sys\n" + code], check=True, env=environment, capture_output=True)
