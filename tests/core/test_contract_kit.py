"""What a plugin author meets: the decorator in a pytest run, ``unlabel check``, and the fixtures."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import distributions
import numpy as np
import pytest
import torch
from collective import failing, summed
from commandline import install, unlabel
from safetensors.torch import load_file, save_file

from unlabel import Run, RunError
from unlabel.catalog.builtin import COMMANDS
from unlabel.cli.entry import FUNCTIONS
from unlabel.testing import network
from unlabel.testing.checks import CHECKS, PLUGIN_CHECKS
from unlabel.testing.compare import difference, digests, distance
from unlabel.testing.fixtures import TwoProcesses

HERE = Path(__file__).parent

USAGE = """
from unlabel.testing import contract

@contract("right")
def test_contract(check): check()
"""
"""As in the design, to the letter."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the import path where the right plugin is installed."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "right", "toyright.plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("UNLABEL_PLUGINS", "right")
        yield folder


def pytest_run(folder: Path, site: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """pytest in a process of its own, as an author would start it."""
    # jaxtyping, of our own tests alone, brings a plugin for pytest that imports numpy
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:jaxtyping", "-W", "error", *words]
    paths = os.pathsep.join([str(site), str(HERE)])
    environment = {key: value for key, value in os.environ.items() if key != "UNLABEL_SHARED"}
    environment |= {"PYTHONPATH": paths, "UNLABEL_PLUGINS": "right", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


# The decorator


def test_collecting_lists_every_check_and_imports_nothing_heavy(tmp_path: Path, site: Path) -> None:
    (tmp_path / "test_it.py").write_text(USAGE)
    (tmp_path / "conftest.py").write_text(
        "import sys\ndef pytest_collection_finish():\n    print('heavy:', {'torch', 'numpy'} & set(sys.modules))\n"
    )
    answer = pytest_run(tmp_path, site, "--collect-only", "-q", "-s")

    ids = re.findall(r"test_it.py::test_contract\[(.*)\]", answer.stdout)
    assert "heavy: set()" in answer.stdout
    assert len(ids) == len(set(ids)) > 60
    assert "right-loads" in ids
    assert "right/echo-resumes_exactly" in ids
    assert "right/linear-makes_its_dim" in ids
    assert "listen-has_help" in ids


@pytest.mark.slow
def test_ids_can_be_selected(tmp_path: Path, site: Path) -> None:
    (tmp_path / "test_it.py").write_text(USAGE)
    answer = pytest_run(
        tmp_path, site, "-v", "-rs", "-k", "right/echo-trains or (phases and encode_ignores) or right-loads"
    )

    assert answer.returncode == 0, answer.stdout
    assert "2 passed, 1 skipped" in answer.stdout
    assert "test_it.py::test_contract[right/echo-trains] PASSED" in answer.stdout
    assert "test_contract[right/phases-encode_ignores_batch_mates] SKIPPED" in answer.stdout
    assert re.search(r"test_it.py:\d+: not applicable: its samples are encoded together", answer.stdout)


@pytest.mark.slow
def test_what_is_wrong_is_a_failure_without_a_traceback(tmp_path: Path, site: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        dedent("""
        from unlabel.testing import contract

        @contract("rihgt")
        def test_missing(check):
            check()

        SKIP = {"right/echo-trains": "the tide is out", "right/echo-rains": "gone", "right-loads": " "}

        @contract("right", skip=SKIP)
        def test_skipped(check):
            check()
        """)
    )
    answer = pytest_run(tmp_path, site, "-rs", "-k", "missing or echo-trains or echo-rains or right-loads")

    assert answer.returncode == 1
    assert "3 failed, 1 skipped" in answer.stdout
    assert "no plugin called 'rihgt' is installed; did you mean right?" in answer.stdout
    assert "the tide is out" in answer.stdout
    assert re.search(r"right/echo-rains is no check of this plugin; did you mean .*right/echo-trains", answer.stdout)
    assert "right-loads has no reason" in answer.stdout
    assert "Traceback" not in answer.stdout
    assert "contract.py:" not in answer.stdout


def test_checks_say_in_one_line_what_they_are_about() -> None:
    for check in (*CHECKS, *PLUGIN_CHECKS):
        assert re.fullmatch(r"[A-Z`].{20,140}[.]", check.summary), check.name
        assert check.name.isidentifier()
    assert len({check.name for check in CHECKS}) == len(CHECKS)


# The command


def test_the_names_no_plugins_command_can_have_are_those_of_the_commands() -> None:
    assert set(FUNCTIONS) == COMMANDS


def test_check_prints_a_table(site: Path) -> None:
    answer = unlabel("check", "right", "--only", "echo-resolves", "-k", "files-is_pure", "-k", "listen")

    assert answer.code == 0, answer.err
    rows = [line.split() for line in answer.out.splitlines() if line.strip()]
    assert rows[0] == ["component", "check", "result", "reason"]
    assert ["right/echo", "resolves", "ok"] in rows
    assert ["right/files", "is_pure", "not", "applicable", "no"] in [row[:5] for row in rows]
    assert ["listen", "resolves", "ok"] in rows
    assert ["has_help", "ok"] in rows
    assert answer.out.endswith("5 checks: 4 ok, 0 failed, 1 not applicable\n")


def test_check_as_json(site: Path) -> None:
    answer = unlabel("check", "right", "-k", "echo-resolves", "--json")

    assert json.loads(answer.out) == [
        {
            "id": "right/echo-resolves",
            "kind": "task",
            "component": "right/echo",
            "check": "resolves",
            "outcome": "ok",
            "reason": "",
        }
    ]


def test_check_of_a_plugin_that_breaks_the_contract_is_1_and_says_where(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "noisy", "noisy_module")
    source = distributions.offering("commands", {"hum": "noisy_module:hum"})
    (tmp_path / "noisy_module.py").write_text(f"print('hi')\n{source}def hum(loud: bool):\n    raise KeyError\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("UNLABEL_PLUGINS", "noisy")

    answer = unlabel("check", "noisy", "-k", "noisy-loads", "-k", "is_described")

    assert answer.code == 1
    assert "prints while being imported: 'hi'" in answer.out
    assert "noisy_module:hum has no docstring: say in its first line what hum is" in answer.out
    assert answer.out.endswith("2 checks: 0 ok, 2 failed, 0 not applicable\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("rihgt",), "error: no plugin called 'rihgt' is installed; did you mean right?"),
        (("right", "-k", "resumes_exacly"), "error: no check of 'right' holds resumes_exacly in its id"),
    ],
)
def test_check_of_nothing_is_a_usage_error(site: Path, words: tuple[str, ...], says: str) -> None:
    answer = unlabel("check", *words)
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err


@pytest.mark.slow
def test_check_works_without_pytest(site: Path) -> None:
    script = (
        "import sys\nsys.modules['pytest'] = sys.modules['_pytest'] = None\n"
        "sys.argv = ['unlabel', 'check', 'right', '-k', 'echo-trains', '-k', 'diary']\n"
        "from unlabel import cli\ncli.main()\n"
    )
    paths = os.pathsep.join([str(site), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "5 checks: 5 ok" in answer.stdout


# Fixtures


def test_connections_to_other_machines_are_refused_and_noted(no_network: list[str]) -> None:
    refusal = pytest.raises(
        network.NetworkRefused, match=r"tried to connect to 192.0.2.1:9: a run uses the network only"
    )
    with socket.socket() as line, refusal:
        line.connect(("192.0.2.1", 9))
    with pytest.raises(OSError, match=r"look up 'example.org'"):
        socket.getaddrinfo("example.org", 80)
    assert no_network == ["connect to 192.0.2.1:9", "look up 'example.org'"]
    no_network.clear()


def test_this_machine_may_be_connected_to(no_network: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
    assert socket.getaddrinfo("localhost", 80)


def test_watching_ends(no_network: list[str]) -> None:
    with network.refused() as tried, pytest.raises(network.NetworkRefused):
        socket.gethostbyname("example.org")
    assert tried == no_network == ["look up 'example.org'"]
    no_network.clear()
    with pytest.raises(network.NetworkRefused):
        socket.gethostbyname("example.org")
    assert len(tried) == 1
    no_network.clear()


@pytest.mark.slow
def test_fixtures_in_an_authors_suite(tmp_path: Path, site: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        dedent("""
        import socket
        import sys

        def test_before():
            assert "torch" not in sys.modules

        def test_overlooked(no_network):
            try:
                socket.create_connection(("192.0.2.1", 9))
            except OSError:
                pass

        def test_case(golden):
            assert golden("case.json") == {"a": 1}
        """)
    )
    (tmp_path / "case.json").write_text('{"a": 1}')

    answer = pytest_run(tmp_path, site, "-rs")
    assert "1 passed, 1 skipped, 1 error" not in answer.stdout  # the test passes, and what it overlooked is an error
    assert re.search(r"2 passed, 1 skipped, 1 error", answer.stdout), answer.stdout
    assert "the test tried to look up '192.0.2.1'" in answer.stdout
    assert "UNLABEL_SHARED names, which is not set" in answer.stdout

    answer = pytest_run(tmp_path, site, "-k", "case", UNLABEL_SHARED=str(tmp_path))
    assert "1 passed" in answer.stdout


def test_golden_reads_cases_of_every_kind_and_unpickles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("UNLABEL_SHARED", str(tmp_path))
    golden: Callable[[str], Any] = request.getfixturevalue("golden")
    (tmp_path / "echo").mkdir()
    np.savez(tmp_path / "echo/wave.npz", x=np.arange(3))
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    save_file({"y": torch.ones(2)}, tmp_path / "echo/weights.safetensors")
    (tmp_path / "echo/facts.json").write_text('{"n": 3}')
    (tmp_path / "echo/README.md").write_text("how it was made")

    cases = golden("echo")
    assert set(cases) == {"wave", "weights", "facts"}
    assert cases["wave"]["x"].tolist() == [0, 1, 2]
    assert cases["weights"]["y"].tolist() == [1, 1]
    assert golden("echo/facts.json") == {"n": 3}
    with pytest.raises(ValueError, match="allow_pickle"):
        golden("objects.npz")
    with pytest.raises(FileNotFoundError):
        golden("echo/absent.npz")
    with pytest.raises(ValueError, match=r"expected .json, .npz, .safetensors or a folder"):
        golden("echo/README.md")


def test_a_tiny_run_is_trained_once(site: Path, tmp_run: Callable[..., Run]) -> None:
    run = tmp_run("right/echo", steps=2)
    assert run is tmp_run("right/echo", steps=2)
    assert run is not tmp_run("right/echo", steps=1)
    assert [record["total_step"] for record in run.metrics if "loss_error" in record][-1] == 2
    assert run.encoder.dim == 4


@pytest.mark.slow
def test_two_processes_work_together_and_get_over_a_failure(two_processes: TwoProcesses) -> None:
    assert two_processes(summed, 1.0) == [(0, 2, 3.0), (1, 2, 3.0)]
    with pytest.raises(RunError, match=r"(?s)process 1 of 2 failed:.*no second"):
        two_processes(failing)
    assert two_processes(summed, 2.0)[1] == (1, 2, 5.0)
    with pytest.raises(RunError, match=r"cannot be handed to another process"):
        two_processes(lambda: 0)


@pytest.mark.slow
def test_a_command_in_two_processes_ends_where_one_does(
    two_processes: TwoProcesses,
    tmp_run: Callable[..., Run],
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(HERE)]))
    monkeypatch.setenv("UNLABEL_PLUGINS", "right")
    fixed = ("--steps", 3, "--precision", "fp32", "--no-evaluate")
    said = two_processes.command("train", "right/echo", "--recipe", "tiny", *fixed, "--out", tmp_path / "two")
    assert "2 processes" in said

    one = tmp_run("right/echo", steps=3, execution__precision="fp32").folder / "checkpoints/step-00000003"
    left, right = (load_file(path / "task.safetensors") for path in (one, tmp_path / "two/checkpoints/step-00000003"))
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], atol=1e-6, rtol=0)  # float32 sums in another order

    with pytest.raises(RunError, match=r"process \d of 2 ended with 2: error: nothing installed is called 'right/eco'"):
        two_processes.command("show", "right/eco")


# Comparing


def test_differences_name_the_largest() -> None:
    left = {"a": torch.tensor([1.0, torch.nan]), "b": torch.tensor([1, 2]), "c": torch.tensor(True)}
    assert difference(left, {name: value.clone() for name, value in left.items()}) == ""
    assert difference(left, {**left, "b": torch.tensor([1, 5])}) == "1 of 3 differ, most of all b (by 3)"
    assert difference(left, {**left, "b": torch.tensor([1.0, 2.0])}).startswith("1 of 3 differ")
    assert difference(left, {**left, "a": torch.tensor([1.0, 0.0])}) == "1 of 3 differ, most of all a (by inf)"
    assert difference(left, {"a": left["a"]}) == "b, c is in one of them only"


def test_distance_is_a_share_of_the_whole_length() -> None:
    left = {"a": np.array([3.0, 0.0]), "b": np.array([4.0])}
    assert distance(left, left)[0] == 0
    assert distance(left, {"a": np.array([3.0, 0.5]), "b": np.array([4.0])}) == (pytest.approx(0.1), "a")
    rounding = {"a": np.full(4, 1e-9)}
    assert distance(rounding, {"a": np.zeros(4)})[0] < 1e-5


def test_digests_tell_leaves_of_a_batch_apart() -> None:
    edges = torch.eye(2).to_sparse()
    batch = {"x": torch.ones(2), "nested": {"y": [np.zeros(1), 3]}, "edges": edges, "name": "a"}
    before = digests(batch)
    assert set(before) == {"x", "nested.y.0", "nested.y.1", "edges.indices", "edges.values", "name"}
    batch["x"][0] = 2
    batch["nested"]["y"][1] = 4
    after = digests(batch)
    assert {name for name in before if before[name] != after[name]} == {"x", "nested.y.1"}
