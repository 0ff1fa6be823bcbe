"""Pages about what is installed: one for each task, one for each other kind. Everything is asked of the catalog."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from docstrings import prose, sections, table

from unlabel import Catalog, Recipe, Ref, Stage
from unlabel.catalog.plugins import Offer
from unlabel.catalog.summary import summary
from unlabel.describe import component

__all__ = ["Page", "others", "tasks"]

Page = tuple[str, str, str]
"""Path below the documents, title in the navigation, and text."""

_SHOWN = (
    *("name", "steps", "epochs", "batch_size", "optimizer", "lr", "lr_batch_size"),
    *("warmup_steps", "warmup_epochs", "schedule", "weight_decay"),
)
"""Fields of a stage that have a row of their own."""

INTRODUCTION = {
    "encoders": "What is trained. Choose one with `--encoder NAME`; its keywords are set with "
    "`--set encoder.KEYWORD=VALUE`. Any module of your own is one too: `--encoder package.module:factory`.",
    "datasets": "What is trained on. Choose one by its name, or give a path and the plugin's datasets are asked which "
    "of them it is for: `--data NAME` or `--data PATH`. Keywords are set with `--set dataset.KEYWORD=VALUE`.",
    "evaluations": "What a frozen encoder is judged by. Each task names its own; `unlabel evaluate RUN NAME ...` runs "
    "others, and `--set NAME.KEYWORD=VALUE` sets their keywords.",
    "optimizers": "What plugins offer besides torch's. Choose one with `--set stages.0.optimizer=NAME`; its keywords "
    "are set with `--set stages.0.optimizer.KEYWORD=VALUE`.",
    "observers": "What else is told about a run while it goes: `--observe NAME,NAME`.",
}


def tasks(catalog: Catalog) -> Iterator[Page]:
    """The overview of all tasks, then a page for each."""
    offers = catalog.offers("tasks")
    lines = [(offer, summary(offer)) for offer in offers]
    text = "# Pretext tasks\n\nOne page for each installed task, written from its own source.\n"
    for plugin in dict.fromkeys(offer.plugin for offer in offers):
        rows = [
            (f"[{_method(found['summary'])}](tasks/{offer.name}.md)", f"`{offer.name}`", _idea(found["summary"]))
            for offer, found in lines
            if offer.plugin == plugin
        ]
        text += f"\n## {plugin}\n\n{table(('task', 'name', 'idea'), rows)}\n"
    yield "tasks.md", "All tasks", text
    for offer, found in lines:
        yield f"tasks/{offer.name}.md", _method(found["summary"]), task(offer, catalog)


def _method(line: str) -> str:
    """``"MAE"`` out of ``"MAE: hide three quarters of the patches."``."""
    return line.partition(":")[0].strip()


def _idea(line: str) -> str:
    idea = line.partition(":")[2].strip() or line
    return prose(idea[:1].upper() + idea[1:])


def task(offer: Offer, catalog: Catalog) -> str:
    """The page of one task."""
    found = component(offer, catalog)
    up = "../" * (1 + offer.name.count("/"))
    first, _, rest = found["document"].partition("\n")
    paper = f" · [arXiv {found['arxiv']}](https://arxiv.org/abs/{found['arxiv']})" if found["arxiv"] else ""
    parts = [
        f"# {_method(first)}",
        f"`{offer.name}` · plugin `{offer.plugin}`{paper}",
        f"**{_idea(first)}**",
        prose(_sentences(sections(rest)[""])),
        f"```bash\nunlabel train {offer.name}\n```",
        "## Keywords",
        keywords(found["keywords"], "task"),
    ]
    if found.get("loss"):
        parts += ["## Loss and logged numbers", prose(sections(found["loss"])[""])]
        parts += [_healthy(found["expected"])] if found.get("expected") else []
    if found["show"]:
        parts += ["## What it shows", f"{prose(sections(found['show'])[''])} In the run's [report]({up}report.md)."]
    parts += [
        "## Encoders",
        *_encoders(found["encoders"], up),
        "## Evaluations",
        "\n".join(f"- [`{name}`]({up}evaluations.md#{anchor(name)})" for name in found["evaluations"]),
        "Run at the end of training, before and after, and again by `unlabel evaluate RUN`.",
        "## Recipes",
    ]
    for name, details in found["recipes"].items():
        parts += [f"### {name}", *recipe(offer.name, name, details, up)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _encoders(names: list[str], up: str) -> Iterator[str]:
    """The encoders that fit, as ``--encoder`` takes them: of a task with several, ``PART=NAME``."""
    parted = [name.rpartition("=") for name in names]
    fitting = "\n".join(
        f"- {f'`{part}`: ' if part else ''}[`{name}`]({up}encoders.md#{anchor(name)})" for part, _, name in parted
    )
    part = f"{parted[0][0]}=" if parted and parted[0][0] else ""
    yield fitting or "None of this plugin fits."
    yield f"Or your own: `--encoder {part}package.module:factory`."


def _sentences(text: str) -> str:
    """A sentence that begins on a line of its own begins a paragraph: the paper, what is predicted, what differs."""
    return re.sub(r"(?<=\.)\n(?=[A-Z])", "\n\n", text)


def _healthy(expected: dict[str, Any]) -> str:
    ranges = ", ".join(f"`{name}` {_range(low, high)}" for name, (low, high) in expected.items())
    return f"Healthy late in training: {ranges}."


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return f"above {low:g}"
    return f"below {high:g}" if math.isinf(low) else f"from {low:g} to {high:g}"


def recipe(task_name: str, name: str, details: dict[str, Any], up: str) -> Iterator[str]:
    """One recipe: what its author says of it, the exact command, what it is made of, its stages, and it as a file."""
    words, commands = _commands(details["document"])
    yield prose(words)
    yield "```bash\n{}\n```".format("\n".join(commands or [f"unlabel train {task_name} --recipe {name}"]))
    chosen = Recipe.model_validate(details["recipe"])
    refs = [("task", "", ref) for ref in chosen.tasks]
    refs += [
        ("encoder" if len(chosen.encoders) == 1 else f"encoder `{part}`", "encoders.md", ref)
        for part, ref in chosen.encoders.items()
    ]
    rows = []
    for role, page, ref in (*refs, ("dataset", "datasets.md", chosen.dataset)):
        shown = f"[`{ref.name}`]({up}{page}#{anchor(ref.name)})" if page and ":" not in ref.name else f"`{ref.name}`"
        rows.append((role, shown, ", ".join(f"`{key}={value!r}`" for key, value in ref.options.items()) or "defaults"))
    yield table(("", "name", "keywords"), rows)
    yield stages(chosen.stages)
    text = yaml.safe_dump(details["recipe"], sort_keys=False, default_flow_style=None, width=88).rstrip()
    indented = "\n".join(f"    {line}" for line in ["```yaml", *text.split("\n"), "```"])
    yield f'??? note "As a file for `--recipe FILE`"\n\n{indented}'


def _commands(document: str) -> tuple[str, list[str]]:
    """The text of a recipe's docstring without the commands in it, and the commands."""
    pattern = re.compile(r"``(unlabel train [^`]+)``")
    return pattern.sub("", document).strip(), [" ".join(found.split()) for found in pattern.findall(document)]


def stages(chosen: list[Stage]) -> str:
    """The stages of a recipe, one a column: length, batch, rate, and whatever else differs from the defaults."""
    columns = [_stage(stage) for stage in chosen]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = ([name, *(column.get(name, "") for column in columns)] for name in names)
    return table(("stage", *(f"`{stage.name}`" for stage in chosen)), rows)


def _stage(stage: Stage) -> dict[str, str]:
    """What a reader asks first, in words; then the other fields that are not at their defaults, as `--set` has them."""
    warmup = f"{stage.warmup_epochs:g} epochs" if stage.warmup_epochs else f"{stage.warmup_steps} updates"
    scaled = f", stated for a batch of {stage.lr_batch_size} and scaled" if stage.lr_batch_size else ""
    words = {
        "length": f"{stage.epochs:g} epochs" if stage.epochs is not None else f"{stage.steps} updates",
        "batch size": str(stage.batch_size),
        "optimizer": _ref(stage.optimizer),
        "learning rate": f"{stage.lr:g}{scaled}",
        "warm-up": warmup if stage.warmup_epochs or stage.warmup_steps else "none",
        "schedule": _ref(stage.schedule),
        "weight decay": _ref(stage.weight_decay) if isinstance(stage.weight_decay, Ref) else f"{stage.weight_decay:g}",
    }
    further = {
        name: value
        for name, value in stage.model_dump(mode="json", exclude_defaults=True).items()
        if name not in _SHOWN
    }
    further["groups"] = "; ".join(_group(group) for group in further.pop("groups", []))
    return words | {f"`{name}`": f"`{value}`" for name, value in further.items() if value != ""}


def _ref(ref: Ref) -> str:
    """``adamw (betas=(0.9, 0.95))``."""
    options = ", ".join(f"{name}={value}" for name, value in ref.options.items())
    return f"{ref.name} ({options})" if options else ref.name


def _group(group: dict[str, Any]) -> str:
    """``encoder.*: lr_scale=0.1``."""
    changes = (
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in group.items()
        if name != "pattern"
    )
    return f"{group['pattern']}: {', '.join(changes)}"


def keywords(entries: list[dict[str, Any]], role: str) -> str:
    """Keywords with type, default and meaning."""
    if not entries:
        return "None."
    rows = [
        (
            f"`{entry['name']}`",
            f"`{entry['type']}`",
            "required" if entry["required"] else f"`{entry['default']!r}`",
            prose(entry["meaning"]),
        )
        for entry in entries
    ]
    hint = f"Set one with `--set {role}.{entries[0]['name']}=VALUE`.\n\n" if role else ""
    return hint + table(("keyword", "type", "default", "meaning"), rows)


def others(kind: str, catalog: Catalog) -> Page:
    """The page of all encoders, datasets, evaluations or observers."""
    offers = catalog.offers(kind)
    text = f"# {kind.capitalize()}\n\n{INTRODUCTION[kind]}\n"
    for plugin in dict.fromkeys(offer.plugin for offer in sorted(offers, key=lambda o: (o.plugin != "core", o.plugin))):
        text += f"\n## {plugin}\n"
        for offer in offers:
            if offer.plugin == plugin:
                text += f"\n### `{offer.name}` {{ #{anchor(offer.name)} }}\n\n{_section(offer, catalog)}\n"
    return f"{kind}.md", kind.capitalize(), text


def _section(offer: Offer, catalog: Catalog) -> str:
    found = component(offer, catalog)
    body = prose(sections(found["document"])[""])
    role = offer.name if offer.kind == "evaluations" else ""
    entries = [entry for entry in found["keywords"] if offer.kind != "observers"]
    returns = sections(found["document"]).get("Returns", "") if offer.kind == "evaluations" else ""
    measured = f"\n\nMeasures: {prose(returns)}" if returns else ""
    return body + measured + (f"\n\n{keywords(entries, role)}" if entries else "")


def anchor(name: str) -> str:
    """The anchor of a name on the page of its kind."""
    return re.sub(r"[^\w]+", "-", name)
