"""Stages one after the other: leaving some out changes nothing about the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from echo import Echo, Linear, Noises, recipe
from pydantic import ValidationError

from unlabel import loop, seeds
from unlabel.engine import Engine
from unlabel.recipe import Recipe, Stage


def train(chosen: Recipe, folder: Path) -> Echo:
    seeds.seed(1)
    task = Echo(Linear())
    folder.mkdir(exist_ok=True)
    loop.train(loop.Training(chosen, task, Noises(), Engine("cpu", "fp32"), folder, []))
    return task


def test_a_stage_without_updates_is_never_entered(tmp_path: Path) -> None:
    head, everything = recipe().stages
    skipped = Stage(name="head only", batch_size=8, optimizer="sgd", steps=0)
    task = train(recipe(stages=[head, skipped, everything]), tmp_path / "three")
    assert all(parameter.requires_grad for parameter in task.encoder.parameters())
    assert int(task.updates) == head.steps + everything.steps

    first = train(recipe(stages=[skipped, everything]), tmp_path / "one")
    assert int(first.updates) == everything.steps


def test_a_run_whose_last_stage_is_left_out_is_complete_and_resumes_to_the_same(tmp_path: Path) -> None:
    skipped = Stage(name="all", steps=0, batch_size=8)
    chosen = recipe(stages=[recipe().stages[0], skipped])
    whole, again = train(chosen, tmp_path), train(chosen, tmp_path)
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in again.state_dict().items())


def test_leaving_every_stage_out_is_refused() -> None:
    fields = recipe().model_dump()
    with pytest.raises(ValidationError, match="every stage is left out"):
        Recipe.model_validate({**fields, "stages": [{"steps": 0}, {"steps": 0}]})
    assert Stage(steps=0).resolved(100).steps == 0
    assert Stage(epochs=1e-9).resolved(100).steps == 1
