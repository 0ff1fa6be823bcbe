"""Numbers out of the Python-2 pickles of Planetoid, without unpickling them.

A pickle is a program, and unpickling runs it. The few files worth reading all the same hold NumPy arrays, SciPy
matrices in compressed rows, and dictionaries of lists. This module reads their instructions as data (`pickletools`
only splits them) and follows the two dozen that such files need. Nothing a file names is imported or called: a name
outside a fixed list of containers is refused, and so is every instruction that such a file does not need.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from unlabel.errors import UsageError

__all__ = ["read"]

_ARRAY = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_MATRIX = {"scipy.sparse.csr csr_matrix", "scipy.sparse._csr csr_matrix"}
_BYTES = "_codecs encode"  # how Python 3 writes bytes so that Python 2 can read them
_NAMES = {*_ARRAY, *_MATRIX, _BYTES, "numpy ndarray", "numpy dtype", "collections defaultdict", "__builtin__ list"}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING", "BINUNICODE"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass
class _Named:
    """A name in the file, looked at and never resolved; later what was made with it."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


def read(path: Path) -> Any:
    """The content of a file: an array, a SciPy CSR array, or a dictionary of lists of integers.

    Raises:
        UsageError: the file holds anything else, or is damaged; nothing in it was run.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for instruction, argument, _ in pickletools.genops(path.read_bytes()):
            _follow(instruction.name, argument, stack, memo)
        [content] = stack
        return _plain(content)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except _Refused as error:
        raise UsageError(f"{path} {error}; pickled files can run code, so it was not loaded") from error
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged, or no pickled array: {error}; nothing in it was run") from error


class _Refused(Exception):
    """The file wants more than numbers."""


def _follow(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """One instruction of the file."""
    if name in _VALUES:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("EMPTY_DICT", "EMPTY_LIST"):
        stack.append({} if name == "EMPTY_DICT" else [])
    elif name in _TUPLES:
        count = len(stack) - _TUPLES[name]
        stack[count:] = [tuple(stack[count:])]
    elif name == "TUPLE":
        stack.append(tuple(_marked(stack)))
    elif name in ("APPEND", "APPENDS"):
        items = _marked(stack) if name == "APPENDS" else [stack.pop()]
        stack[-1].extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = _marked(stack) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
    elif name == "GLOBAL":
        if argument not in _NAMES:
            raise _Refused(f"asks for {argument.replace(' ', '.')}, which holds no numbers")
        stack.append(_Named(argument))
    elif name in ("REDUCE", "NEWOBJ"):
        arguments, made = stack.pop(), stack.pop()
        stack.append(_made(made.name, arguments))
    elif name == "BUILD":
        state = stack.pop()
        stack[-1].state = state
    elif name not in ("PROTO", "STOP"):
        raise _Refused(f"has the instruction {name}, which arrays do not need")


def _made(name: str, arguments: tuple[Any, ...]) -> Any:
    """What calling a name would make: a dictionary, a text of bytes, or something still to be filled in."""
    if name == "collections defaultdict":
        return {}
    return arguments[0] if name == _BYTES else _Named(name, arguments)


def _marked(stack: list[Any]) -> list[Any]:
    """Take off the stack what lies above the last mark."""
    place = max(number for number, item in enumerate(stack) if item is _MARK)
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _plain(content: Any) -> Any:
    """What was described, as NumPy and SciPy have it."""
    if not isinstance(content, _Named):
        return content
    if content.name in _MATRIX:
        state = content.state
        parts = tuple(_plain(state[name]) for name in ("data", "indices", "indptr"))
        return sparse.csr_array(parts, shape=tuple(state["_shape" if "_shape" in state else "shape"]))
    if content.name in _ARRAY:
        _, shape, kind, by_columns, data = content.state
        dtype = np.dtype(kind.arguments[0]).newbyteorder(kind.state[1])
        if dtype.kind not in "biuf":
            raise _Refused(f"holds an array of {dtype}, not of numbers")
        array = np.frombuffer(data.encode("latin-1"), dtype=dtype)
        return array.reshape(shape, order="F" if by_columns else "C").astype(dtype.newbyteorder("="))
    raise ValueError(f"{content.name} where an array was expected")
