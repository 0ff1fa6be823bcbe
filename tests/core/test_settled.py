"""What a task found out when it was built stands in the run's recipe and results, and comes back with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from echo import Echo, Linear

from unlabel import Catalog, Recipe, Ref, Run, Stage, UsageError, launch
from unlabel.catalog.plugins import Offer, Plugin
from unlabel.recipe import Execution


class Settling(Echo):
    """An echo that depends on something outside.

    Args:
        encoder: linear layer.
        outside: the file it depends on.
        found: what must be in it.
    """

    def __init__(self, encoder: Linear, *, outside: str, found: str | None = None):
        super().__init__(encoder)
        self.content = Path(outside).read_text(encoding="utf-8")
        if found not in (None, self.content):
            raise UsageError(f"{outside} holds {self.content}, not {found}")

    def provenance(self) -> dict[str, Any]:
        return {"found": self.content}


OFFERS = [
    Offer("tasks", "test/settling", "test_settled:Settling", "test"),
    Offer("tasks", "test/echo", "echo:Echo", "test"),
    Offer("encoders", "test/linear", "echo:Linear", "test"),
    Offer("datasets", "test/noises", "echo:Noises", "test"),
]
CATALOG = Catalog([Plugin("test", "unlabel-test", "0", OFFERS)])


def recipe(name: str, **options: Any) -> Recipe:
    here = Execution(device="cpu", precision="fp32", workers=0)
    stages = [Stage(steps=2, batch_size=8)]
    task = Ref(name, **options)
    return Recipe(
        task=task, encoder=Ref("test/linear"), dataset=Ref("test/noises"), stages=stages, save_every=1, execution=here
    )


def test_what_was_settled_is_recorded_and_asked_for_again(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("first")
    chosen = recipe("test/settling", outside=str(outside))
    done = launch.train(chosen, out=tmp_path / "run", catalog=CATALOG, evaluate=False)
    assert done.recipe.task.options == {"outside": str(outside), "found": "first"}
    assert done.evaluations["settled"] == {"found": "first"}

    outside.write_text("second")
    with pytest.raises(UsageError, match="holds second, not first"):
        Run(tmp_path / "run", CATALOG).task()
    with pytest.raises(UsageError, match="holds second, not first"):
        launch.train(done.recipe, out=tmp_path / "again", catalog=CATALOG, evaluate=False)
    assert not (tmp_path / "again").exists()


def test_each_of_several_tasks_settles_its_own(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("first")
    options = {"test/echo": {"dropout": 0.1}, "test/settling": {"outside": str(outside)}}
    done = launch.train(
        recipe("test/echo+test/settling", **options), out=tmp_path / "run", catalog=CATALOG, evaluate=False
    )
    echo, settling = done.recipe.tasks
    assert echo == Ref("test/echo", dropout=0.1)
    assert settling == Ref("test/settling", outside=str(outside), found="first")
    assert done.evaluations["settled"] == {"settling.found": "first"}


def test_a_task_that_settles_nothing_records_nothing(tmp_path: Path) -> None:
    done = launch.train(recipe("test/echo"), out=tmp_path / "run", catalog=CATALOG, evaluate=False)
    assert done.recipe.task.options == {}
    assert "settled" not in done.evaluations
