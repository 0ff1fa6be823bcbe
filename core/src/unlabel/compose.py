"""From words to a recipe: names, files, ``--set``, ``--data``, ``A+B``, ``NAME=ENCODER``. Strings end here.

What the command line and `unlabel.train` are given is text; what comes out is a `Recipe` in which every name, field and
keyword has been checked (`unlabel.signature`), although nothing has been built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import yaml

from unlabel import claims, joining, recipe, signature, verify
from unlabel.errors import UsageError, nearest
from unlabel.optim import offers
from unlabel.recipe import Combination, Recipe, Ref, task_labels, task_names

if TYPE_CHECKING:
    from typing import Unpack

    from unlabel.catalog.plugins import Catalog

__all__ = ["Changes", "adapt", "assigned", "compose", "current", "named", "task_recipe", "with_overrides"]


class Changes(TypedDict, total=False):
    """What a user changes of a recipe.

    Attributes:
        data: dataset name or path.
        encoder: catalog name, ``NAME:MODEL`` or ``package.module:factory``; of several, ``PART=NAME`` each.
        steps, epochs, batch_size: of every stage.
        settings: ``path=value`` assignments.
    """

    data: str | None
    encoder: str | Sequence[str] | None
    steps: int | None
    epochs: float | None
    batch_size: int | None
    settings: Iterable[str]


def compose(task: str, catalog: Catalog, *, name: str = "quick", **changes: Unpack[Changes]) -> Recipe:
    """The recipe of a task by name (``paper``, ``quick``, ``tiny``) or from a file, with changes applied.

    Args:
        task: name of the task, or several joined by ``+``; see `unlabel.joint`.
        catalog: what is installed.
        name: recipe function of the task's module, or path of a JSON or YAML file.
        changes: see `Changes`.

    Raises:
        UsageError: anything unknown, with the nearest valid choice.
    """
    task = current(task, catalog)
    original = task_recipe(task, catalog, name, changes.get("encoder"), changes.get("data"))
    if current(original.name, catalog) != task:
        raise UsageError(f"recipe {name} is for task {original.name!r}, not for {task!r}")
    return adapt(original, catalog, **changes)


def adapt(original: Recipe, catalog: Catalog, **changes: Unpack[Changes]) -> Recipe:
    """A recipe with changes applied, and everything in it checked.

    Raises:
        UsageError: anything unknown, with the nearest valid choice.
    """
    adapted = original
    for text in _several(changes.get("encoder")):
        adapted = _with_encoder(adapted, text, catalog)
    if (data := changes.get("data")) is not None:
        adapted = adapted.model_copy(update={"dataset": claims.dataset_ref(data, adapted, catalog)})
    length = {name: changes.get(name) for name in ("steps", "epochs", "batch_size")}
    return with_overrides(adapted.with_length(**length), changes.get("settings", ()), catalog)  # type: ignore[arg-type]


def current(task: str, catalog: Catalog) -> str:
    """A task's name, or several's, as they are now; see `unlabel.Moved`."""
    return "+".join(catalog.current("tasks", part) for part in task_names(task))


# --- recipes by name -----------------------------------------------------------------------------


def named(module: Any) -> dict[str, Callable[[], Recipe]]:
    """The recipes that a task's module offers: ``paper``, ``quick``, ``tiny``, and ``paper_...`` for other data."""
    others = sorted(name for name in vars(module) if name.startswith("paper_"))
    ordered = ("paper", *others, "small", "quick", "tiny")
    return {name: getattr(module, name) for name in ordered if hasattr(module, name)}


def task_recipe(
    task: str, catalog: Catalog, name: str, encoder: str | Sequence[str] | None = None, data: str | None = None
) -> Recipe:
    """The recipe of that name of a task, or what the recipes of several make together.

    Args:
        task: a name, or several joined by ``+``, as they are now.
        catalog: what is installed.
        name: of a recipe function, or a file.
        encoder, data: what the user chooses instead, as `Changes`: of parts that disagree, the one that uses it counts.
    """
    parts = task_names(task)
    recipes = {part: _named_recipe(catalog.find("tasks", part).module(), part, name) for part in parts}
    first = recipes[parts[0]]
    if len(parts) == 1 or first.name == "+".join(parts):  # a file is about all of them
        return first
    encoders = dict(_part(text) for text in _several(encoder))
    return joining.join(recipes, name, encoders=encoders, data=data)


def _named_recipe(module: Any, task: str, name: str) -> Recipe:
    functions = named(module)
    if name in functions:
        return functions[name]()
    if Path(name).suffix in (".json", ".yaml", ".yml") or Path(name).exists():
        return recipe.load(Path(name))
    raise UsageError(
        f"{task} has no recipe {name!r}: expected {', '.join(functions)} or a .json/.yaml file"
        f"{nearest(name, functions)}"
    )


# --- encoders ------------------------------------------------------------------------------------


def _several(encoder: str | Sequence[str] | None) -> list[str]:
    return [] if encoder is None else [encoder] if isinstance(encoder, str) else list(encoder)


def _part(text: str) -> tuple[str, str]:
    """Part and encoder of ``PART=NAME``; the part is empty where none is said."""
    part, equals, name = text.partition("=")
    return (part, name) if equals and part.isidentifier() else ("", text)


def _with_encoder(original: Recipe, text: str, catalog: Catalog) -> Recipe:
    """The recipe with the encoder of ``NAME`` or ``PART=NAME``; its own one by name keeps the recipe's keywords."""
    part, name = _part(text)
    if not part and len(original.encoders) > 1:
        parts = ", ".join(original.encoders)
        raise UsageError(f"--encoder {text}: {original.name} has the encoders {parts}: give --encoder PART={text}")
    if part and list(original.encoders) == ["encoder"]:
        original = _with_named_encoder(original, catalog)
    part = part or next(iter(original.encoders))
    if part in original.encoders and original.encoders[part].name == name:
        return original
    return original.model_copy(update={"encoders": {**original.encoders, part: _encoder_ref(name, catalog)}})


def _with_named_encoder(original: Recipe, catalog: Catalog) -> Recipe:
    """The recipe's only encoder under the name that a task of several gives to the one that it needs."""
    parts: dict[str, bool] = {}
    for ref in original.tasks:
        parts |= signature.encoder_parts(catalog.load("tasks", ref.name))
    needed = [part for part, must in parts.items() if must]
    if "encoder" in parts or not needed:
        return original
    return original.model_copy(update={"encoders": {needed[0]: original.encoder}})


def _encoder_ref(encoder: str, catalog: Catalog) -> Ref:
    """``NAME``, ``NAME:MODEL`` (the encoder's one required keyword) or ``package.module:factory``."""
    name, colon, model = encoder.partition(":")
    name = catalog.current("encoders", name)
    if colon and (name in catalog.names("encoders") or "/" in name):
        needed = signature.required(catalog.load("encoders", name))
        if len(needed) != 1:
            raise UsageError(
                f"--encoder {encoder}: {name} takes no model after a colon; "
                "its keywords are set with --set encoder.KEYWORD=VALUE"
            )
        return Ref(name, **{needed[0]: model})
    if colon:
        catalog.trusted.add(encoder)
        return Ref(encoder)
    return Ref(catalog.find("encoders", name).name)


# --- settings ------------------------------------------------------------------------------------


def with_overrides(original: Recipe, assignments: Iterable[str], catalog: Catalog) -> Recipe:
    """A copy with ``path=value`` assignments applied, e.g. ``stages.0.lr=3e-4`` or ``task.mask_ratio=0.6``.

    Of several tasks, ``task.sonar/echo.delay=3`` (or ``task.echo.delay=3``) changes one, of several encoders
    ``encoders.text.dim=256``; ``stages.*.lr=3e-4`` changes every stage.

    Raises:
        UsageError: unknown field (with the nearest one), or a value of the wrong type.
    """
    data = recipe.canonical(original.model_dump(mode="json"))
    notes = list(original.notes)
    for assignment in assignments:
        pattern, value = assigned(assignment)
        for path in _each_stage(pattern, data):
            _assign(data, _located(path.split("."), data), _renamed(data, path, value, catalog, notes), path)
    overridden = recipe.parse(data, "")
    overridden.notes = notes
    if overridden.name != original.name:
        raise UsageError(
            f"the task {original.name} cannot be changed to {overridden.name} by a setting: start from its recipe"
        )
    verify.verify(overridden, catalog)
    return overridden


def assigned(assignment: str) -> tuple[str, Any]:
    """Path and value of ``path=value``. Values are JSON (numbers, true, null, lists); all else is text, or YAML lists.

    Raises:
        UsageError: there is no ``=``, or a list or mapping does not end.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not path.strip():
        raise UsageError(f"--set {assignment!r}: expected FIELD=VALUE, e.g. stages.0.lr=3e-4")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        try:
            # YAML only for lists and mappings: it takes the words on, no and 1:30 for something else
            value = yaml.safe_load(text) if text.lstrip()[:1] in ("[", "{") else text
        except yaml.YAMLError as error:
            raise UsageError(f"--set {assignment!r}: the value is neither JSON nor YAML") from error
    return path.strip(), value


def _located(parts: list[str], data: dict[str, Any]) -> list[str]:
    """Where a path as users write it lies in a recipe's canonical form."""
    first, *rest = parts
    if first == "task":
        return _located_task(rest, data)
    if first == "encoder":
        if len(data["encoders"]) > 1:
            names = ", ".join(f"encoders.{name}" for name in data["encoders"])
            raise UsageError(f"--set {'.'.join(parts)}: there are several encoders: {names}")
        return ["encoders", next(iter(data["encoders"])), *rest]
    if first == "monitor_every":
        return ["judging", first]
    if first == "init" and rest and not isinstance(data["init"], dict):
        data["init"] = {}
    return parts


def _located_task(rest: list[str], data: dict[str, Any]) -> list[str]:
    names = [ref["name"] for ref in data["tasks"]]
    if len(names) == 1 or not rest:
        return ["tasks", "0", *rest]
    labels = {label: name for name, label in task_labels(names).items()}
    name = labels.get(rest[0], rest[0])
    if name in names:
        return ["tasks", str(names.index(name)), *rest[1:]]
    keyword = "how" if rest[0] == "combine" else rest[0]
    if keyword in Combination.model_fields:
        return ["combination", keyword]
    known = [*names, "combine", *(field for field in Combination.model_fields if field != "how")]
    hint = nearest(rest[0], known) or f"; expected {', '.join(known)}"
    raise UsageError(f"task.{rest[0]}: {'+'.join(names)} has no keyword {rest[0]!r}{hint}")


def _each_stage(path: str, data: dict[str, Any]) -> list[str]:
    """The path; for ``stages.*.lr``, that of each stage."""
    if not path.startswith("stages.*."):
        return [path]
    return [path.replace("*", str(number), 1) for number in range(len(data["stages"]))]


def _renamed(data: Any, path: str, value: Any, catalog: Catalog, notes: list[str]) -> Any:
    """A bare name for a stage's optimizer or schedule, with the options of the one before that it takes too.

    Those that it does not take are noted.
    """
    kind: Literal["optimizer", "schedule"]
    match path.split("."):
        case ["stages", number, "optimizer" as field]:
            kind, fields = "optimizer", _step(data["stages"], number, path)
        case ["stages", number, "optimizers", field]:
            kind, fields = "optimizer", _step(data["stages"], number, path)["optimizers"]
        case ["stages", number, "schedule" | "weight_decay" as field]:
            kind, fields = "schedule", _step(data["stages"], number, path)
        case _:
            return value
    before = fields.get(field)
    if not isinstance(value, str):
        return value
    if not isinstance(before, Mapping):
        return value if field == "weight_decay" else {"name": value}
    former = Ref.model_validate(before)
    options = offers.kept_options(kind, former, value, catalog)
    if dropped := offers.own_options(former).keys() - options.keys():
        notes.append(f"{path}: {value} does not take {', '.join(sorted(dropped))} of {former.name}, which is dropped")
    return {"name": value, "options": options}


def _assign(data: Any, parts: list[str], value: Any, path: str) -> None:
    """Set a place in plain data; existing containers are checked here, leaf names by the model afterwards."""
    place = data
    for part in parts[:-1]:
        place = _step(place, part, path)
    if isinstance(place, list):
        place[_index(place, parts[-1], path)] = value
    elif isinstance(place, dict):
        place[parts[-1]] = value
    else:
        raise UsageError(f"--set {path}: {parts[-2]!r} has no fields")


def _step(place: Any, part: str, path: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, path)]
    if not isinstance(place, dict) or part not in place:
        raise UsageError(f"--set {path}: no field {part!r}{nearest(part, place) if isinstance(place, dict) else ''}")
    return place[part]


def _index(items: list[Any], part: str, path: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise UsageError(f"--set {path}: {part!r} is not one of 0..{len(items) - 1}")
    return int(part)
