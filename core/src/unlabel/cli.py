"""The command line: parse, call, print. Nothing is decided here.

Exit codes: 0 well, 1 failed on the way, 2 asked for something that cannot be, 128 + n stopped by signal n.
Messages go to standard error, results to standard output, so that ``--json`` can be piped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from unlabel import __version__
from unlabel.catalog.deprecation import Deprecated
from unlabel.errors import UnlabelError, UsageError

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog, Offer
    from unlabel.run import Run

__all__ = ["app", "main"]

app = typer.Typer(
    name="unlabel",
    help="Self-supervised pretext tasks in every modality, under one trainer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Kind(StrEnum):
    """What a name can be."""

    tasks = "tasks"
    encoders = "encoders"
    datasets = "datasets"
    evaluations = "evaluations"
    optimizers = "optimizers"


Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Device = Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:N.")]
Encoder = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Encoder: a name, NAME:MODEL (PLUGIN/NAME:MODEL) or package.module:factory; of several, PART=NAME each.",
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A package.module:name that a file mentions and that may be imported."),
]


@app.command("list")
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="Only one kind of thing.")] = None,
    as_json: Json = False,
) -> None:
    """What is installed: tasks, encoders, datasets, evaluations."""
    from unlabel.catalog.summary import summary

    catalog = _installed()
    kinds = [kind.value] if kind else [entry.value for entry in Kind]
    found = {name: [summary(offer) for offer in catalog.offers(name)] for name in kinds}
    for plugin in catalog.plugins:
        for problem in plugin.problems:
            print(f"warning: plugin {plugin.name} ({plugin.distribution}): {problem}", file=sys.stderr)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, entries in found.items():
        print(f"{name}" if entries else f"{name}  (none)")
        for entry in entries:
            paper = f"  [arXiv {entry['arxiv']}]" if entry["arxiv"] else ""
            print(f"  {entry['name']:<22} {entry['summary']}{paper}")
    if len(catalog.plugins) == 1:
        print(f"\nNo plugin is installed. Plugins bring the tasks; install one for your data:\n{_plugins_to_install()}")


def _plugins_to_install() -> str:
    """The plugins that the core's own metadata knows, as commands."""
    from importlib import metadata

    lines = metadata.requires("unlabel") or []
    names = sorted(
        {line.split(">")[0].split(";")[0].split("<")[0].strip() for line in lines if line.startswith("unlabel-")}
    )
    return "\n".join(f"  pip install {name}" for name in names)


@app.command()
def plugins(as_json: Json = False) -> None:
    """Which plugins are installed, what they offer, and what is wrong with broken ones."""
    commands = _own_commands()
    found: list[dict[str, Any]] = [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "offers": {kind: sorted(o.name for o in plugin.offers if o.kind == kind) for kind in _kinds(plugin)},
            "problems": [
                *plugin.problems,
                *(
                    f"command {o.name!r} is the core's; not used from here"
                    for o in plugin.offers
                    if o.kind == "commands" and o.name in commands
                ),
            ],
            "notes": plugin.notes,
        }
        for plugin in _installed().plugins
    ]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for entry in found:
        offers = (
            ", ".join(
                f"{len(names)} {kind[: -1 if len(names) == 1 else None]}" for kind, names in entry["offers"].items()
            )
            or "nothing"
        )
        print(f"{entry['name']}  {entry['distribution']} {entry['version']}: {offers}")
        for problem in entry["problems"]:
            print(f"  problem: {problem}")
        for note in entry["notes"]:
            print(f"  note: {note}")


def _kinds(plugin: Any) -> list[str]:
    return list(dict.fromkeys(offer.kind for offer in plugin.offers))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a task, encoder, dataset, evaluation or optimizer.")],
    as_json: Json = False,
) -> None:
    """Everything about one component: paper, idea, keywords, encoders, recipes."""
    from unlabel.describe import component
    from unlabel.errors import nearest

    catalog = _installed()
    for kind in Kind:
        name = catalog.current(kind.value, name)
    kinds = [kind.value for kind in Kind if name in catalog.names(kind.value)]
    if not kinds:
        names = [known for kind in Kind for known in catalog.names(kind.value)]
        raise UsageError(f"nothing installed is called {name!r}{nearest(name, names)}")
    found = component(catalog.find(kinds[0], name), catalog)
    if as_json:
        print(json.dumps(found, indent=2, default=str))
        return
    idea = found["document"].partition("\nArgs:\n")[0].rstrip()  # the keywords follow anyway, with their types
    print(f"{found['name']}  ({found['kind']} of plugin {found['plugin']})\n\n{idea}\n\nkeywords")
    for entry in found["keywords"]:
        default = "required" if entry["required"] else f"= {entry['default']!r}"
        print(f"  {entry['name']}: {entry['type']} {default}\n      {entry['meaning']}")
    for label in ("encoders", "evaluations"):
        if label in found:
            print(f"\n{label}\n  {', '.join(found[label])}")
    for recipe, details in found.get("recipes", {}).items():
        print(f"\nrecipe {recipe}  (data: {details['dataset']})\n  " + details["document"].replace("\n", "\n  "))


@app.command()
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
    observe: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Further loggers: tensorboard,wandb or a plugin's.")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Downstream evaluation before and after.")
    ] = True,
) -> None:
    """Train an encoder on a pretext task; ends with its evaluation before and after."""
    from unlabel import compose, launch
    from unlabel.session import Session

    catalog = _trusting(trust)
    fields = {
        "task.combine": combine,
        "init": _init(init),
        "seed": seed,
        "max_bad": max_bad,
        "execution.precision": precision,
        "execution.device": device,
        "execution.workers": workers,
        "execution.compile": compile_ or None,
        "execution.shard": shard or None,
    }
    given = [f"{name}={json.dumps(value)}" for name, value in fields.items() if value is not None]
    chosen = compose.compose(
        task,
        catalog,
        name=recipe,
        data=data,
        encoder=encoder,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        settings=[*given, *(settings or [])],
    )
    folder = launch.new_folder(out, chosen, overwrite)
    with _Resumable(folder):
        Session(chosen, folder, catalog, observe=_separated(observe), evaluate=evaluate).run()


@app.command()
def resume(
    folder: RunFolder,
    encoder: Encoder = None,
    trust: Trust = None,
    observe: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Further loggers: tensorboard,wandb or a plugin's.")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Downstream evaluation at the end.")
    ] = True,
) -> None:
    """Continue a run exactly where its last good checkpoint stands."""
    from unlabel.run import Run
    from unlabel.session import Session

    catalog = _trusting(trust, encoder)
    recipe = Run(folder, catalog).recipe
    with _Resumable(folder):
        Session(recipe, folder, catalog, observe=_separated(observe), evaluate=evaluate).run(resuming=True)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs; the others are compared with the first.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Default: report.html in the run's folder; of several runs, in this one."),
    ] = None,
) -> None:
    """One HTML file of a run, or of several side by side: results, curves, pictures, how to reproduce it."""
    from unlabel import report as reports

    print(reports.write(folders, out, _installed()))


@app.command("evaluate")
def evaluate_(
    folder: RunFolder,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[EVALUATION]...", help="Default: the task's own.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="D", help="Another dataset, by name or path.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="K=V",
            help="Of an evaluation, the data or judging, e.g. knn.k=5 or judging.test=200. Repeatable.",
        ),
    ] = None,
    encoder: Encoder = None,
    trust: Trust = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run the downstream evaluations of a run's encoder."""
    from unlabel.terminal import say

    run, options = _run(folder, trust, encoder), settings or []
    results = run.evaluate(*(names or []), data=data, options=options, device=device, say=say)
    if as_json:
        print(json.dumps(results, indent=2))
        return
    for name, numbers in results.items():
        for measure, value in numbers.items():
            print(f"{name:<16} {measure:<20} {value:.4g}")


@app.command()
def embed(
    folder: RunFolder,
    data: Annotated[str, typer.Option(metavar="D", help="Dataset name or path.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="features.npz or features.parquet")],
    of: Annotated[str, typer.Option(metavar="NAME", help="Which output, of a task with several.")] = "",
    encoder: Encoder = None,
    trust: Trust = None,
    device: Device = "auto",
) -> None:
    """Features of every sample of a dataset, into a file."""
    from unlabel.embed import embed as write

    written = write(_run(folder, trust, encoder), data, out, device, of)
    print(
        f"{written['samples']} samples, {written['dim']} numbers each: {out}"
        + (f"; {written['bad']} unreadable left out" if written["bad"] else "")
    )


@app.command()
def export(
    folder: RunFolder,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; must not exist.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format", metavar="F", help="safetensors, onnx, torch-export, or what the encoder offers besides."
        ),
    ] = "safetensors",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Load it back as its README says, and compare.")
    ] = True,
    encoder: Encoder = None,
    trust: Trust = None,
) -> None:
    """The encoder alone, in its ecosystem's naming, with a README whose snippet loads it."""
    from unlabel import export as exporting

    found = exporting.export(_run(folder, trust, encoder), out, format_, check)
    checked = (
        ""
        if found["difference"] is None
        else f"; loaded back as its README says, largest difference {found['difference']:.2g}"
    )
    print(f"{out}: {', '.join(found['files'])}{checked}")


@app.command()
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

        found = measure(path, _installed(), task)
    elif task is not None:
        raise UsageError("--task: only --speed uses a task")
    else:
        from unlabel.inspection.contents import inspect as look

        found = look(path, _installed(), verify)
    if as_json:
        print(json.dumps(found, indent=2, default=str))
        return
    _print_facts(found)


@app.command()
def prepare(name: Annotated[str, typer.Argument(help="Name of a dataset, or its path.")]) -> None:
    """Offline precomputation of a dataset (idempotent)."""
    from unlabel.inspection.contents import open_dataset

    found, dataset = open_dataset(name, _installed())
    dataset.prepare()
    print(f"{name} is prepared" + (f" as {found}" if found != name else ""))


@app.command()
def check(
    plugin: Annotated[str, typer.Argument(metavar="PLUGIN", help="Name of a plugin; `unlabel plugins` names them.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", "-k", metavar="TEXT", help="Only checks whose id holds this text. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """The contract: whether a plugin's components do what every task, encoder, dataset and so on must."""
    from unlabel.testing.table import check_plugin

    if check_plugin(plugin, only or [], _installed(), as_json):
        raise typer.Exit(1)


@app.command()
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
        _installed(),
        out=out,
        jobs=jobs,
        dry_run=dry_run,
        retry=retry,
        collect=collect,
        only=cell,
        launcher=launch,
    )
    raise typer.Exit(code)


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="What your plugin's names will begin with, e.g. sonar for sonar/order.")],
    into: Annotated[Path, typer.Option(metavar="DIR", help="Existing folder to write it into.")] = Path(),
) -> None:
    """A first plugin of your own, written to unlabel-NAME: it installs, trains and passes its tests."""
    from unlabel.scaffold import plugin

    folder = plugin.write(name, into, _installed())
    print(f"{folder}/")
    for path in plugin.files(name):
        print(f"  {path}")
    print("\nNext:")
    for command in plugin.commands(name, folder):
        print(f"  {command}")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Self-supervised pretext tasks in every modality, under one trainer."""
    if version:
        print(f"unlabel {__version__}")
        raise typer.Exit


def _separated(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


def _init(sources: list[str] | None) -> str | dict[str, str] | None:
    """One source for the only encoder, or sources by the encoders' names."""
    if not sources:
        return None
    parted = [(part, source) for part, equals, source in (text.partition("=") for text in sources) if equals]
    named = {part: source for part, source in parted if part.isidentifier()}
    if len(named) == len(sources):
        return named
    if len(sources) > 1:
        raise UsageError(f"--init {' --init '.join(sources)}: give one, or PART=SOURCE for each encoder")
    return sources[0]


class _Resumable:
    """Adds to a failure what was saved and which command goes on."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        from unlabel.errors import RunError

        usual = isinstance(error, Exception | KeyboardInterrupt) and not isinstance(error, UsageError)
        if error is None or not usual or not (self.folder / "recipe.json").is_file():
            return
        from unlabel import checkpoint

        saved = checkpoint.available(self.folder / "checkpoints")
        last = f"last checkpoint {saved[-1].name}" if saved else "no checkpoint yet"
        failure = RunError(f"{_words(error)}\n{last}; continue with: unlabel resume {shlex.quote(str(self.folder))}")
        failure.exit_code = _exit_code(error)
        raise failure from error


def _installed() -> Catalog:
    from unlabel.catalog.plugins import Catalog  # here, because --help needs none

    return Catalog.installed()


def _trusting(*names: list[str] | None) -> Catalog:
    """The catalog, with what the user typed: those names may be imported although a file mentions them."""
    catalog = _installed()
    for name in (name for several in names for name in several or ()):
        catalog.trusted.add(name.rpartition("=")[2])
    return catalog


def _run(folder: Path, *trusted: list[str] | None) -> Run:
    from unlabel.run import Run

    return Run(folder, _trusting(*trusted))


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


_OURS = tuple(app.registered_commands)  # plugins add theirs when `main` runs


def _own_commands() -> set[str]:
    return {entry.name or entry.callback.__name__ for entry in _OURS if entry.callback is not None}


def _add_plugin_commands() -> None:
    """Subcommands of plugins; looked up only when the first word is none of ours, or there is none: for the help."""
    app.registered_commands[:] = _OURS
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    wanted = words[0] if words else ""
    if wanted in _own_commands() or "--version" in sys.argv:
        return
    catalog = _installed()
    offers = {offer.name: offer for offer in catalog.offers("commands") if offer.name not in _own_commands()}
    if (name := catalog.current("commands", wanted)) in offers:
        app.command(wanted)(_loaded_command(offers[name]))
        return
    for offer in offers.values():  # named only, for the help and for "did you mean"; none is imported
        from unlabel.catalog.summary import summary

        panel = f"Commands of plugin {offer.plugin}"
        app.command(offer.name, help=summary(offer)["summary"], rich_help_panel=panel)(lambda: None)


def _loaded_command(offer: Offer) -> Callable[..., Any]:
    """A plugin's function, which typer can make a command of."""
    function: Callable[..., Any] = offer.load()
    try:
        trial = typer.Typer(add_completion=False)
        trial.command()(function)
        typer.main.get_command(trial)
    except Exception as error:
        raise UsageError(
            f"command {offer.name!r} of plugin {offer.plugin!r} cannot be used, "
            f"because {offer.target} is no typed function: {_words(error)}"
        ) from error
    return function


_Misuse: type[BaseException] = typer.BadParameter.__base__ or Exception
"""What typer raises for a wrong option or value; its name has moved between versions."""


def main() -> NoReturn:
    """Entry point of ``unlabel``; turns errors into one line and an exit code."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]  # allowed anywhere
    try:
        with _old_names_in_one_line():
            _add_plugin_commands()
            code = app(prog_name="unlabel", standalone_mode=False)
    except _Misuse as error:
        _misused(error)
    except (Exception, KeyboardInterrupt) as error:
        _fail(error, debug)
    if code == 130:
        print("error: interrupted", file=sys.stderr)
    _leave(code if type(code) is int else 0)


def _leave(code: int) -> NoReturn:
    """End the process; one of several at once.

    torch leaves threads of sharded runs to be ended while Python takes the process apart, and now and then, on a busy
    machine, that aborts a process in which all is done and closed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    raise SystemExit(code)


@contextlib.contextmanager
def _old_names_in_one_line() -> Iterator[None]:
    """The use of an old name is mentioned in one line, once; other warnings look as ever."""
    told: set[str] = set()
    with warnings.catch_warnings():
        ordinary = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **where: Any) -> None:
            if not issubclass(category, Deprecated):
                ordinary(message, category, *place, **where)
            elif str(message) not in told:
                told.add(str(message))
                print(f"warning: {message}", file=sys.stderr)

        warnings.showwarning = show
        warnings.simplefilter("always", Deprecated)
        yield


def _misused(error: Any) -> NoReturn:
    """A wrong option or value in one line; no command at all gets the help."""
    text, context = error.format_message(), error.ctx
    if text and "\n" not in text:
        path = context.command_path if context else "unlabel"
        text = f"error: {text.replace('Value error, ', '')} (see `{path} --help`)"
    print(text, file=sys.stderr, end="\n" if text else "")
    raise SystemExit(error.exit_code)


def _fail(error: BaseException, debug: bool) -> NoReturn:
    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"error: {_words(error)}", file=sys.stderr)
    _leave(_exit_code(error))


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, UnlabelError):
        return str(error)
    hint = "" if isinstance(error, OSError) else " (this may be a bug; --debug shows where)"
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}{hint}"


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, UnlabelError) else 130 if isinstance(error, KeyboardInterrupt) else 1
