"""Looking around stays fast with twenty plugins installed."""

from __future__ import annotations

import json
import os
import resource
from typing import Any

import crowd
import environments
import pytest
from environments import Environment

pytestmark = pytest.mark.slow

COUNT = 20


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with twice twenty plugins in it, installed by pip."""
    session = tmp_path_factory.getbasetemp()
    session = session.parent if "PYTEST_XDIST_WORKER" in os.environ else session
    folder = tmp_path_factory.mktemp("crowd")
    made = environments.clone(environments.template(session), folder)
    made.install(*crowd.fresh(folder, COUNT), *crowd.crowd(folder, COUNT))
    return made


def choose(environment: Environment, name: str) -> None:
    """Load those of that name only."""
    environment.variables["UNLABEL_PLUGINS"] = ",".join(f"{name}{number:02}" for number in range(COUNT))


def test_all_of_them_are_listed_and_nothing_of_theirs_is_imported(crowded: Environment) -> None:
    code = (
        "import sys\nsys.argv = ['unlabel', 'list', '--json']\nfrom unlabel import cli\n"
        "try:\n    cli.main()\nfinally:\n"
        "    names = {n for n in sys.modules if '.' in n and 'crowd' in n} | {'torch'} & sys.modules.keys()\n"
        "    print(sorted({name.rpartition('.')[2] for name in names}), file=sys.stderr)"
    )
    choose(crowded, "crowd")
    answer = crowded.run("python", "-c", code)

    assert answer.code == 0
    assert answer.err == "['plugin']\n"
    found = json.loads(answer.out)
    assert [len(found[kind]) for kind in ("tasks", "encoders", "datasets", "evaluations")] == [40, 40, 40, 25]
    [order] = [entry for entry in found["tasks"] if entry["name"] == "crowd07/order"]
    assert order == {
        "name": "crowd07/order",
        "plugin": "crowd07",
        "summary": "Order: which half was heard first?",
        "arxiv": "3101.00001",
    }


LIBRARIES = "import importlib.metadata, typer.main, pydantic, pluggy, packaging.requirements"


@pytest.mark.parametrize(
    ("name", "words"), [("fresh", "list"), ("crowd", "list"), ("crowd", "list --json"), ("crowd", "plugins")]
)
def test_it_takes_less_than_a_third_of_a_second(crowded: Environment, name: str, words: str) -> None:
    """Processor time of the best of five; on a busy or slow machine, about twice that of the libraries alone."""
    choose(crowded, name)

    def spend(*command: str) -> tuple[float, Any]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer = crowded.run(*command)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (answer.code, answer.err) == (0, "")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, answer

    spent, libraries = [], []
    for _ in range(5):
        libraries.append(spend("python", "-c", LIBRARIES)[0])
        seconds, answer = spend("unlabel", *words.split())
        spent.append(seconds)
        assert answer.out.count(name) >= COUNT
    assert min(spent) < max(0.3, 2.2 * min(libraries))
