"""Tar shards of samples, read at random positions and without unpacking.

Members of one sample share a key, the path up to the first dot of the file name: ``0001.txt``, ``0001.cls``,
``0001.json``. The positions of all samples are listed once per shard and kept in the cache, so that opening thousands
of shards again takes no time; a shard that changed in size or time is listed anew.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unlabel.data.sources import folders, layout
from unlabel.data.sources.archives import tar_members
from unlabel.data.sources.kind import Kind
from unlabel.data.sources.listing import Listing
from unlabel.data.sources.names import Names, ending, is_hidden, printable
from unlabel.data.sources.reading import Handles
from unlabel.errors import UsageError
from unlabel.storage import cache

__all__ = ["Shard", "TarMembers", "claims", "expand", "find", "index_shard"]

_MOST = 1_000_000  # shards that a pattern may stand for
_LARGEST_LABEL = 2**24  # bytes of a .cls or .json that is read for a label
_VERSION = "2"  # of what is kept of a shard


class TarMembers:
    """A source: members of tar shards, in the order of the shards and of their members."""

    def __init__(self, paths: list[str], shards: list[Shard]):
        self.paths = paths
        counts = [len(shard.offsets) for shard in shards]
        self.shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        self.offsets = np.concatenate([shard.offsets for shard in shards])
        self.lengths = np.concatenate([shard.lengths for shard in shards])
        self.names = Names([name for shard in shards for name in shard.names])
        self.handles = Handles()

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, index: int) -> str:
        return printable(f"{self.paths[self.shard_of[index]]}/{self.names[index]}")

    def read(self, index: int) -> bytes:
        path = self.paths[self.shard_of[index]]
        return self.handles.read(path, int(self.offsets[index]), int(self.lengths[index]))

    def prepare(self) -> None:
        """Nothing has to be: shards are listed when they are opened."""


def find(path: str | Path, kind: Kind) -> Listing:
    """The samples of one kind in the shards that a path or a pattern stands for.

    Labels come from ``.cls`` (a number or a word) or the ``"label"`` of ``.json``, if every sample has one.
    Shards named, or lying in folders named, train, val, test are parts.

    Raises:
        UsageError: a shard is missing, compressed or damaged, or none holds a sample.
    """
    paths = [str(shard) for shard in expand(path)]
    shards = [index_shard(Path(shard), kind) for shard in paths]
    counts = [len(shard.offsets) for shard in shards]
    others = _sum(shard.others for shard in shards)
    if not sum(counts):
        there = ", ".join(list(others)[:5]) or "nothing"
        raise UsageError(f"no {kind.many} in the {len(shards)} tar files of {path}: they hold {there}")
    labels, classes = _classes([label for shard in shards for label in shard.labels])
    root = os.path.commonpath([os.path.dirname(shard) for shard in paths])
    numbers = [layout.part_in(os.path.relpath(shard, root)) for shard in paths]
    divided = 0 in numbers and any(numbers) and None not in numbers
    return Listing(
        "shards",
        TarMembers(paths, shards),
        labels,
        classes,
        np.repeat(np.array([number or 0 for number in numbers], np.uint8), counts) if divided else None,
        dict(Counter(ending(name) for shard in shards for name in shard.names).most_common()),
        others,
        () if labels is not None else _why_unlabelled(shards),
    )


def claims(path: Path, kind: Kind) -> bool:
    """Whether it is a ``.tar``, a pattern of them, or a folder of them, the first of which begins with samples."""
    try:
        with tarfile.open(expand(path)[0], "r:") as archive:
            members = itertools.islice((member.name for member in archive if member.isfile()), 100)
            return any(_is_sample(member, kind) for member in members)
    except (UsageError, OSError, tarfile.TarError):
        return False


def expand(path: str | Path) -> list[Path]:
    """The shards that a path stands for, in the order of their names.

    Args:
        path: a ``.tar``, a folder of them, or a pattern such as ``shards/train-{000..146}.tar`` or ``{a,b}.tar``.

    Raises:
        UsageError: one is missing, it is none on this computer, or the pattern stands for none, or for too many.
    """
    text = os.path.expanduser(str(path))
    if re.match(r"[a-z0-9]+:/|pipe:", text):  # a Path turns http:// into http:/
        raise UsageError(f"{text}: shards are read from local files only; copy them here first")
    shards = [Path(name) for name in itertools.islice(_alternatives(text), _MOST + 1)]
    if not shards or len(shards) > _MOST:
        count = f"more than {_MOST:,} shards" if shards else "no shard"
        raise UsageError(f"{text} stands for {count}: expected the first and the last number, as in {{000..146}}")
    if len(shards) > 1 or "{" in text:
        absent = [str(shard) for shard in shards if not shard.is_file()]
        if absent:
            raise UsageError(
                f"{len(absent)} of the {len(shards)} shards of {text} do not exist; the first: {absent[0]}"
            )
        return shards
    where = shards[0]
    if not where.exists():
        folders.missing(where)
    if where.is_file():
        return [where]
    below = sorted(entry for entry in where.rglob("*.tar") if not is_hidden(entry.name))
    if not below:
        raise UsageError(f"no .tar files in {where}")
    return below


def _alternatives(text: str) -> Iterator[str]:
    """Expand the braces of a shell pattern: ``{000..003}`` keeps leading zeros, ``{a,b}`` lists."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        yield text
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    choices: Iterable[str] = match[1].split(",")
    if numbers:
        first, last = numbers.groups()
        choices = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    for choice in choices:
        yield from _alternatives(text[: match.start()] + choice + text[match.end() :])


@dataclass
class Shard:
    """The N samples of one tar file.

    Attributes:
        names: of the members.
        offsets, lengths: int64, (N,): where their bytes lie.
        labels: as text, ``""`` where there is none.
        others: endings of the members that are something else, with their number.
    """

    names: list[str]
    offsets: np.ndarray
    lengths: np.ndarray
    labels: list[str]
    others: dict[str, int]


def index_shard(path: Path, kind: Kind) -> Shard:
    """List a shard, or look up its list if the shard has not changed since; UsageError if it is no intact tar."""
    key = cache.of_file(path, _VERSION, *sorted(kind.endings))
    return cache.get(
        cache.entry("shards", key, ".json"),
        read=_from_json,
        make=lambda: _listed(path, kind),
        write=lambda shard, aside: aside.write_text(_to_json(shard), encoding="utf-8"),
    )


def _to_json(shard: Shard) -> str:
    return json.dumps(vars(shard) | {"offsets": shard.offsets.tolist(), "lengths": shard.lengths.tolist()})


def _from_json(path: Path) -> Shard:
    content = json.loads(path.read_bytes())
    offsets, lengths = (np.array(content[name], np.int64) for name in ("offsets", "lengths"))
    return Shard(content["names"], offsets, lengths, content["labels"], content["others"])


def _listed(path: Path, kind: Kind) -> Shard:
    samples: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    others: Counter[str] = Counter()
    with open(path, "rb") as file:
        for name, offset, length in tar_members(path, file):
            stem, _, suffix = os.path.basename(name).partition(".")
            key = os.path.join(os.path.dirname(name), stem)
            if _is_sample(name, kind):
                samples.setdefault(key, (name, offset, length))  # the first of its kind counts
                continue
            suffix = suffix.lower()
            others[f".{suffix}"] += 1
            if suffix in ("cls", "json") and length <= _LARGEST_LABEL:
                label = _label(suffix, os.pread(file.fileno(), length, offset))
                if label:
                    labels[key] = label
    names, offsets, lengths = zip(*samples.values(), strict=True) if samples else ((), (), ())
    return Shard(
        list(names),
        np.array(offsets, np.int64),
        np.array(lengths, np.int64),
        [labels.get(key, "") for key in samples],
        dict(others),
    )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts of several shards together, commonest first."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common())


def _is_sample(name: str, kind: Kind) -> bool:
    base = os.path.basename(name)
    return not base.startswith(".") and ending(base) in kind.endings


def _label(suffix: str, content: bytes) -> str:
    """The label in a ``.cls`` or ``.json`` member as text, or ``""``."""
    try:
        if suffix == "cls":
            return content.decode().strip()
        value = json.loads(content)
        label = value.get("label", "") if isinstance(value, dict) else ""
        return str(label) if isinstance(label, str | int) else ""
    except (ValueError, RecursionError):
        return ""


def _classes(labels: list[str]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Class numbers and names; None and None unless every sample has a label and there are two kinds.

    Labels that are all numbers are ordered as numbers.
    """
    names = set(labels)
    if "" in names or len(names) < 2:
        return None, None
    ordered = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    index = {name: number for number, name in enumerate(ordered)}
    return np.array([index[name] for name in labels], np.int64), tuple(ordered)


def _why_unlabelled(shards: list[Shard]) -> tuple[str, ...]:
    labelled = sum(bool(label) for shard in shards for label in shard.labels)
    total = sum(len(shard.labels) for shard in shards)
    return (f"only {labelled} of {total} samples have a label, so none is used",) if 0 < labelled < total else ()
