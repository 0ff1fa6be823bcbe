"""What the core itself offers, through the same hooks as any plugin."""

from __future__ import annotations

from unlabel.catalog.hookspecs import hookimpl

COMMANDS = {
    *("list", "plugins", "show", "train", "resume", "report", "evaluate", "embed"),
    *("export", "inspect", "prepare", "check", "bench", "new-plugin"),
}
"""Subcommands of the core's own, whose names no plugin's can have."""


@hookimpl
def evaluations() -> dict[str, str]:
    return {
        "knn": "unlabel.evaluate.knn:knn",
        "linear_probe": "unlabel.evaluate.linear_probe:linear_probe",
        "finetune": "unlabel.evaluate.finetune:finetune",
        "clustering": "unlabel.evaluate.clustering:clustering",
        "retrieval": "unlabel.evaluate.retrieval:retrieval",
    }


@hookimpl
def optimizers() -> dict[str, str]:
    return {"lars": "unlabel.optim.lars:LARS"}


@hookimpl
def observers() -> dict[str, str]:
    return {"tensorboard": "unlabel.logs:TensorBoard", "wandb": "unlabel.logs:WandB"}
