"""Two tasks on one ViT: the same numbers as apart, resumable to the bit, evaluated and exported as any run."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import unlabel
from safetensors.numpy import load_file
from test_processes import largest_difference, train

from unlabel import build, compose, loop, optim
from unlabel.catalog.plugins import Catalog
from unlabel.data import Reader
from unlabel.engine import Engine
from unlabel.joint import Joint
from unlabel.logs import Observer
from unlabel.recipe import Recipe, Ref

BOTH = "vision/mae+vision/rotation"
CPU = Engine("cpu", "fp32")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.installed()


def recipe(catalog: Catalog, **changes: object) -> Recipe:
    settings = ["execution.precision=fp32", "execution.workers=0", "log_every=1", "monitor_every=100"]
    settings += changes.pop("settings", [])  # type: ignore[arg-type]
    return compose.compose(
        BOTH, catalog, name="tiny", encoder="vision/vit", settings=settings, **{"steps": 6, **changes}
    )


def test_gradients_are_those_of_the_two_tasks_apart(catalog: Catalog) -> None:
    chosen = recipe(catalog, settings=["task.combine=pareto"])
    dataset = build.build_dataset(chosen.dataset, catalog).split("train")
    task = build.build(chosen, catalog, CPU)
    assert isinstance(task, Joint)
    batch, _ = Reader(dataset, task.transform(), 5).read([(0, index) for index in range(8)])
    stage = chosen.stages[0].model_copy(update={"optimizer": Ref("sgd", momentum=0.0), "lr": 1.0, "weight_decay": 0.0})
    stage = stage.resolved(len(dataset))
    before = {name: value.detach().clone() for name, value in task.named_parameters()}

    separate: dict[str, dict[str, torch.Tensor]] = {}
    for label in ("mae", "rotation"):
        task.zero_grad()
        task.part(label).loss(task.view(label, batch))["loss"].backward()
        separate[label] = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in task.named_parameters()
        }
    task.zero_grad()
    optimizers = task.optimizers(stage)
    for group in optimizers["main"].param_groups:
        group["lr"] = 1.0
    metrics = task.training_step([batch], optimizers, CPU, stage)

    for name, value in task.named_parameters():
        step = before[name] - value.detach()
        expected = sum(metrics[f"alpha_{label}"].float() * separate[label][name] for label in separate)
        assert torch.allclose(step, expected, rtol=1e-3, atol=1e-6), name
    heads = {name.split(".")[1] for name in before if name.startswith("parts.")}
    assert heads == {"mae", "rotation"}
    assert all(not g.any() for n, g in separate["mae"].items() if n.startswith("parts.rotation."))


def test_layers_are_the_first_parts_and_other_heads_are_on_top(catalog: Catalog) -> None:
    chosen = recipe(catalog, settings=["stages.0.layer_decay=0.5"])
    task = build.build(chosen, catalog, CPU)
    assert isinstance(task, Joint)
    names = {parameter: name for name, parameter in task.named_parameters()}
    groups = optim.groups(task, chosen.stages[0])
    scale = {names[p]: group["lr_scale"] for group in groups for p in group["params"]}
    assert scale["parts.rotation.head.weight"] == 1
    assert {value for name, value in scale.items() if name.startswith("parts.mae.decoder.")} == {1}
    within = {name: value for name, value in scale.items() if name.startswith("encoder.")}
    assert min(within.values()) == 0.5**3  # below two blocks and what comes after them
    assert len(set(within.values())) == 4


class StopAt(Observer):
    """Sends this process a signal after an update."""

    def __init__(self, update: int) -> None:
        self.update = update

    def log(self, progress, metrics) -> None:  # type: ignore[no-untyped-def]
        if progress.total_step == self.update:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_resumed_run_ends_bit_identical(tmp_path: Path, catalog: Catalog) -> None:
    chosen = recipe(catalog, settings=["task.combine=pareto", "save_every=2"])
    dataset = build.build_dataset(chosen.dataset, catalog).split("train")

    def once(folder: Path, *observers: Observer) -> dict[str, torch.Tensor]:
        task = build.build(chosen, catalog, CPU)
        folder.mkdir(exist_ok=True)
        loop.train(loop.Training(chosen, task, dataset, CPU, folder, list(observers)))
        return task.state_dict()

    whole = once(tmp_path / "whole")
    with pytest.raises(loop.Interrupted):
        once(tmp_path / "cut", StopAt(3))
    again = once(tmp_path / "cut")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.slow
def test_the_command_trains_evaluates_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--recipe", "tiny", "--encoder", "vision/vit", "--combine", "pareto", "--steps", 4, "--out", "new")
    settings = ("--set", "task.vision/mae.mask_ratio=0.5", "--set", "stages.0.weights.loss_rotation=2", "--workers", 0)
    answer = unlabel("train", BOTH, *words, *settings, "--no-evaluate")
    assert answer.code == 0, answer.err
    stored = json.loads((tmp_path / "new/recipe.json").read_text())
    assert "+".join(task["name"] for task in stored["tasks"]) == BOTH
    assert stored["tasks"][0]["mask_ratio"] == 0.5
    lines = [json.loads(line) for line in (tmp_path / "new/metrics.jsonl").read_text().splitlines()]
    line = next(line for line in lines if "loss" in line)
    assert {"loss", "loss_mae", "loss_rotation", "alpha_mae", "cosine_mae_rotation", "rotation.accuracy"} <= set(line)
    assert line["loss"] == pytest.approx(line["loss_mae"] + 2 * line["loss_rotation"], rel=1e-5)

    answer = unlabel("evaluate", "new", "knn", "--json")
    assert answer.code == 0, answer.err
    assert 0 <= json.loads(answer.out)["knn"]["accuracy"] <= 1
    answer = unlabel("export", "new", "--out", "out", "--no-check")
    assert answer.code == 0, answer.err
    names = load_file(tmp_path / "out/encoder.safetensors")
    assert not any("rotation" in name or "decoder" in name for name in names)
    answer = unlabel("resume", "new", "--no-evaluate")
    assert "complete after update 4" in answer.err


def test_names_of_several_tasks_are_no_components(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BOTH not in unlabel("list", "tasks").out
    answer = unlabel("show", BOTH)
    assert answer.code == 2
    assert "nothing installed is called" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"the tiny recipes of its parts differ .*choose one, e\.g\. --encoder vision/vit"),
        (("--encoder", "vision/resnet"), "vision/mae, a part of"),
        (("--encoder", "vision/vit", "--combine", "mean"), "combination.how: .*'sum' or 'pareto'"),
        (("--encoder", "vision/vit", "--set", "task.vision/rotation.turns=3"), "vision/rotation has no keyword"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    answer = unlabel("train", BOTH, "--recipe", "tiny", "--steps", 1, "--out", tmp_path / "new", *words)
    assert answer.code == 2
    assert re.search(message, answer.err), answer.err
    assert not (tmp_path / "new").exists()


def test_a_single_task_has_nothing_to_combine(tmp_path: Path) -> None:
    answer = unlabel("train", "vision/mae", "--recipe", "tiny", "--combine", "pareto", "--out", tmp_path / "new")
    assert answer.code == 2
    assert "task.combine: vision/mae has no keyword 'combine'" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["sum", "pareto"])
def test_two_processes_end_where_one_does_with_the_same_weights(tmp_path: Path, combine: str) -> None:
    more = ("--encoder", "vision/vit", "--combine", combine, "--set", "log_every=1")
    one = train(BOTH, tmp_path / "one", 1, *more)
    two = train(BOTH, tmp_path / "two", 2, *more)
    assert largest_difference(one, two) < 1e-5  # float32 sums in another order, over 20 updates
    moved = max(float(np.abs(one[name]).max()) for name in one if name.endswith("head.weight"))
    assert moved > 0
    if combine == "pareto":
        lines = [
            [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
            for name in ("one", "two")
        ]
        alphas = [[line["alpha_mae"] for line in found if "alpha_mae" in line] for found in lines]
        assert alphas[0] == pytest.approx(alphas[1], abs=1e-4)
