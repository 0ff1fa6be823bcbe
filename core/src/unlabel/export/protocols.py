"""What an encoder may offer to be exported in its own ecosystem's form, and to start from weights made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

__all__ = ["Example", "Exportable", "Formatted", "Preprocessed", "Published", "Transforming", "Tried", "Written"]

Example: TypeAlias = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
"""An input of an encoder: its only argument, several in their order, or by keyword; the batch first in each."""


@runtime_checkable
class Tried(Protocol):
    """What an encoder offers to be traced, and to be tried after it was loaded back."""

    def example(self, count: int) -> Example:
        """An input of `count` samples, always the same: floats, or int64 where it takes tokens."""


@runtime_checkable
class Exportable(Protocol):
    """What an encoder offers to be loadable without `unlabel`."""

    def exported(self) -> dict[str, Tensor]:
        """Its weights under the names they have in its own ecosystem; the tensors themselves, not copies."""

    def loading_code(self, file: str) -> str:
        """Python that leaves ``model``, in evaluation mode, with the weights of `file`; imports no `unlabel`."""

    def example(self, count: int) -> Example:
        """See `Tried`."""

    def usage(self) -> str:
        """What goes in and comes out, for the README: shapes, normalisation."""


@runtime_checkable
class Written(Protocol):
    """What an encoder offers that has files of its own besides weights (a configuration, a tokenizer)."""

    def write(self, folder: Path) -> str:
        """Write them and the weights into `folder`; returns what `Exportable.loading_code` does.

        The snippet runs in that folder. ``model`` may be any callable that gives the encoder's features.
        """


@runtime_checkable
class Formatted(Protocol):
    """What an encoder offers that has further formats."""

    def formats(self) -> Mapping[str, Callable[[Path], str]]:
        """Name for ``--format`` -> what `Written.write` does."""


@runtime_checkable
class Preprocessed(Protocol):
    """What an encoder, or a task's `eval_transform`, offers that knows how inputs are made."""

    def preprocessing(self) -> Mapping[str, Any]:
        """Size, normalisation, interpolation, rate, names of tokenizer files and the like, in JSON's types.

        Of a task with several encoders, a transform says it by the encoder's name. An asset of the run is named by its
        place in an export, ``assets/OWNER/NAME``, and comes to lie there beside the encoder.
        """


@runtime_checkable
class Transforming(Protocol):
    """What an encoder offers whose ecosystem makes inputs itself."""

    def preprocessing_code(self, file: str) -> str:
        """Python that leaves ``transform``, made of the JSON `file` that `preprocessing` became."""


@runtime_checkable
class Published(Protocol):
    """What an encoder offers to start from weights published elsewhere."""

    def published(self, scheme: str, name: str) -> dict[str, Tensor]:
        """Weights called `name` in a library called `scheme`, under that library's names (may download)."""

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights fitted to this encoder's sizes where that is usual (position tables)."""
