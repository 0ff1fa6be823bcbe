"""What trials of all kinds have in common: a name, an object, a folder to write to, and the tasks beside it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from unlabel import build, describe, signature
from unlabel.catalog.plugins import Catalog, Offer
from unlabel.data import Dataset
from unlabel.errors import UsageError
from unlabel.logs import Observer
from unlabel.recipe import Ref
from unlabel.task import Task
from unlabel.testing.checks.promise import NotApplicable

if TYPE_CHECKING:
    from unlabel.testing.task_trial import TaskTrial

__all__ = ["Component"]


class Component:
    """Something a plugin offers by name.

    Attributes:
        plugin: name of the plugin. offer: name and place. catalog: what is installed.
        trial_of: (plugin, kind, name, catalog) -> the trial of another component.
    """

    def __init__(self, plugin: str, offer: Offer, catalog: Catalog, trial_of: Callable[[str, str, str, Catalog], Any]):
        self.plugin, self.offer, self.catalog, self.trial_of = plugin, offer, catalog, trial_of

    @property
    def name(self) -> str:
        """Its name in the catalog."""
        return self.offer.name

    @property
    def kind(self) -> str:
        """The hook that offers it."""
        return self.offer.kind

    @cached_property
    def target(self) -> Any:
        """The class or function itself."""
        return self.offer.load()

    @property
    def document(self) -> str:
        """Its own docstring, not an inherited one; a task's is its module's."""
        if self.kind == "tasks":
            return inspect.getdoc(self.offer.module()) or ""
        found = vars(self.target).get("__doc__") if inspect.isclass(self.target) else self.target.__doc__
        return inspect.cleandoc(found or "")

    def room(self) -> Path:
        """A new folder, empty."""
        return Path(tempfile.mkdtemp(prefix=f"{self.name.replace('/', '-')}-", dir=_place()))

    def misfit(self) -> str:
        """Why the object is not of its kind; empty if it is."""
        wanted: dict[str, type] = {"tasks": Task, "datasets": Dataset, "optimizers": Optimizer, "observers": Observer}
        expected = wanted.get(self.kind)
        if expected and not (inspect.isclass(self.target) and issubclass(self.target, expected)):
            return f"{self.offer.target} is no subclass of {_public(expected)}, which {self.kind} are"
        if not callable(self.target):
            return f"{self.offer.target} is a {type(self.target).__name__}: a class or function is expected"
        made = signature.made_by(self.target)
        if self.kind == "encoders" and made is not None and not issubclass(made, nn.Module):
            return f"{self.offer.target} makes a {made.__name__}: encoders are torch modules"
        return ""

    def prepared(self, ref: Ref) -> Dataset:
        """A dataset as a run has it before it asks anything of it."""
        dataset = build.build_dataset(ref, self.catalog)
        dataset.prepare()
        return dataset

    def undocumented(self) -> list[str]:
        """What is missing in the description of the keywords."""
        problems = []
        for entry in describe.component(self.offer, self.catalog)["keywords"]:
            if entry["type"] == "any":
                problems.append(f"keyword {entry['name']!r} has no type: annotate it")
            if not entry["meaning"]:
                problems.append(f"keyword {entry['name']!r} has no meaning: give it a line under 'Args:'")
            if self.kind == "tasks" and entry["required"]:
                problems.append(f"keyword {entry['name']!r} has no default: give it the paper's value")
        if self.kind == "tasks":
            parts = signature.encoder_parts(self.target)
            parameters = inspect.signature(self.target).parameters.values()
            positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in parts]
            if positional:
                problems.append(f"{', '.join(positional)} can be given by position: put '*,' after the encoders")
        return problems

    def tasks(self) -> Iterator[TaskTrial]:
        """The plugin's tasks that have a `tiny` recipe."""
        for offer in self.catalog.offers("tasks"):
            if offer.plugin == self.plugin:
                trial: TaskTrial = self.trial_of(self.plugin, "tasks", offer.name, self.catalog)
                with contextlib.suppress(NotApplicable, UsageError):
                    trial.recipe  # noqa: B018  # asked for, to see whether there is one
                    yield trial

    def chosen_ref(self, role: str) -> Ref:
        """The component with the keywords of a `tiny` recipe that uses it, or with its defaults."""
        for trial in self.tasks():
            recipe = trial.fitted
            for ref in recipe.encoders.values() if role == "encoder" else [recipe.dataset]:
                if ref.name == self.name:
                    return ref
        needed = signature.required(self.target)
        if needed:
            raise NotApplicable(f"no tiny recipe uses it, and its {', '.join(needed)} only a user knows")
        return Ref(self.name)


def _public(kind: type) -> str:
    """Where a plugin's author knows a class from."""
    return f"torch.optim.{kind.__name__}" if kind is Optimizer else f"unlabel.{kind.__name__}"


@functools.cache
def _place() -> Path:
    """A folder for everything that trials write; gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="unlabel-contract-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
