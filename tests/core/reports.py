"""Runs on disk for tests of their report: written here as training writes them, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.recipe import Recipe, Ref, Stage

HOSTILE = "<script>window.hacked = 1</script>\"'><img src=x onerror='window.hacked = 1'>{{ 7 * 7 }}</script>"


def written(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A finished run of forty updates in two stages.

    Args:
        folder: to make.
        seed: changes its numbers, too.
        changes: ``lr`` of the first stage, ``task`` (its name), ``updates`` of the second stage, and ``text`` that is
            found wherever a user's own can be.
    """
    text, lr, task = changes.get("text", "plain"), changes.get("lr", 1e-3), changes.get("task", "toy/echo")
    updates = changes.get("updates", 30)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    stages = [Stage(name="warm " + text, steps=10, lr=lr), Stage(name="main", steps=updates)]
    dataset = Ref("toy/files", path=f"/data/{text}")
    chosen = Recipe(task=Ref(task), encoder=Ref("toy/linear"), dataset=dataset, stages=stages, seed=seed)
    (folder / "recipe.json").write_text(chosen.to_json())
    environment = {"unlabel": "0.1.0", "command": ["/bin/unlabel", "train", task, "--data", f"/data/{text}"]}
    versions = {"torch": "2.11.0", "unlabel": "0.1.0"}
    (folder / "environment.json").write_text(json.dumps({**environment, "versions": versions, "gpus": []}))
    lines, total = [], 0
    for stage, steps in enumerate((10, updates)):
        for step in range(1, steps + 1):
            total += 1
            place = {"stage": stage, "step": step, "epoch": 0, "total_step": total}
            lines.append({**place, "loss": 2 / total + rng.normal() / 100, "lr": lr, f"own {text}": total})
            if step % 5 == 0:
                lines.append({**place, "knn": 0.4 + total / 100, "rankme": 5.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluations = {
        "before": {"knn": {"accuracy": 0.5 + seed / 100, "k": 20.0}},
        "after": {"knn": {"accuracy": 0.7 + seed / 50, "k": 20.0}},
        "raw": {"knn": {"accuracy": 0.6, "k": 20.0}},
        "health": [["ok", f"healthy {text}"]],
        "seconds": 3.5,
        "samples_per_second": 120.0,
    }
    (folder / "evaluations.json").write_text(json.dumps(evaluations))
    record = {"index": 3, "path": f"/data/{text}/3.npy", "reason": f"torn {text}", "split": "train"}
    (folder / "quarantine.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "pictures").mkdir()
    for stage, step in ((0, 0), (0, 10), (1, 15), (1, updates)):
        pictures = {f"view {text}".replace("/", "|"): rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)}
        np.savez_compressed(folder / "pictures" / f"stage{stage:02d}-update{step:08d}.npz", **pictures)
    labels = np.arange(60) % 3
    np.savez_compressed(
        folder / "embeddings.npz",
        features=(np.eye(3)[labels] * 4 + rng.normal(size=(60, 3))).astype(np.float32),
        names=np.array([f"/data/{text}/{index}.npy" for index in range(60)]),
        split=np.array(["test"] * 60),
        labels=labels,
        classes=np.array([f"slow {text}", "fast", "none"]),
        thumbnails=rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8),
    )
    return folder
