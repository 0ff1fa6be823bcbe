"""Features of every sample of a dataset, into a file others can read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabel.engine import Engine
from unlabel.errors import RunError, UsageError
from unlabel.evaluate.features import Frozen

if TYPE_CHECKING:
    from unlabel.data import Dataset
    from unlabel.run import Run

__all__ = ["embed"]


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
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
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


def _part(frozen: Frozen, split: Any) -> dict[str, np.ndarray]:
    features, labels = frozen.features(split)
    dataset: Dataset = frozen.dataset(split)
    bad = {record["index"] for record in frozen.bad if record["split"] == split}
    names = [dataset.name_of(index) for index in range(len(dataset)) if index not in bad]
    return {
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
