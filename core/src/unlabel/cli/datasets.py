"""What lies in a folder or archive: ``inspect``, ``prepare``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from unlabel.cli.options import Json, installed
from unlabel.errors import UsageError

__all__ = ["inspect", "prepare"]


def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder, archive or shards.")],
    as_json: Json = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Read every sample and list the broken ones.")
    ] = True,
    speed: Annotated[
        bool, typer.Option("--speed", help="Time reading, decoding, augmenting, collating, copying and the model.")
    ] = False,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="With --speed: whose augmentation and model; default: the first.")
    ] = None,
) -> None:
    """What is in a folder or archive: counts, sizes, broken files, labels, how long an epoch takes."""
    if speed:
        from unlabel.inspection.speed import measure

        facts = measure(path, installed(), task)
    elif task is not None:
        raise UsageError("--task: only --speed uses a task")
    else:
        from unlabel.inspection.contents import inspect as look

        facts = look(path, installed(), verify)
    if as_json:
        print(json.dumps(facts, indent=2, default=str))
        return
    _print_facts(facts)


def _print_facts(facts: dict[str, Any], indent: str = "") -> None:
    for name, value in facts.items():
        label = name.replace("_", " ")
        if isinstance(value, dict):
            print(f"{indent}{label}")
            _print_facts(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{indent}{label} ({len(value)})")
            for entry in value[:20]:
                print(f"{indent}  " + ": ".join(str(part) for part in entry.values()))
            if len(value) > 20:
                print(f"{indent}  ... and {len(value) - 20} more")
        else:
            print(f"{indent}{label}: {value}")


def prepare(
    name: Annotated[str, typer.Argument(help="Name of a dataset, or its path.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="A keyword of the dataset, e.g. size=64. Repeatable."),
    ] = None,
) -> None:
    """Offline precomputation of a dataset (idempotent); every run does it by itself."""
    from unlabel.compose import assigned
    from unlabel.inspection.contents import open_dataset

    options = {key.removeprefix("dataset."): value for key, value in map(assigned, settings or ())}
    dataset_name, dataset = open_dataset(name, installed(), options)
    dataset.prepare()
    print(f"{name} is prepared" + (f" as {dataset_name}" if dataset_name != name else ""))
