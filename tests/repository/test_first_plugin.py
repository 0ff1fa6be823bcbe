"""From nothing to a tested, trained plugin in five commands: what `unlabel new-plugin` promises, done as printed."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest
from commandline import Answer
from environments import Environment

pytestmark = pytest.mark.slow


def typed(environment: Environment, line: str) -> Answer:
    """A line as a user types it into a shell."""
    return environment.run(*shlex.split(line))


def test_five_commands_lead_from_the_core_to_an_evaluated_run(environment: Environment) -> None:
    commands = ["unlabel new-plugin sonar"]
    answers = [typed(environment, commands[0])]
    commands += [line.strip() for line in answers[0].out.partition("Next:\n")[2].splitlines()]
    answers += [typed(environment, line) for line in commands[1:]]

    for line, answer in zip(commands, answers, strict=True):
        assert answer.code == 0, f"{line}\n{answer.out}{answer.err}"
    assert len(commands) <= 5
    _, _, tested, trained, evaluated = answers
    assert re.search(r"\d+ passed", tested.out.splitlines()[-1]), tested.out
    assert "failed" not in tested.out
    before, after = gains(trained)
    assert before < 0.65, "there is something to learn"
    assert after > before + 0.2, "and the author sees that it was learnt"
    assert re.search(r"^health +ok", trained.out + trained.err, re.MULTILINE)
    assert float(re.search(r"^linear_probe +accuracy +([\d.]+)$", evaluated.out, re.MULTILINE)[1]) == after

    after_the_five(environment)


def gains(trained: Answer) -> tuple[float, float]:
    """Accuracy of the linear probe in the table that training ends with: random init, trained."""
    found = re.search(r"^linear_probe +accuracy +([\d.]+) +([\d.]+)", trained.out + trained.err, re.MULTILINE)
    assert found, trained.out + trained.err
    return float(found[1]), float(found[2])


def after_the_five(environment: Environment) -> None:
    """The rest of the command line, on the same installation and run."""
    listed = json.loads(environment.run("unlabel", "list", "--json").out)
    [task] = [entry for entry in listed["tasks"] if entry["name"] == "sonar/order"]
    assert task["summary"] == "Order: which half of a signal came first?"
    [plugin] = json.loads(environment.run("unlabel", "plugins", "--json").out)[1:]
    assert plugin["offers"] == {"tasks": ["sonar/order"], "encoders": ["sonar/windows"], "datasets": ["sonar/calls"]}
    assert plugin["problems"] == []
    source = environment.here / "unlabel-sonar/src/unlabel_sonar/order.py"
    assert len(source.read_text().splitlines()) <= 60

    tests = environment.run("pytest", "unlabel-sonar", "--collect-only", "-q").out
    for check in ("order-trains", "order-resumes_exactly", "windows-makes_its_dim", "calls-is_pure"):
        assert f"tests/test_contract.py::test_contract[sonar/{check}]" in tests

    embedded = environment.run("unlabel", "embed", "runs/sonar", "--data", "sonar/calls", "--out", "features.npz")
    assert embedded == (0, "10000 samples, 32 numbers each: features.npz\n", "")
    exported = environment.run("unlabel", "export", "runs/sonar", "--out", "encoder")
    assert exported.code == 0, exported.err
    code = "import unlabel, torch; print(*unlabel.load_encoder('encoder')(torch.zeros(2, 128)).shape)"
    assert environment.run("python", "-c", code) == (0, "2 32\n", "")

    resumed_where_it_stood(environment)


def resumed_where_it_stood(environment: Environment) -> None:
    """The run, cut back to the checkpoint before its last, goes on to the same weights."""
    *_, last = sorted((environment.here / "runs/sonar/checkpoints").glob("step-*"))
    expected = (last / "task.safetensors").read_bytes()
    shutil.rmtree(last)

    resumed = environment.run("unlabel", "resume", "runs/sonar", "--no-evaluate")

    assert resumed.code == 0, resumed.err
    assert (last / "task.safetensors").read_bytes() == expected
