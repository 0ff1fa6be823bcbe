"""unlabel: one trainer for self-supervised pretext tasks in every modality.

Public names are loaded when first used, so that ``import unlabel`` (and with it ``unlabel list``)
does not import torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Large tensors go on huge pages where Linux leaves that to programs: an update of a transformer on a CPU takes up to a
# tenth less. torch (2.2 and later) looks once, at its first tensor: this cannot wait until one is needed.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"

_HOME = {
    "BadSample": "unlabel.errors",
    "Batch": "unlabel.task",
    "Catalog": "unlabel.catalog.plugins",
    "Clip": "unlabel.show.media",
    "Dataset": "unlabel.data",
    "Draw": "unlabel.data",
    "Frozen": "unlabel.evaluate.features",
    "Mark": "unlabel.show.media",
    "Moved": "unlabel.catalog.deprecation",
    "Judging": "unlabel.recipe",
    "Observer": "unlabel.logs",
    "Picture": "unlabel.show.media",
    "Progress": "unlabel.task",
    "Recipe": "unlabel.recipe",
    "Ref": "unlabel.recipe",
    "Run": "unlabel.run",
    "Rows": "unlabel.task",
    "RunError": "unlabel.errors",
    "Sample": "unlabel.task",
    "Sound": "unlabel.show.media",
    "Stage": "unlabel.recipe",
    "Table": "unlabel.show.media",
    "Task": "unlabel.task",
    "Text": "unlabel.show.media",
    "UsageError": "unlabel.errors",
    "hookimpl": "unlabel.catalog.hookspecs",
    "load_encoder": "unlabel.export",
    "train": "unlabel.launch",
}

__all__ = sorted([*_HOME, "__version__"])

if TYPE_CHECKING:
    from unlabel.catalog.deprecation import Moved as Moved
    from unlabel.catalog.hookspecs import hookimpl as hookimpl
    from unlabel.catalog.plugins import Catalog as Catalog
    from unlabel.data import Dataset as Dataset
    from unlabel.data import Draw as Draw
    from unlabel.errors import BadSample as BadSample
    from unlabel.errors import RunError as RunError
    from unlabel.errors import UsageError as UsageError
    from unlabel.evaluate.features import Frozen as Frozen
    from unlabel.export import load_encoder as load_encoder
    from unlabel.launch import train as train
    from unlabel.logs import Observer as Observer
    from unlabel.recipe import Judging as Judging
    from unlabel.recipe import Recipe as Recipe
    from unlabel.recipe import Ref as Ref
    from unlabel.recipe import Stage as Stage
    from unlabel.run import Run as Run
    from unlabel.show.media import Clip as Clip
    from unlabel.show.media import Mark as Mark
    from unlabel.show.media import Picture as Picture
    from unlabel.show.media import Sound as Sound
    from unlabel.show.media import Table as Table
    from unlabel.show.media import Text as Text
    from unlabel.task import Batch as Batch
    from unlabel.task import Progress as Progress
    from unlabel.task import Rows as Rows
    from unlabel.task import Sample as Sample
    from unlabel.task import Task as Task


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unlabel' has no attribute {name!r}")
    from importlib import import_module

    from unlabel.catalog.importing import uncollected

    with uncollected():
        value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
