"""What an update leaves behind: nothing. Counted, not measured, with the garbage collector off."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from unlabel import Catalog, build, compose, seeds
from unlabel.engine import Engine
from unlabel_graph import agreement
from unlabel_graph.graph import Nodes

CATALOG = Catalog.installed()
TASKS = sorted(name for name in CATALOG.names("tasks") if name.startswith("graph/"))
ENCODERS = sorted(name for name in CATALOG.names("encoders") if name.startswith("graph/"))


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free memory: a cycle would keep its tensors."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tensors() -> int:
    """How many there are of those made since the collector was turned off."""
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects(generation=0))


def after_updates(task_name: str, encoder: str | None = None) -> list[int]:
    """Tensors alive after each of some updates of a tiny recipe, the first ones left out."""
    chosen = compose.compose(task_name, CATALOG, name="tiny", encoder=encoder)
    dataset = build.build_dataset(chosen.dataset, CATALOG)
    assert isinstance(dataset, Nodes)
    engine = Engine("cpu", "fp32")
    task = build.build(build.with_data(chosen, dataset.implies(), CATALOG), CATALOG, engine)
    stage = chosen.stages[0].resolved(len(dataset))
    task.train().enter_stage(stage)
    optimizers, found = task.optimizers(stage), []
    batch = {**dataset.context(), "node": torch.arange(len(dataset))}
    for update in range(6):
        seeds.seed(0, update)
        task.training_step([batch], optimizers, engine, stage)
        found.append(tensors())
    return found[2:]  # moments of the optimizer and what is made once for a graph come with the first


SOME = ("graph/grace", "graph/supervised")  # of each base class one


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in TASKS]
)
def test_no_update_of_a_task_leaves_tensors_behind(name: str, no_collector: None) -> None:
    assert len(set(after_updates(name))) == 1


@pytest.mark.parametrize("name", ENCODERS)
def test_no_update_of_an_encoder_leaves_tensors_behind(name: str, no_collector: None) -> None:
    assert len(set(after_updates("graph/grace", name))) == 1


def test_contrast_in_pieces_leaves_no_tensors_behind(no_collector: None) -> None:
    left, right = (torch.randn(60, 8, requires_grad=True) for _ in range(2))
    found = []
    for _ in range(3):
        agreement.info_nce(left, right, 0.1, rows=16).mean().backward()
        found.append(tensors())
    assert len(set(found[1:])) == 1
