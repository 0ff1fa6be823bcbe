"""Stages as version 0.1 wrote them: the same optimizers and, to the bit, the same rates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from torch import nn

from unlabel import flat_fields, optim, recipe, verify
from unlabel.catalog.plugins import Catalog
from unlabel.recipe import Ref, Stage
from unlabel.task import Task

OLD = Path(__file__).parent / "version_0_1"
EXPECTED = json.loads((OLD / "expected.json").read_text(encoding="utf-8"))
"""What version 0.1 made of the recipes beside it, for two updates an epoch."""


class Line(Task):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_version_0_1_gives_its_optimizer_and_its_rates(name: str) -> None:
    old = recipe.load(OLD / f"{name}.json")
    stage = old.stages[0].resolved(2 * old.stages[0].batch_size)
    rates = [optim.learning_rate(stage, step) for step in range(stage.horizon + 2)]
    assert rates == EXPECTED[name]["rates"]

    optimizer = optim.build(Line(), stage.model_copy(update={"groups": []}))
    group = {
        key: list(value) if isinstance(value, tuple) else value for key, value in optimizer.param_groups[0].items()
    }
    assert type(optimizer).__name__ == EXPECTED[name]["optimizer"]
    assert group | EXPECTED[name]["group"] == group


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_written_now_is_read_back_without_flat_fields(name: str) -> None:
    old = recipe.load(OLD / f"{name}.json")
    verify.verify_stages(old, Catalog([]))
    written = json.loads(old.to_json())
    assert not flat_fields.FIELDS.keys() & written["stages"][0].keys()
    assert recipe.parse(written, "") == old
    assert recipe.parse(yaml.safe_load(yaml.safe_dump(old.model_dump(mode="json"))), "") == old


@pytest.mark.parametrize(
    ("fields", "optimizer", "schedule"),
    [
        ({}, Ref("adamw"), Ref("cosine")),
        ({"betas": [0.9, 0.95], "momentum": 0.5}, Ref("adamw", betas=(0.9, 0.95)), Ref("cosine")),
        ({"optimizer": "sgd"}, Ref("sgd", momentum=0.9), Ref("cosine")),
        ({"optimizer": "SGD", "momentum": 0}, Ref("SGD", momentum=0), Ref("cosine")),
        ({"optimizer": "sgd", "nesterov": True}, Ref("sgd", momentum=0.9, nesterov=True), Ref("cosine")),
        ({"optimizer": "lars", "eps": 1e-3, "trust_coefficient": 0.02}, Ref("lars", trust_coefficient=0.02), None),
        ({"optimizer": Ref("adam", amsgrad=True), "eps": 1e-6}, Ref("adam", amsgrad=True, eps=1e-6), None),
        ({"optimizer": {"name": "adam", "eps": 1e-5}, "eps": 1e-8}, Ref("adam"), None),
        ({"optimizer": "adafactor", "betas": [0.9, 0.999]}, Ref("adafactor"), None),
        ({"optimizer": "sonar/adan", "betas": [0.1, 0.2, 0.3]}, Ref("sonar/adan", betas=(0.1, 0.2, 0.3)), None),
        ({"min_lr": 1e-6, "power": 3}, None, Ref("cosine", end=1e-6)),
        ({"min_lr": 1e-6, "schedule": "constant"}, None, Ref("constant")),
        ({"schedule": "polynomial", "power": 2, "min_lr": 0.0}, None, Ref("polynomial", power=2)),
        ({"schedule": "step", "milestones": [0.5], "gamma": 0.2}, None, Ref("step", milestones=(0.5,), gamma=0.2)),
    ],
)
def test_flat_fields_are_options_of_what_knows_them(fields: dict, optimizer: Ref | None, schedule: Ref | None) -> None:
    stage = Stage(steps=1, **fields)
    assert optimizer is None or stage.optimizer == optimizer
    assert schedule is None or stage.schedule == schedule


def test_a_copy_takes_the_same_forms() -> None:
    stage = Stage(steps=1, optimizer=Ref("adamw", eps=1e-6), schedule=Ref("linear", end=1e-5))
    assert stage.model_copy(update={"betas": [0.9, 0.95]}).optimizer == Ref("adamw", eps=1e-6, betas=(0.9, 0.95))
    changed = stage.model_copy(update={"optimizer": "sgd", "schedule": "constant", "momentum": 0.5, "lr": 1.0})
    assert (changed.optimizer, changed.schedule, changed.lr) == (Ref("sgd", momentum=0.5), Ref("constant"), 1.0)
    assert stage.optimizer == Ref("adamw", eps=1e-6)


def test_a_stage_has_fewer_fields_and_none_of_the_flat_ones() -> None:
    assert len(Stage.model_fields) == 25  # 32 in version 0.1, which had no last_batch
    assert not flat_fields.FIELDS.keys() & Stage.model_fields.keys()


def test_a_weight_decay_may_stand_as_text() -> None:
    """YAML reads 1e-4, without a point, as text."""
    stage = Stage.model_validate(yaml.safe_load("{steps: 1, weight_decay: 1e-4}"))
    assert stage.weight_decay == 1e-4
