"""Recipes of several tasks as one, and back: what the parts agree on, and what each says of its own."""

from __future__ import annotations

from collections.abc import Mapping

from unlabel.errors import UsageError
from unlabel.recipe import Combination, Group, Recipe, Ref, Stage, task_labels

__all__ = ["join", "part"]


def join(
    recipes: Mapping[str, Recipe], kind: str, *, encoders: Mapping[str, str] | None = None, data: str | None = None
) -> Recipe:
    """One recipe out of the parts' own: their tasks, the encoders and data they agree on, the first one's stages.

    Args:
        recipes: name of the task -> its recipe; one alone is returned as it is.
        kind: what these recipes are called, for messages.
        encoders: what the user chose instead, by the encoder's name ("": whichever there is); the keywords of the part
            that uses it are taken.
        data: likewise.

    Raises:
        UsageError: the recipes disagree and nothing was chosen, or a part other than the first needs several stages.
    """
    first, *others = recipes.values()
    if not others:
        return first
    joined = "+".join(recipes)
    for other in others:
        if len(other.stages) > 1:
            raise UsageError(
                f"{joined}: {other.name} trains in {len(other.stages)} stages "
                f"({', '.join(s.name for s in other.stages)}): name it first, or write the stages into a recipe file"
            )
    overrides, agreed = encoders or {}, {}
    for part in dict.fromkeys(part for one in recipes.values() for part in one.encoders):
        users = {name: one.encoders[part] for name, one in recipes.items() if part in one.encoders}
        agreed[part] = _agreed(users, joined, kind, "--encoder", overrides.get(part, overrides.get("")))
    datasets = {name: one.dataset for name, one in recipes.items()}
    return first.model_copy(
        update={
            "tasks": [one.task for one in recipes.values()],
            "encoders": agreed,
            "dataset": _agreed(datasets, joined, kind, "--data", data),
            "stages": [_joined_stage(stage, recipes) for stage in first.stages],
            "combination": Combination(),
            "evaluations": None,
        }
    )


def _joined_stage(stage: Stage, recipes: Mapping[str, Recipe]) -> Stage:
    """A stage of the first part with what every part says about its own losses and parameters."""
    groups: list[Group] = []
    weights: dict[str, float] = {}
    options = dict(stage.options)
    for number, (name, label) in enumerate(task_labels(list(recipes)).items()):
        own = recipes[name].stages[0] if number else stage
        for group in own.groups:
            shared = tuple(f"{encoder}." for encoder in ("encoder", *recipes[name].encoders))
            common = group.pattern.startswith((*shared, "*"))  # encoders are trained as the first part says
            if not common:
                groups.append(group.model_copy(update={"pattern": f"parts.{label}.{group.pattern}"}))
            elif number == 0:
                groups.append(group)
        weights |= {f"loss_{label}{loss.removeprefix('loss')}": weight for loss, weight in own.weights.items()}
        options = {**own.options, **options}
    return stage.model_copy(update={"groups": groups, "weights": weights, "options": options})


def _agreed(refs: Mapping[str, Ref], joined: str, kind: str, option: str, override: str | None) -> Ref:
    """What all parts use, or of what they use the one that was chosen."""
    first = next(iter(refs.values()))
    if override is not None:
        return next((ref for ref in refs.values() if ref.name == override), first)
    if any(ref != first for ref in refs.values()):
        used = ", ".join(f"{name}: {ref.name}{_shown(ref)}" for name, ref in refs.items())
        raise UsageError(
            f"{joined}: the {kind} recipes of its parts differ ({used}): choose one, e.g. {option} {first.name}"
        )
    return first


def _shown(ref: Ref) -> str:
    return f" ({', '.join(f'{key}={value}' for key, value in ref.options.items())})" if ref.options else ""


def part(joined: Recipe) -> dict[str, Recipe]:
    """A recipe of several tasks as one of each alone, by name: `join` backwards, as far as that can be.

    Encoders, dataset and stages are those of the run; losses and parameters have the names they have in the part alone.
    A recipe of one task comes back as it is.
    """
    if len(joined.tasks) == 1:
        return {joined.name: joined}
    labels = task_labels([ref.name for ref in joined.tasks])
    return {
        ref.name: joined.model_copy(
            update={
                "task": ref,
                "stages": [_stage_of(labels[ref.name], stage) for stage in joined.stages],
                "combination": Combination(),
            }
        )
        for ref in joined.tasks
    }


def _stage_of(label: str, stage: Stage) -> Stage:
    """What a joint stage says about one part's losses and parameters, by that part's own names."""
    mine, prefix = f"loss_{label}", f"parts.{label}."
    weights = {
        f"loss{name.removeprefix(mine)}": weight
        for name, weight in stage.weights.items()
        if name == mine or name.startswith(f"{mine}_")
    }
    groups = [
        group.model_copy(update={"pattern": group.pattern.removeprefix(prefix)})
        for group in stage.groups
        if not group.pattern.startswith("parts.") or group.pattern.startswith(prefix)
    ]
    return stage.model_copy(update={"weights": weights, "groups": groups})
