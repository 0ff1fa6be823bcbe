"""Features of a frozen teacher, each computed once and kept on disk: for inputs that come again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unlabel.frozen.teacher import Teacher
from unlabel.storage import cache

__all__ = ["Cache", "digest"]


def digest(values: np.ndarray) -> np.ndarray:
    """Hash of a sample's content: uint8, (16,), from an array of any shape; of another type it is another one."""
    kind = repr(values.shape) if values.dtype == np.uint8 else repr((values.shape, values.dtype.str))
    total = hashlib.blake2b(kind.encode(), digest_size=16)
    total.update(np.ascontiguousarray(values).tobytes())
    return np.frombuffer(total.digest(), dtype=np.uint8).copy()


class Cache:
    """A teacher's features by the hash of what it sees.

    An entry is a safetensors file of the features and their sha256; one that is damaged is computed again. The folder
    is named by the teacher's hash, the precision and the options, so that nothing that is not the same is ever taken
    for it. Entries are float32: four bytes a number.

    Args:
        teacher: whose features.
        compute: inputs (n, ...) -> features (n, *shape), by the teacher.
        shape: of one input's features.
        folder: where; None: the user's cache, see `unlabel.storage.cache`.
        options: names whatever else the features depend on, such as a layer; part of a folder's name.
        chunk: inputs that are computed together: always as many, or a product would be added up in another order for
            another number.
    """

    def __init__(
        self,
        teacher: Teacher,
        compute: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        *,
        folder: Path | None = None,
        options: str = "",
        chunk: int = 32,
    ):
        self.teacher, self.compute, self.shape = teacher, compute, shape
        self.folder = cache.folder("features") if folder is None else folder
        self.options, self.chunk = options, chunk

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def features(self, inputs: Tensor, digests: Tensor) -> Tensor:
        """Those that are known are read, the others computed and kept.

        Args:
            inputs: (N, ...), what `compute` takes.
            digests: uint8, (N, 16), of their content: see `digest`.

        Returns:
            float32, (N, *shape), on the device of `inputs`; no gradient.
        """
        paths = [self.path(bytes(row.tolist()), inputs.device) for row in digests.cpu()]
        entries = [cache.load(path, self._read) for path in paths]
        missing = [number for number, entry in enumerate(entries) if entry is None]
        for start in range(0, len(missing), self.chunk):
            part = missing[start : start + self.chunk]
            whole = part + part[:1] * (self.chunk - len(part))
            computed = self.compute(inputs[whole]).float().cpu()
            for number, values in zip(part, computed, strict=False):
                entry = values.clone(memory_format=torch.contiguous_format)
                entries[number] = entry
                # a full disk costs time, not the run
                with contextlib.suppress(OSError, SafetensorError), cache.saving(paths[number]) as aside:
                    save_file({"features": entry, "check": _check(entry)}, aside)
        return torch.stack([entry for entry in entries if entry is not None]).to(inputs.device)  # all are there now

    def path(self, digest: bytes, device: torch.device) -> Path:
        """The file of an input's features, as they are computed on `device` now."""
        autocast = torch.is_autocast_enabled(device.type)
        kind = torch.get_autocast_dtype(device.type) if autocast else torch.float32
        precision = str(kind).removeprefix("torch.")
        name = digest.hex()
        return self.folder / f"{self._what}-{precision}" / name[:2] / f"{name}.safetensors"

    @functools.cached_property
    def _what(self) -> str:
        known = self.teacher.hash[:32]
        return f"{known}-{cache.key(self.options)[:8]}" if self.options else known

    def _read(self, path: Path) -> Tensor:
        entry = load_file(path)
        values = entry["features"]
        if values.shape != self.shape or not torch.equal(entry["check"], _check(values)):
            raise ValueError("its content does not match its hash")
        return values


def _check(values: Tensor) -> Tensor:
    return torch.frombuffer(bytearray(hashlib.sha256(values.numpy().tobytes()).digest()), dtype=torch.uint8)
