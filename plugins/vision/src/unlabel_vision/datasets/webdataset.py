"""WebDataset: images in tar shards, read at random positions and without unpacking.

A shard is a tar file whose members of one sample share a key, the path up to the first dot of the file
name: ``0001.jpg``, ``0001.cls``, ``0001.json``. The positions of all images are listed once per shard and
kept in the user's cache folder, so that opening thousands of shards again takes no time; a shard that
changed in size or time is listed anew.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unlabel.errors import UsageError
from unlabel_vision import images
from unlabel_vision.datasets import cache, folder, layout, sources
from unlabel_vision.datasets.stored import Stored

__all__ = ["WebDataset", "expand", "index_shard"]


class WebDataset(Stored):
    """Images of tar shards, in the order of shard names and of members.

    Labels come from ``.cls`` (a number or a word) or the ``"label"`` of ``.json``, if every sample has one.
    Shards named, or lying in folders named, train, val, test are parts.

    Args:
        path: a ``.tar``, a folder of them, or a pattern such as ``shards/train-{000..146}.tar`` or ``{a,b}.tar``.
        holdout: share of each class held out for testing where classes are known but no test shards exist.
        shortest: the short side that is needed; larger JPEGs are decoded at 1/2, 1/4 or 1/8 size, much faster.
        min_size: images with a shorter short side are set aside as bad samples.
        max_pixels: images of more pixels are set aside as bad samples, before they are decoded.

    Raises:
        UsageError: a shard is missing, compressed or damaged, or no shard holds an image.
    """

    kind = "webdataset"

    fallback = True

    def __init__(
        self,
        path: str | Path,
        *,
        holdout: float = 0.2,
        shortest: int | None = None,
        min_size: int = 8,
        max_pixels: int = images.MAX_PIXELS,
    ):
        self.shards = [str(shard) for shard in expand(path)]
        found = [index_shard(Path(shard)) for shard in self.shards]
        counts = [len(shard.offsets) for shard in found]
        if not sum(counts):
            listing = ", ".join(list(_sum(shard.others for shard in found))[:5]) or "nothing"
            raise UsageError(f"no images in the {len(found)} tar files of {path}: they hold {listing}")

        labels, classes = _classes([label for shard in found for label in shard.labels])
        root = os.path.commonpath([os.path.dirname(shard) for shard in self.shards])
        shard_parts = [layout.part_in(os.path.relpath(shard, root)) for shard in self.shards]
        divided = 0 in shard_parts and any(shard_parts) and None not in shard_parts
        parts = np.repeat(np.array([part or 0 for part in shard_parts], np.uint8), counts) if divided else None
        super().__init__(
            Path(path),
            labels=labels,
            classes=classes,
            parts=parts,
            holdout=holdout,
            shortest=shortest,
            min_size=min_size,
            max_pixels=max_pixels,
        )
        self.shard_of = np.repeat(np.arange(len(found), dtype=np.int32), counts)
        self.offsets = np.concatenate([shard.offsets for shard in found])
        self.lengths = np.concatenate([shard.lengths for shard in found])
        names = [name for shard in found for name in shard.names]
        self.names, self.handles = sources.Names(names), sources.Handles()
        self.formats = dict(Counter(os.path.splitext(name)[1].lower() for name in names).most_common())
        self.ignored = _sum(shard.others for shard in found)
        self.notes = () if labels is not None else _why_unlabelled(found)

    def __len__(self) -> int:
        return len(self.offsets)

    def read(self, index: int) -> bytes:
        shard = self.shards[self.shard_of[index]]
        return self.handles.read(shard, int(self.offsets[index]), int(self.lengths[index]))

    def name_of(self, index: int) -> str:
        return sources.printable(f"{self.shards[self.shard_of[index]]}/{self.names[index]}")

    @classmethod
    def claims(cls, path: Path) -> bool:
        """A ``.tar``, a pattern of them, or a folder of them, the first of which begins with samples with an image."""
        try:
            first = expand(path)[0]
            with tarfile.open(first, "r:") as archive:
                members = itertools.islice((member.name for member in archive if member.isfile()), 100)
                return any(_is_image(member) for member in members)
        except (UsageError, OSError, tarfile.TarError):
            return False


def expand(path: str | Path) -> list[Path]:
    """The shards that `path` stands for, in the order of their names; UsageError if one is missing."""
    text = os.path.expanduser(str(path))
    if re.match(r"[a-z0-9]+:/|pipe:", text):  # a Path turns http:// into http:/
        raise UsageError(f"{text}: shards are read from local files only; copy them here first")
    shards = [Path(name) for name in _alternatives(text)]
    if len(shards) > 1 or "{" in text:
        absent = [str(shard) for shard in shards if not shard.is_file()]
        if absent:
            raise UsageError(
                f"{len(absent)} of the {len(shards)} shards of {text} do not exist; the first: {absent[0]}"
            )
        return shards
    where = shards[0]
    if not where.exists():
        folder.missing(where)
    if where.is_file():
        return [where]
    found = sorted(entry for entry in where.rglob("*.tar") if not sources.is_hidden(entry.name))
    if not found:
        raise UsageError(f"no .tar files in {where}")
    return found


def _alternatives(text: str) -> Iterator[str]:
    """Expand the braces of a shell pattern: ``{000..003}`` keeps leading zeros, ``{a,b}`` lists."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        yield text
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = numbers.groups()
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = match[1].split(",")
    for choice in choices:
        yield from _alternatives(text[: match.start()] + choice + text[match.end() :])


@dataclass
class Shard:
    """The images of one tar file.

    Attributes:
        names: of the members.
        offsets, lengths: int64, (N,): where their bytes lie.
        labels: as text, ``""`` where there is none.
        others: endings of the members that are no image, with their number.
    """

    names: list[str]
    offsets: np.ndarray
    lengths: np.ndarray
    labels: list[str]
    others: dict[str, int]


def index_shard(path: Path) -> Shard:
    """List a shard, or look up its list if the shard has not changed since; UsageError if it is no intact tar."""
    cached = cache.place("webdataset", path, ".json")
    try:
        content = json.loads(cached.read_bytes())
        return Shard(
            content["names"],
            np.array(content["offsets"], np.int64),
            np.array(content["lengths"], np.int64),
            content["labels"],
            content["others"],
        )
    except (OSError, ValueError, KeyError):  # not listed yet, or not completely written
        shard = _list(path)
    _keep(shard, cached)
    return shard


def _keep(shard: Shard, cached: Path) -> None:
    """Write the list for the next time; a cache that cannot be written is done without."""
    content = vars(shard) | {"offsets": shard.offsets.tolist(), "lengths": shard.lengths.tolist()}
    with contextlib.suppress(OSError), cache.written(cached) as temporary:
        temporary.write_text(json.dumps(content))


def _list(path: Path) -> Shard:
    found: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    others: Counter[str] = Counter()
    with open(path, "rb") as file:
        for name, offset, length in _members(path, file):
            stem, _, ending = os.path.basename(name).partition(".")
            key = os.path.join(os.path.dirname(name), stem)
            if _is_image(name):
                found.setdefault(key, (name, offset, length))  # the first image of a sample counts
                continue
            others[f".{ending.lower()}"] += 1
            if ending.lower() in ("cls", "json"):
                label = _label(ending.lower(), os.pread(file.fileno(), length, offset))
                if label:
                    labels[key] = label
    names, offsets, lengths = zip(*found.values(), strict=True) if found else ((), (), ())
    return Shard(
        list(names),
        np.array(offsets, np.int64),
        np.array(lengths, np.int64),
        [labels.get(key, "") for key in found],
        dict(others),
    )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts of several shards together, commonest first."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common())


def _members(path: Path, file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the content, size) of the files in a tar; UsageError where it is damaged."""
    head = file.read(6)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise UsageError(f"{path} is compressed; shards are read at random positions: decompress it first (gunzip)")
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isreg() and not any(map(sources.is_hidden, member.name.split("/"))):
                    yield member.name, member.offset_data, member.size
                archive.members.clear()  # type: ignore[attr-defined]  # or a million of them would be kept
            end = archive.offset
    except tarfile.TarError as error:
        raise UsageError(f"{path} is not an intact tar file ({error}); was it copied completely?") from error
    file.seek(end)
    block = file.read(512)  # tarfile takes a broken or cut header for the end
    if 0 < len(block) < 512:
        raise UsageError(f"{path} is not an intact tar file (it ends within a header); was it copied completely?")
    if block.strip(b"\0"):
        raise UsageError(f"{path} is damaged at byte {end}: no tar header where one should be")


def _is_image(name: str) -> bool:
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in images.SUFFIXES


def _label(ending: str, content: bytes) -> str:
    """The label in a ``.cls`` or ``.json`` member as text, or ``""``."""
    try:
        if ending == "cls":
            return content.decode().strip()
        value = json.loads(content)
        label = value.get("label", "") if isinstance(value, dict) else ""
        return str(label) if isinstance(label, str | int) else ""
    except ValueError:
        return ""


def _classes(found: list[str]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Class numbers and names; None and None unless every sample has a label and there are two kinds.

    Labels that are all numbers are ordered as numbers.
    """
    names = set(found)
    if "" in names or len(names) < 2:
        return None, None
    ordered = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    index = {name: number for number, name in enumerate(ordered)}
    return np.array([index[name] for name in found], np.int64), tuple(ordered)


def _why_unlabelled(found: list[Shard]) -> tuple[str, ...]:
    labelled = sum(bool(label) for shard in found for label in shard.labels)
    total = sum(len(shard.labels) for shard in found)
    return (f"only {labelled} of {total} samples have a label, so none is used",) if 0 < labelled < total else ()
