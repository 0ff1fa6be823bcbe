"""Two hundred broken or odd files among two thousand images: training ends, and lists the broken ones alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import corrupt
import pytest

from unlabel import Catalog, compose
from unlabel.session import Session
from unlabel.storage.jsonl import read_jsonl


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_training_lists_every_broken_file_and_no_other(tmp_path: Path, workers: int) -> None:
    kinds = corrupt.write_images(tmp_path / "images", good=2000, bad=200, seed=workers)
    broken = {str(path) for path, kind in kinds.items() if kind in corrupt.BAD}
    odd = Counter(kind for kind in kinds.values() if kind in corrupt.GOOD)
    catalog = Catalog.installed()
    recipe = compose.compose("vision/mae", catalog, name="tiny", data=str(tmp_path / "images"))
    settings = ["max_bad=0.2", f"execution.workers={workers}", "stages.0.last_batch=straddle"]  # every file is read
    recipe = compose.with_overrides(recipe.with_length(epochs=1), settings, catalog)

    Session(recipe, tmp_path / "run", catalog, quiet=True).run()

    records = read_jsonl(tmp_path / "run/quarantine.jsonl")
    assert {record["path"] for record in records} == broken
    assert len(records) == len(broken)
    assert all(record["reason"] for record in records)
    assert sum(odd.values()) + len(broken) >= 200
    assert min(odd.values()) > 1  # CMYK, 16-bit, animated and rotated files are among the readable ones
    assert (tmp_path / "run/evaluations.json").exists()
