"""Features of every sample of a dataset, into a file others can read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabel import seeds
from unlabel.engine import Engine
from unlabel.errors import RunError, UsageError
from unlabel.evaluate.features import Frozen
from unlabel.show import pictures
from unlabel.storage import files

if TYPE_CHECKING:
    from unlabel.data import Dataset
    from unlabel.run import Run
    from unlabel.task import Sample, Task

__all__ = ["embed", "keep"]

_KEPT = 400
_SIDE = 32


def embed(run: Run, data: str, out: Path, device: str = "auto") -> dict[str, int]:
    """Encode every readable sample of a dataset, its held-out part too.

    Args:
        run: whose encoder.
        data: dataset name or path.
        out: ``.npz`` (arrays ``features`` float32 (N, D), ``names``, ``split``, and ``labels``, int64, -1 for none,
            if there are any) or ``.parquet`` (the same as columns; extra ``parquet``). Written aside and renamed.
        device: where to compute.

    Returns:
        ``{"samples": N, "dim": D, "bad": unreadable ones left out}``.

    Raises:
        UsageError: unknown ending, or the folder of `out` is not there.
        RunError: no sample can be read, or `out` cannot be written.
    """
    from unlabel.run import build_dataset, choose_dataset

    if out.suffix not in (".npz", ".parquet"):
        raise UsageError(f"--out {out}: expected a file ending in .npz or .parquet")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UsageError("a .parquet file needs `pip install 'unlabel[parquet]'`; or give --out FILE.npz")
    dataset = build_dataset(choose_dataset(data, run.recipe, run.catalog), run.catalog)
    engine = Engine(device, "fp32")
    frozen = Frozen(run.task(engine), dataset, engine)
    parts = [_part(frozen, split) for split in ("train", "test") if dataset.split(split) is not None]
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "index"}
    if not (table["labels"] >= 0).any():
        del table["labels"]
    try:
        with files.writing(out) as aside:
            (_npz if out.suffix == ".npz" else _parquet)(table, aside)
    except OSError as error:
        raise RunError(f"--out {out} cannot be written: {error}") from error
    return {"samples": len(table["features"]), "dim": table["features"].shape[1], "bad": len(frozen.bad)}


def keep(task: Task, dataset: Dataset, engine: Engine, path: Path, seed: int = 0) -> None:
    """Features of some held-out samples (of training ones if none are held out), for the map in a run's report.

    Args:
        task: whose `encode`.
        dataset: all of it.
        engine: where to compute.
        path: ``.npz`` as `embed` writes it, with ``classes`` (their names) and, where samples hold a picture (a uint8
            array (H, W, 3)), ``thumbnails``: uint8, (N, 32, 32, 3). Written aside and renamed.
        seed: which samples.
    """
    split: Any = "train" if dataset.split("test") is None else "test"
    frozen = Frozen(task, dataset, engine, seed=seed, limit={split: _KEPT})
    table = _part(frozen, split)
    chosen = np.sort(seeds.permutation(len(table["names"]), seed)[:_KEPT])  # samples that belong together are all there
    table = {name: column[chosen] for name, column in table.items()}
    if (table["labels"] >= 0).any():
        table["classes"] = np.array(frozen.classes, dtype=np.str_)
    else:
        del table["labels"]
    samples = frozen.dataset(split)
    seen = [_thumbnail(samples[int(index)]) for index in table.pop("index")]
    if all(thumbnail is not None for thumbnail in seen):
        table["thumbnails"] = np.stack([thumbnail for thumbnail in seen if thumbnail is not None])
    with files.writing(path) as aside:
        _npz(table, aside)


def _thumbnail(sample: Sample) -> np.ndarray | None:
    """The middle of the first picture in a sample, small: uint8, (32, 32, 3); None if there is none."""
    for value in sample.values():
        if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3:
            side = min(value.shape[:2])
            top, left = (value.shape[0] - side) // 2, (value.shape[1] - side) // 2
            square = value[top : top + side, left : left + side]
            while len(square) >= 2 * _SIDE:
                square = pictures.halved(square)
            places = (np.arange(_SIDE) * len(square)) // _SIDE
            return square[places][:, places]
    return None


def _part(frozen: Frozen, split: Any) -> dict[str, np.ndarray]:
    features, labels = frozen.features(split)
    dataset: Dataset = frozen.dataset(split)
    bad = {record["index"] for record in frozen.bad if record["split"] == split}
    index = np.array([index for index in frozen.indices(split).tolist() if index not in bad], dtype=np.int64)
    names = [dataset.name_of(number) for number in index.tolist()]
    return {
        "index": index,
        "features": features.numpy(),
        "names": np.array(names, dtype=np.str_),
        "split": np.array([split] * len(names), dtype=np.str_),
        "labels": labels.numpy(),
    }


def _npz(table: dict[str, np.ndarray], path: Path) -> None:
    with path.open("wb") as file:  # a file, as NumPy would add an ending to a path
        np.savez_compressed(file, **table)  # type: ignore[arg-type]  # its stubs take the names for its own keywords


def _parquet(table: dict[str, np.ndarray], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: list(value) if value.ndim > 1 else value for name, value in table.items()}
    pq.write_table(pa.table(columns), path)
