"""Optimizers and schedules by name: checked against their signatures before anything is built, and resumed exactly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from distributions import offering, write
from torch import nn

from unlabel import checkpoint, compose, optim, verify
from unlabel.catalog.plugins import Catalog
from unlabel.checkpoint import Position
from unlabel.engine import Engine
from unlabel.errors import RunError, UsageError
from unlabel.recipe import Recipe, Ref, Stage
from unlabel.task import Task

ADAN, SAWTOOTH = "gifts:Adan", "gifts:sawtooth"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """A plugin offers an optimizer, and the user trusts a few names."""
    site = tmp_path_factory.mktemp("site")
    write(site, "sonar", offering("optimizers", {"sonar/adan": ADAN, "sonar/no": "gifts:sawtooth"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLABEL_PLUGINS", "sonar")
        patch.syspath_prepend(str(site))
        installed = Catalog.installed()
        installed.trusted |= {ADAN, SAWTOOTH, "gifts:without_start", "gifts:failing", "gifts:Plain", "gifts:Nothing"}
        yield installed
    for name in ("sonar_plugin", "sonar_plugin.plugin"):
        sys.modules.pop(name, None)


class Matrices(Task):
    """Two linear maps without biases, as some optimizers want it."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(4, 6, bias=bias), nn.Linear(6, 4, bias=bias)


def checked(catalog: Catalog, **fields: object) -> Stage:
    stage = Stage(**{"steps": 100, "horizon": 100, "lr": 0.01, **fields})
    verify.verify_stages(recipe_of(stage), catalog)
    return stage


def recipe_of(stage: Stage) -> Recipe:
    return Recipe(task=Ref("a/b"), encoder=Ref("a/c"), dataset=Ref("a/d"), stages=[stage])


def changed(catalog: Catalog, stage: Stage, *settings: str) -> Stage:
    """The stage after ``--set stages.0.SETTING``; the rest of a recipe needs no plugin here."""
    data = recipe_of(stage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "verify", verify.verify_stages)
        return compose.with_overrides(data, [f"stages.0.{setting}" for setting in settings], catalog).stages[0]


# --- names and options


def test_another_optimizer_is_set_by_name_and_keeps_the_options_it_knows(catalog: Catalog) -> None:
    adamw = Stage(steps=100, optimizer=Ref("adamw", betas=(0.9, 0.95), eps=1e-6))
    assert changed(catalog, adamw, "optimizer=adafactor").optimizer == Ref("adafactor")
    assert changed(catalog, adamw, "optimizer=Adam").optimizer == Ref("Adam", betas=(0.9, 0.95), eps=1e-6)
    assert changed(catalog, adamw, "optimizer=sonar/adan").optimizer == Ref("sonar/adan", eps=1e-6)
    assert changed(catalog, adamw, "optimizer=sgd").optimizer == Ref("sgd", momentum=0.9)
    assert changed(catalog, Stage(steps=1, optimizer="sgd"), "optimizer=muon").optimizer == Ref("muon")
    linear = Stage(steps=1, schedule=Ref("linear", end=1e-5))
    assert changed(catalog, linear, "schedule=polynomial").schedule == Ref("polynomial", end=1e-5)
    assert changed(catalog, linear, "schedule=constant").schedule == Ref("constant")


def test_single_options_are_set_and_converted(catalog: Catalog) -> None:
    stage = changed(catalog, Stage(steps=1), "optimizer.amsgrad=true", "optimizer.betas=[0.8, 0.9]")
    assert stage.optimizer == Ref("adamw", amsgrad=True, betas=(0.8, 0.9))
    stage = changed(catalog, stage, "optimizer=adafactor", "optimizer.beta2_decay=-0.5", "optimizer.eps=[null, 0.01]")
    assert stage.optimizer == Ref("adafactor", beta2_decay=-0.5, eps=(None, 0.01))
    stage = changed(catalog, stage, "betas=[0.5, 0.6]", "optimizer=adamw", "min_lr=1e-5", "schedule=linear")
    assert (stage.optimizer, stage.schedule) == (Ref("adamw", betas=(0.5, 0.6)), Ref("linear", end=1e-5))
    stage = changed(catalog, stage, "weight_decay={name: cosine, start: 0.1, end: 0.2}", "weight_decay.end=0.3")
    assert stage.weight_decay == Ref("cosine", start=0.1, end=0.3)
    assert changed(catalog, stage, "weight_decay=0.5").weight_decay == 0.5
    stage = changed(catalog, stage, "optimizers.head=sgd", "optimizers.head.nesterov=true")
    assert stage.optimizers == {"head": Ref("sgd", momentum=0.9, nesterov=True)}


WRONG = {
    "optimizer=adamv": r"stages.0.optimizer: optimizer 'adamv' is unknown; did you mean adam",
    "optimizer=lbfgs": r"optimizer 'lbfgs' is unknown; there are lars, adafactor, .*, sonar/adan",
    "optimizer=sonar/adam": r"no optimizer is called 'sonar/adam'; did you mean sonar/adan",
    "optimizer=sonar/no": r"optimizer 'sonar/no' is no subclass of torch.optim.Optimizer",
    "optimizer.amsgard=true": r"stages.0.optimizer.amsgard: adamw has no keyword 'amsgard'; did you mean amsgrad",
    "optimizer.amsgrad=maybe": r"stages.0.optimizer.amsgrad: should be a valid boolean.* not 'maybe'",
    "optimizer.betas=[0.9, 0.95, 0.99]": r"stages.0.optimizer.betas: ",
    "optimizer.lr=1": r"stages.0.optimizer.lr: the stage says it, or its groups: stages.0.lr",
    "betas=3": r"stages.0.optimizer.betas: should be a valid tuple, not 3",
    "beta=3": r"stages.0.beta: no such field; did you mean betas",
    "optimizers.head=adamv": r"stages.0.optimizers.head: optimizer 'adamv' is unknown",
    "optimizer=gifts:Nothing": r"module 'gifts' has no 'Nothing'",
    "optimizer=gifts:Plain": r"gifts:Plain knows no weight decay: set stages.0.weight_decay=0",
    "schedule=cosin": r"stages.0.schedule: schedule 'cosin' is unknown; did you mean cosine",
    "schedule.endd=1": r"stages.0.schedule.endd: cosine has no keyword 'endd'; did you mean end",
    "schedule.start=1": r"stages.0.schedule.start: cosine has no keyword 'start'",
    "schedule.end=-1": r"stages.0.schedule: cosine is -1.0 at step 100 of 100; expected a number, 0 or above",
    "schedule=gifts:without_start": r"schedule 'gifts:without_start' has no keyword start and no warmup: expected",
    "schedule=gifts:failing": r"stages.0.schedule: fails at step 100 of 100: ZeroDivisionError",
    "weight_decay=cosine": r"cosine needs stages.0.weight_decay.start",
    "weight_decay=-1": r"stages.0.weight_decay: should be greater than or equal to 0, not -1",
    "weight_decay=high": r"stages.0.weight_decay: schedule 'high' is unknown",
}


@pytest.mark.parametrize("setting", WRONG)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_built(setting: str, catalog: Catalog) -> None:
    with pytest.raises(UsageError, match=WRONG[setting]) as raised:
        changed(catalog, Stage(steps=1), setting)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "fields", [{"optimizer": "os:system"}, {"schedule": "os:system"}, {"weight_decay": "os:system"}]
)
def test_code_that_only_stands_in_a_file_is_not_imported(fields: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} is imported"))
    with pytest.raises(UsageError, match=r"'os:system' is code from elsewhere: confirm .* with --trust os:system"):
        checked(Catalog([]), **fields)


def test_a_stage_that_was_not_checked_uses_nothing_of_third_parties() -> None:
    stage = Stage(steps=1, optimizer=ADAN, schedule=SAWTOOTH).resolved(100)
    with pytest.raises(UsageError, match=r"optimizer 'gifts:Adan' is none of torch's: look it up"):
        optim.build(Matrices(), stage)
    with pytest.raises(UsageError, match=r"schedule 'gifts:sawtooth' is none of cosine, .*: look it up"):
        optim.learning_rate(stage, 0)


def test_an_optimizer_of_matrices_says_what_to_do_with_the_rest(catalog: Catalog) -> None:
    stage = checked(catalog, name="first", optimizer="muon")
    with pytest.raises(UsageError, match=r"stage 'first': Muon only supports 2D parameters .*; give the others to"):
        optim.build(Matrices(bias=True), stage)


def test_a_task_with_several_optimizers_has_each_as_the_stage_says(catalog: Catalog) -> None:
    task = Matrices()
    stage = checked(catalog, optimizer=Ref("adamw", eps=1e-6), optimizers={"head": Ref("sonar/adan", eps=1e-4)})
    parts = {"head": task.head, "encoder": task.encoder}
    made = {name: optim.build(part, stage, name) for name, part in parts.items()}
    assert [type(optimizer).__name__ for optimizer in made.values()] == ["Adan", "AdamW"]
    assert [optimizer.param_groups[0]["eps"] for optimizer in made.values()] == [1e-4, 1e-6]
    optim.check_names(stage, made)
    with pytest.raises(UsageError, match="the task has no optimizer 'head'; it has main"):
        optim.check_names(stage, {"main": made["encoder"]})


# --- schedules


def test_a_schedule_of_ones_own_follows_the_warm_up(catalog: Catalog) -> None:
    stage = checked(catalog, schedule=Ref(SAWTOOTH, teeth=2), warmup_steps=20, lr=0.1)
    rates = [optim.learning_rate(stage.resolved(100), step) for step in (0, 10, 20, 40, 60, 80)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.05, 0.1, 0.05])


def test_the_weight_decay_follows_its_schedule_where_there_is_one(catalog: Catalog) -> None:
    """Vectors stay spared, and a group with a weight decay of its own keeps it, even if it is the same number."""
    rules = [{"pattern": "head.*", "weight_decay": 0.04}]
    stage = checked(catalog, weight_decay=Ref("cosine", start=0.04, end=0.4), groups=rules)
    task = Matrices(bias=True)
    optimizer = optim.build(task, stage)
    names = {parameter: name for name, parameter in task.named_parameters()}
    for step, expected in ((0, 0.04), (50, 0.22), (100, 0.4), (150, 0.4)):
        optim.set_schedules({"main": optimizer}, stage, step)
        decays = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert decays["encoder.weight"] == optim.weight_decay(stage, step) == pytest.approx(expected)
        assert (decays["head.weight"], decays["encoder.bias"], decays["head.bias"]) == (0.04, 0.0, 0.0)


# --- state


def trained(task: Task, optimizer: torch.optim.Optimizer, stage: Stage, steps: range) -> None:
    for step in steps:
        optim.set_schedules({"main": optimizer}, stage, step)
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        (task.head(task.encoder(inputs).tanh()) - inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


OPTIMIZERS = [
    *(
        Ref(name)
        for name in ("adafactor", "muon", "adagrad", "adadelta", "rmsprop", "nadam", "radam", "adamax", "asgd")
    ),
    *(Ref("adamw", amsgrad=True), Ref("sgd", nesterov=True), Ref("lars"), Ref("sonar/adan"), Ref(ADAN)),
    Ref("adamw", foreach=True),
]


@pytest.mark.parametrize("ref", OPTIMIZERS, ids=str)
def test_every_optimizer_resumes_from_a_checkpoint_to_the_bit(ref: Ref, catalog: Catalog, tmp_path: Path) -> None:
    stage = checked(catalog, optimizer=ref, warmup_steps=2, weight_decay=Ref("linear", start=0.1, end=0.2))
    engine, ends = Engine("cpu", "fp32"), []
    for broken in (False, True):
        torch.manual_seed(0)
        task = Matrices()
        optimizer = optim.build(task, stage)
        trained(task, optimizer, stage, range(5))
        if broken:
            path = checkpoint.save(tmp_path, task, {"main": optimizer}, engine, Position("t", 0, 5, 5))
            task = Matrices()
            optimizer = optim.build(task, stage)
            checkpoint.load_task(path, task, engine)
            checkpoint.load_optimizers(path, task, {"main": optimizer}, engine)
        trained(task, optimizer, stage, range(5, 9))
        ends.append(torch.cat([p.detach().flatten() for p in task.parameters()]))
    assert torch.equal(*ends)


def test_numbers_of_python_stay_what_they_are(catalog: Catalog, tmp_path: Path) -> None:
    stage, engine = checked(catalog, optimizer=ADAN), Engine("cpu", "fp32")
    task = Matrices()
    optimizer, again = optim.build(task, stage), optim.build(task, stage)
    trained(task, optimizer, stage, range(3))
    optimizer.state[task.head.weight] |= {"active": True, "nothing": None}
    path = checkpoint.save(tmp_path, task, {"main": optimizer}, engine, Position("t", 0, 3, 3))
    checkpoint.load_optimizers(path, task, {"main": again}, engine)
    before, after = optimizer.state[task.head.weight], again.state[task.head.weight]
    assert {key: after[key] for key in ("step", "scale", "active")} == {
        "step": 3,
        "scale": before["scale"],
        "active": True,
    }
    assert [type(after[key]) for key in ("step", "scale", "active")] == [int, float, bool]

    optimizer.state[task.head.weight]["history"] = [1, 2]
    with pytest.raises((UsageError, RunError), match="Adan keeps 'history' as a list, which no checkpoint can hold"):
        checkpoint.save(tmp_path, task, {"main": optimizer}, engine, Position("t", 0, 4, 4))
