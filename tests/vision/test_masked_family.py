"""What every masked or positional method does besides its own: half precision, compiling, pictures, numbers.

Exact resuming and two processes are checks of the contract (`tests/vision/test_contract.py`), for every task.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabel import Catalog, Recipe, build, compose, data, optim, seeds
from unlabel.engine import Engine
from unlabel.task import Batch, Task
from unlabel.testing.processes import pair

NUMBERS = {
    "vision/mae": {"loss"},
    "vision/colormae": {"loss"},
    "vision/crate_mae": {"loss"} | {f"{name}_{n}" for name in ("compression", "rate", "sparsity") for n in (1, 2)},
    "vision/croco": {"loss", "error_other", "error_none"},
    "vision/droppos": {"loss", "accuracy", "accuracy_attentive"},
    "vision/eva": {"loss", "cosine", "constant", "target_std", "hidden"},
    "vision/gmml": {"loss", "corrupted", "alien"},
    "vision/mixedae": {"loss_reconstruction", "loss_contrast", "contrast_excess"}
    | {"homologous", "homologous_1", "homologous_2"},
    "vision/mp3": {"loss", "accuracy", "accuracy_context", "accuracy_masked"},
}
"""What each logs at every update."""

SHOWN = {name: {"reconstruction", "attention", "tokens"} for name in NUMBERS} | {
    "vision/croco": {"reconstruction", "attention"},
    "vision/droppos": {"positions", "attention", "tokens"},
    "vision/eva": {"features"},  # with attention among its columns
    "vision/mp3": {"positions", "attention", "tokens"},
}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """A cache of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@functools.cache
def catalog() -> Catalog:
    return Catalog.installed()


@functools.cache
def recipe(name: str) -> Recipe:
    return compose.compose(name, catalog(), name="tiny", batch_size=8)


@functools.cache
def samples(name: str) -> data.Dataset:
    part = build.build_dataset(recipe(name).dataset, catalog()).split("train")
    assert part is not None
    return part


def made(name: str, engine: Engine) -> Task:
    task = build.build(recipe(name), catalog(), engine)
    return task.train()


def batch(name: str, task: Task, engine: Engine, number: int = 0) -> Batch:
    stage = recipe(name).stages[0].resolved(len(samples(name)))
    stream = data.batches(samples(name), stage, engine, seed=0, transform=task.transform(), start=number)
    return next(stream)[0]


def update(name: str, task: Task, engine: Engine, count: int = 2) -> list[dict[str, float]]:
    """Some ordinary updates; what they log."""
    stage = recipe(name).stages[0].resolved(len(samples(name)))
    optimizers, logged = task.optimizers(stage), []
    for step in range(count):
        seeds.seed(0, 0, step, engine.rank)
        optim.set_lr(optimizers, stage, step)
        found = task.training_step([batch(name, task, engine, step)], optimizers, engine, stage)
        logged.append({key: float(value) for key, value in found.items()})
    return logged


@pytest.mark.parametrize("name", NUMBERS)
def test_half_precision_learns_what_full_precision_does_and_logs_all_numbers(name: str) -> None:
    full, half = Engine("cpu", "fp32"), Engine("cpu", "bf16")
    tasks = made(name, full), made(name, half)
    expected, ours = (update(name, task, engine) for task, engine in zip(tasks, (full, half), strict=True))
    for one, other in zip(expected, ours, strict=True):
        assert one.keys() == other.keys() == NUMBERS[name] | {"gradient_norm"}
        assert all(math.isfinite(value) for value in other.values())
        for key in one:
            if key.startswith("loss"):
                assert other[key] == pytest.approx(one[key], rel=0.02)  # bf16 has 8 bits
    for parameter, twin in zip(tasks[1].parameters(), tasks[0].parameters(), strict=True):
        assert parameter.dtype == torch.float32
        assert torch.isfinite(parameter).all()
        assert parameter.requires_grad == twin.requires_grad
    start = made(name, full)
    moved = [not torch.equal(a, b) for a, b in zip(tasks[1].parameters(), start.parameters(), strict=True)]
    assert moved == [parameter.requires_grad for parameter in start.parameters()]


def compiled(name: str) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    plain, fast = Engine("cpu", "fp32"), Engine("cpu", "fp32", compile=True)
    return update(name, made(name, plain), plain), update(name, made(name, fast), fast)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", NUMBERS)
def test_traced_for_the_compiler_it_learns_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward graphs are captured and run, without the minutes of generating code."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    expected, ours = compiled(name)
    assert expected[1]["gradient_norm"] != expected[0]["gradient_norm"]
    for one, other in zip(expected, ours, strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)  # float32 in another order


def sharded(name: str) -> list[float]:
    """Norms of whole gradients in one of two processes, each of which holds half of the parameters."""
    engine = Engine("cpu", "fp32", shard=True)
    return [numbers["gradient_norm"] for numbers in update(name, made(name, engine), engine)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_sharded_parameters_are_there_where_a_method_reaches_for_them(name: str) -> None:
    """Methods call parts of the encoder by themselves; with replaced attention, parts of its blocks too."""
    two = pair()(sharded, name)
    assert two[0] == two[1]
    engine = Engine("cpu", "fp32")
    task = made(name, engine)
    if task.gathers:
        one = [numbers["gradient_norm"] for numbers in update(name, task, engine)]
        assert two[0] == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("name", NUMBERS)
def test_pictures_show_the_task_and_where_the_encoder_looks(name: str) -> None:
    engine = Engine("cpu", "fp32")
    task = made(name, engine)
    given = batch(name, task, engine)
    with torch.no_grad():
        first, again = task.show(given), task.show(given)
    assert set(first) == SHOWN[name]
    for key, picture in first.items():
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert picture.std() > 10  # not one colour
        if name != "vision/gmml":  # its noise comes from the generator
            assert np.array_equal(picture, again[key])
        assert picture.shape[0] == 8 * 34 - 2  # a row for each image


def test_every_method_on_patches_is_here() -> None:
    source = Path(__file__).parents[2] / "plugins/vision/src/unlabel_vision/tasks"
    texts = {path.stem: path.read_text(encoding="utf-8") for path in source.glob("*.py") if path.name != "__init__.py"}
    texts |= {path.parent.name: path.read_text(encoding="utf-8") for path in source.glob("*/__init__.py")}
    assert {f"vision/{name}" for name, text in texts.items() if "(PatchTask)" in text} == set(NUMBERS)
