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
from unlabel.show import thumbnails

if TYPE_CHECKING:
    from unlabel.data import Dataset
    from unlabel.run import Run
    from unlabel.task import Task

__all__ = ["embed", "keep"]

_KEPT = 400


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
    aside = out.with_name(f".{out.name}.writing{out.suffix}")
    try:
        (_npz if out.suffix == ".npz" else _parquet)(table, aside)
        aside.replace(out)
    except OSError as error:
        raise RunError(f"--out {out} cannot be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)
    return {"samples": len(table["features"]), "dim": table["features"].shape[1], "bad": len(frozen.bad)}


def keep(task: Task, dataset: Dataset, engine: Engine, path: Path, seed: int = 0) -> None:
    """Features of some held-out samples (of training ones if none are held out), for the map in a run's report.

    Args:
        task: whose `encode`.
        dataset: all of it.
        engine: where to compute.
        path: ``.npz`` as `embed` writes it, with ``classes`` (their names) and, of what the dataset shows of its
            samples, ``thumbnails`` (uint8, (N, 32, 32, 3)) of pictures and clips, ``words`` of texts: their first ones.
            Written aside and renamed.
        seed: which samples.
    """
    split: Any = "train" if dataset.split("test") is None else "test"
    frozen = Frozen(task, dataset, engine, seed=seed, limit={split: _KEPT})
    table = _part(frozen, split)
    few = np.sort(seeds.permutation(len(table["names"]), seed)[:_KEPT])  # samples that belong together are all there
    table = {name: column[few] for name, column in table.items()}
    if (table["labels"] >= 0).any():
        table["classes"] = np.array(frozen.classes, dtype=np.str_)
    else:
        del table["labels"]
    samples = frozen.dataset(split)
    shown = [thumbnails.thumbnail(samples, samples[int(index)]) for index in table.pop("index")]
    pictures = [thumbnail for thumbnail in shown if isinstance(thumbnail, np.ndarray)]
    if len(pictures) == len(shown):
        table["thumbnails"] = np.stack(pictures)
    words = [thumbnail if isinstance(thumbnail, str) else "" for thumbnail in shown]
    if any(words):
        table["words"] = np.array(words, dtype=np.str_)
    aside = path.with_suffix(".writing.npz")
    try:
        _npz(table, aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


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
    np.savez_compressed(path, **table)  # type: ignore[arg-type]  # its stubs take the names for its own keywords


def _parquet(table: dict[str, np.ndarray], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: list(value) if value.ndim > 1 else value for name, value in table.items()}
    pq.write_table(pa.table(columns), path)
