"""What a plugin says about its files, so that everything that finds and reads them can be shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ArrayForm", "ColumnForm", "Kind", "always"]


def always(kind: Any) -> bool:
    """Any shape or type will do."""
    return True


@dataclass(frozen=True)
class ArrayForm:
    """How samples lie in the arrays of an ``.npz``: stacked in one, or as files one after another, with offsets.

    Attributes:
        stacked: names of arrays of stacked samples, best first; a part's name may stand beside, as in ``x_test``.
        files: names of arrays of the bytes of files.
        expected: what is understood, for messages.
        fits: whether an array of this shape, (N, ...), holds samples.
        dtype: the type that stacked samples must have; None for any.
        values: what these values are, for messages: ``"uint8 from 0 to 255"``.
    """

    stacked: tuple[str, ...]
    files: tuple[str, ...]
    expected: str
    fits: Callable[[tuple[int, ...]], bool] = always
    dtype: np.dtype[Any] | None = None
    values: str = ""


@dataclass(frozen=True)
class ColumnForm:
    """Which columns of a Parquet or Arrow file hold samples.

    Attributes:
        usable: whether a column of this Arrow type can; see `columns.holds_files` and `columns.nesting`.
        expected: what is understood, for messages.
        extra: what to install where pyarrow is missing.
    """

    usable: Callable[[Any], bool]
    expected: str
    extra: str = "unlabel[parquet]"


@dataclass(frozen=True)
class Kind:
    """Which files are a plugin's own, and what they are called in messages.

    Attributes:
        one, many: what a sample is called, such as ``"recording"`` and ``"recordings"``.
        endings: of file names, in small letters, with the dot.
        examples: the usual ones, for messages: ``".wav, .flac or .mp3"``.
        recognises: whether a file without an ending is one, by its first 32 bytes; None: such files are none.
        arrays: how they lie in ``.npz`` files; None: these are none.
        columns: which columns of Parquet and Arrow files hold them; None: these are none.
    """

    one: str
    many: str
    endings: frozenset[str]
    examples: str
    recognises: Callable[[bytes], bool] | None = None
    arrays: ArrayForm | None = None
    columns: ColumnForm | None = None
