"""What trains: ``train``, ``resume``, ``bench``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from unlabel.cli.errors import exit_code, message
from unlabel.cli.options import Encoder, Observe, RunFolder, Trust, init_sources, installed, separated, trusting
from unlabel.errors import RunError, UsageError

__all__ = ["bench", "resume", "train"]


def train(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK[+TASK]",
            help="Name of a pretext task (`unlabel list tasks` names them), or several on one encoder.",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="D", help="Dataset name, or a path: folder, archive, shards.")
    ] = None,
    encoder: Encoder = None,
    init: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="First weights: LIBRARY:NAME, a .safetensors file or a run; of one of several encoders, PART=SOURCE.",
        ),
    ] = None,
    trust: Trust = None,
    recipe: Annotated[
        str, typer.Option(metavar="R", help="paper, quick (minutes on a CPU), tiny, or a .json/.yaml file.")
    ] = "quick",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="K=V", help="Change a field, e.g. task.mask_ratio=0.6 or stages.0.lr=3e-4. Repeatable."
        ),
    ] = None,
    combine: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="Several tasks: sum of their losses, or pareto (minimum-norm gradient)."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates in every stage.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data in every stage.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples per update, over all processes.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run; default: a new one below runs/.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is already at --out.")] = False,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    precision: Annotated[str | None, typer.Option(metavar="P", help="auto, fp32, bf16 or fp16.")] = None,
    device: Annotated[str | None, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:N.")] = None,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the task's loss with torch.compile.")] = False,
    shard: Annotated[
        bool, typer.Option("--shard", help="Shard parameters over processes (FSDP2); under torchrun.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Loader processes per training process.")] = None,
    max_bad: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of unusable samples that is tolerated.")
    ] = None,
    observe: Observe = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Downstream evaluation before and after.")
    ] = True,
) -> None:
    """Train an encoder on a pretext task; ends with its evaluation before and after."""
    from unlabel import compose, launch
    from unlabel.session import Session

    catalog = trusting(trust)
    fields = {
        "task.combine": combine,
        "init": init_sources(init),
        "seed": seed,
        "max_bad": max_bad,
        "execution.precision": precision,
        "execution.device": device,
        "execution.workers": workers,
        "execution.compile": compile_ or None,
        "execution.shard": shard or None,
    }
    options = [f"{name}={json.dumps(value)}" for name, value in fields.items() if value is not None]
    run_recipe = compose.compose(
        task,
        catalog,
        name=recipe,
        data=data,
        encoder=encoder,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        settings=[*options, *(settings or [])],
    )
    folder = launch.new_folder(out, run_recipe, overwrite)
    with _Resumable(folder):
        Session(run_recipe, folder, catalog, observe=separated(observe), evaluate=evaluate).run()


def resume(
    folder: RunFolder,
    encoder: Encoder = None,
    trust: Trust = None,
    observe: Observe = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Downstream evaluation at the end.")
    ] = True,
) -> None:
    """Continue a run exactly where its last good checkpoint stands."""
    from unlabel.run import Run
    from unlabel.session import Session

    catalog = trusting(trust, encoder)
    recipe = Run(folder, catalog).recipe
    with _Resumable(folder):
        Session(recipe, folder, catalog, observe=separated(observe), evaluate=evaluate).run(resuming=True)


def bench(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Tasks, encoders, data, seeds; see the guide.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the results; default: studies/NAME.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Cells at a time; default: the study's, or 1.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what it will cost.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run the cells that failed once more.")] = False,
    collect: Annotated[bool, typer.Option("--collect", help="Run nothing; make the tables of what is there.")] = False,
    cell: Annotated[int | None, typer.Option(min=0, metavar="N", help="Run only cell N, for job arrays.")] = None,
    launch: Annotated[
        str | None, typer.Option(metavar="HOW", help="Print what to submit instead: slurm or torchrun.")
    ] = None,
) -> None:
    """Many trainings side by side, and one table; goes on where it was stopped."""
    from unlabel.bench import session

    code = session.bench(
        study,
        installed(),
        out=out,
        jobs=jobs,
        dry_run=dry_run,
        retry=retry,
        collect=collect,
        only=cell,
        launcher=launch,
    )
    raise typer.Exit(code)


class _Resumable:
    """Adds to a failure what was saved and which command goes on."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        usual = isinstance(error, Exception | KeyboardInterrupt) and not isinstance(error, UsageError)
        if error is None or not usual or not (self.folder / "recipe.json").is_file():
            return
        from unlabel import checkpoint

        saved = checkpoint.available(self.folder / "checkpoints")
        last = f"last checkpoint {saved[-1].name}" if saved else "no checkpoint yet"
        failure = RunError(f"{message(error)}\n{last}; continue with: unlabel resume {shlex.quote(str(self.folder))}")
        failure.exit_code = exit_code(error)
        raise failure from error
