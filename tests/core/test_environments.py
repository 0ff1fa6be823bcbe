"""The temporary environments other tests stand on: real, separate, and the same for everyone."""

from __future__ import annotations

import json
from pathlib import Path

import environments
import pytest
from environments import Environment

pytestmark = pytest.mark.slow

OFFERS = "from unlabel import hookimpl\n\n@hookimpl\ndef tasks():\n    return {'sonar/a': 'unlabel_sonar.plugin:a'}\n"


def test_the_core_comes_from_its_wheel_and_nothing_else_of_ours_is_there(environment: Environment) -> None:
    code = "import unlabel, importlib.metadata as m; print(unlabel.__file__, *m.entry_points(group='unlabel'))"
    answer = environment.run("python", "-c", code)

    assert answer == (0, f"{environment.site}/unlabel/__init__.py\n", "")
    assert [entry["name"] for entry in json.loads(environment.run("unlabel", "plugins", "--json").out)] == ["core"]


def test_a_plugin_is_installed_here_only(environment: Environment, tmp_path: Path) -> None:
    environment.install(environments.project(tmp_path, "sonar", OFFERS, version="2.5"))

    found = json.loads(environment.run("unlabel", "plugins", "--json").out)[1]
    assert (found["name"], found["distribution"], found["version"]) == ("sonar", "unlabel-sonar", "2.5")
    assert found["offers"] == {"tasks": ["sonar/a"]}
    assert list(environment.here.iterdir()) == []


def test_pip_works_as_a_user_types_it_and_needs_no_network(environment: Environment, tmp_path: Path) -> None:
    path = environments.project(tmp_path, "sonar", OFFERS, requires=("unlabel>=0.1", "torch"))

    answer = environment.run("pip", "install", "-e", path)

    assert answer.code == 0, answer.err
    assert "sonar/a" in environment.run("unlabel", "list").out


def test_a_distribution_that_cannot_be_installed_says_why(environment: Environment, tmp_path: Path) -> None:
    path = environments.project(tmp_path, "sonar", OFFERS, version="not a version")

    with pytest.raises(RuntimeError, match="not a version"):
        environment.install(path)
