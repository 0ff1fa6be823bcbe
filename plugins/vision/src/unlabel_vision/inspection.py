"""What is in a set of images, read completely: for `unlabel inspect`."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlabel.errors import BadSample
from unlabel_vision import images
from unlabel_vision.datasets import stored
from unlabel_vision.datasets.stored import StoredImages

__all__ = ["examine", "report"]

_CHUNK = 64
_EXAMPLES = 10


def report(dataset: StoredImages, *, verify: bool = True) -> dict[str, Any]:
    """Read every file of a set of images and say what is in it.

    Args:
        dataset: the images.
        verify: decode every image, which finds what is broken and measures the speed; otherwise read headers only.

    Returns:
        JSON-able: what the dataset's ``info()`` says, and ``bytes`` (of all files); ``contents`` (format by content
        -> count); ``modes`` (stored colour mode -> count); ``sizes`` of all images; ``rotated`` (turned by EXIF, PNG
        not counted); ``animated``; ``broken`` (list of ``{"path", "reason"}``); ``duplicates`` (files whose bytes
        equal an earlier one's) with a few ``duplicate_examples`` and, for divided sets, ``duplicates_across_splits``
        (contents found in more than one part); ``verified``; and if verified ``samples_per_second`` (decoded by one
        core) and ``seconds_per_epoch_reading`` (by one core).
    """
    dataset.prepare()
    findings = list(_examined(dataset, verify))
    usable = [finding for finding in findings if finding.reason is None]
    seconds = sum(finding.seconds for finding in usable)
    headers = [finding.header for finding in findings if finding.header is not None]
    return {
        **dataset.info(),
        "bytes": sum(finding.size for finding in findings),
        "contents": _counted(header.format for header in headers),
        "modes": _counted(header.mode for header in headers),
        "sizes": stored.summary([(header.width, header.height) for header in headers]),
        "rotated": sum(header.orientation != 1 for header in headers),
        "animated": sum(header.animated for header in headers),
        "broken": [
            {"path": dataset.name_of(index), "reason": finding.reason}
            for index, finding in enumerate(findings)
            if finding.reason is not None
        ],
        **_duplicates(dataset, findings),
        "verified": verify,
        **_speed(len(usable), seconds),
    }


def _speed(count: int, seconds: float) -> dict[str, float]:
    if not count or not seconds:
        return {}
    return {"samples_per_second": round(count / seconds, 1), "seconds_per_epoch_reading": round(seconds, 2)}


@dataclass(frozen=True)
class Finding:
    """What one image turned out to be.

    Attributes:
        size: of its file in bytes, 0 if it cannot be read.
        digest: of its content.
        header: None if the file is no image.
        reason: why it is unusable, or None.
        seconds: CPU time spent on decoding.
    """

    size: int
    digest: bytes
    header: images.Header | None
    reason: str | None
    seconds: float


def examine(dataset: StoredImages, index: int, verify: bool) -> Finding:
    """Read one image, and decode it if `verify`; whatever is wrong with it becomes the reason."""
    try:
        raw = dataset.read(index)
    except (BadSample, OSError) as error:
        return Finding(0, b"", None, str(error), 0.0)
    content = raw if isinstance(raw, bytes) else raw.tobytes()
    size, digest = len(content), hashlib.blake2b(content, digest_size=16).digest()
    header, seconds = None, 0.0
    try:
        header = images.header(raw, max_pixels=dataset.max_pixels) if isinstance(raw, bytes) else _header(raw)
        if verify:
            start = time.thread_time()
            dataset.decode(raw)
            seconds = time.thread_time() - start
        stored.check_size(header.width, header.height, dataset.min_size)
    except BadSample as error:
        return Finding(size, digest, header, str(error), seconds)
    return Finding(size, digest, header, None, seconds)


def _header(array: np.ndarray) -> images.Header:
    grey = array.ndim == 2 or array.shape[2] == 1
    return images.Header("array", "L" if grey else "RGB", array.shape[1], array.shape[0], 1, False)


def _examined(dataset: StoredImages, verify: bool) -> Iterator[Finding]:
    """The findings of all images in order; Pillow decodes outside Python's lock, so threads use all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def chunk(start: int) -> list[Finding]:
        return [examine(dataset, index, verify) for index in range(start, min(start + _CHUNK, len(dataset)))]

    with ThreadPoolExecutor(cores) as pool:
        for findings in pool.map(chunk, range(0, len(dataset), _CHUNK)):
            yield from findings


def _counted(values: Iterator[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _duplicates(dataset: StoredImages, findings: list[Finding]) -> dict[str, Any]:
    places: dict[bytes, list[int]] = {}
    for index, finding in enumerate(findings):
        if finding.size:
            places.setdefault(finding.digest, []).append(index)
    repeated = [indices for indices in places.values() if len(indices) > 1]
    report: dict[str, Any] = {
        "duplicates": sum(len(indices) - 1 for indices in repeated),
        "duplicate_examples": [[dataset.name_of(index) for index in indices[:2]] for indices in repeated[:_EXAMPLES]],
    }
    if dataset.parts is not None:
        report["duplicates_across_splits"] = sum(len(set(dataset.parts[indices])) > 1 for indices in repeated)
    return report
