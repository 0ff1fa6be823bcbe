"""Features of every sample of a dataset, into a file others can read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabel import claims, judge
from unlabel.engine import Engine
from unlabel.errors import RunError, UsageError
from unlabel.evaluate.features import Frozen
from unlabel.recipe import Judging
from unlabel.storage import files

if TYPE_CHECKING:
    from unlabel.run import Run

__all__ = ["embed", "keep"]


def embed(run: Run, data: str, out: Path, device: str = "auto", of: str = "") -> dict[str, int]:
    """Encode every readable sample of a dataset, its held-out part too.

    Args:
        run: whose encoder.
        data: dataset name or path.
        out: ``.npz`` (arrays ``features`` float32 (M, D), ``names``, ``split``, and ``labels``, int64, -1 for none,
            if there are any) or ``.parquet`` (the same as columns; extra ``parquet``). Written aside and renamed.
        device: where to compute.
        of: which of the task's outputs; by default the first. A sample with several rows stands there several times.

    Returns:
        ``{"samples": those with features, "rows": M, "dim": D, "bad": unreadable ones left out}``.

    Raises:
        UsageError: unknown ending or output, or the folder of `out` is not there.
        RunError: no sample can be read, or `out` cannot be written.
    """
    if out.suffix not in (".npz", ".parquet"):
        raise UsageError(f"--out {out}: expected a file ending in .npz or .parquet")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UsageError("a .parquet file needs `pip install 'unlabel[parquet]'`; or give --out FILE.npz")
    dataset = run.dataset(claims.dataset_ref(data, run.recipe, run.catalog))
    engine = Engine(device, "fp32")
    judging = Judging(train=None, test=None, raw=False)
    judged = judge.frozen(run.recipe.model_copy(update={"judging": judging}), run.task(engine), dataset, engine)
    parts = [_part(judged, split, of) for split in ("train", "test") if dataset.split(split) is not None]
    samples = sum(len(np.unique(part["index"])) for part in parts)
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "index"}
    if not (table["labels"] >= 0).any():
        del table["labels"]
    try:
        with files.writing(out) as aside:
            (_npz if out.suffix == ".npz" else _parquet)(table, aside)
    except OSError as error:
        raise RunError(f"--out {out} cannot be written: {error}") from error
    rows, dim = table["features"].shape
    return {"samples": samples, "rows": rows, "dim": dim, "bad": len(judged.bad)}


def keep(judged: Frozen, path: Path) -> None:
    """Features of some held-out samples (of training ones if none are held out), for the map in a run's report.

    Args:
        judged: whose features; those it has computed already are taken, and its `shown` samples.
        path: ``.npz`` as `embed` writes it, with ``classes`` (their names) and, of what the dataset shows of its
            samples, ``thumbnails`` (uint8, (N, 32, 32, 3)) of pictures and clips, ``words`` of texts: their first ones.
            Written aside and renamed.
    """
    split: Any = "test" if judged.has_split("test") else "train"
    shown = judged.shown(split)
    source = judged if judged.has_features(split) else judged.limited(split, len(shown))
    table = _part(source, split)
    rows = np.isin(table["index"], shown)
    table = {name: column[rows] for name, column in table.items()}
    if (table["labels"] >= 0).any():
        table["classes"] = np.array(judged.classes, dtype=np.str_)
    else:
        del table["labels"]
    thumbnails = source.thumbnails(split)
    seen = [thumbnails.get(index) for index in table.pop("index").tolist()]
    pictures = [thumbnail for thumbnail in seen if isinstance(thumbnail, np.ndarray)]
    if seen and len(pictures) == len(seen):
        table["thumbnails"] = np.stack(pictures)
    texts = [thumbnail if isinstance(thumbnail, str) else "" for thumbnail in seen]
    if any(texts):
        table["words"] = np.array(texts, dtype=np.str_)
    with files.writing(path) as aside:
        _npz(table, aside)


def _part(judged: Frozen, split: Any, of: str = "") -> dict[str, np.ndarray]:
    rows = judged.rows(split, of)
    assert rows.labels is not None
    dataset, index = judged.dataset(split), rows.sample.numpy()
    names = [dataset.name_of(number) for number in index.tolist()]
    return {
        "index": index,
        "features": rows.features.numpy(),
        "names": np.array(names, dtype=np.str_),
        "split": np.array([split] * len(names), dtype=np.str_),
        "labels": rows.labels.numpy(),
    }


def _npz(table: dict[str, np.ndarray], path: Path) -> None:
    with path.open("wb") as file:  # a file, as NumPy would add an ending to a path
        np.savez_compressed(file, **table)  # type: ignore[arg-type]  # its stubs take the names for its own keywords


def _parquet(table: dict[str, np.ndarray], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: list(value) if value.ndim > 1 else value for name, value in table.items()}
    pq.write_table(pa.table(columns), path)
