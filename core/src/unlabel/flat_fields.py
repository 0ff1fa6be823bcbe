"""Flat fields of a stage, as version 0.1 wrote them: options of the optimizer and of the schedule now.

``Stage(optimizer="adamw", betas=(0.9, 0.95), min_lr=1e-6)``, files with such fields and
``--set stages.0.betas=[0.9,0.95]`` mean what they meant: each optimizer and schedule gets what version 0.1 gave it, and
what it knows nothing of is left out. Imports nothing heavy, as recipes are read without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["FIELDS", "defaults_of", "folded"]

FIELDS = {
    "betas": "optimizer.betas",
    "eps": "optimizer.eps",
    "momentum": "optimizer.momentum",
    "nesterov": "optimizer.nesterov",
    "trust_coefficient": "optimizer.trust_coefficient",
    "min_lr": "schedule.end",
    "milestones": "schedule.milestones",
    "gamma": "schedule.gamma",
    "power": "schedule.power",
}
"""Where each of them is now."""

_VERSION_0_1 = {
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "momentum": 0.9,
    "nesterov": False,
    "trust_coefficient": 0.001,
    "end": 0.0,
    "milestones": (),
    "gamma": 0.1,
    "power": 1.0,
}
"""What they were where nothing was said."""

_ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}

_TAKEN: dict[str, dict[str, Any]] = {
    "adam": _ADAM,
    "adamw": _ADAM,
    "adamax": _ADAM,
    "nadam": _ADAM,
    "radam": _ADAM,
    "adagrad": {"eps": 1e-10},
    "adadelta": {"eps": 1e-6},
    "rmsprop": {"eps": 1e-8, "momentum": 0.0},
    "asgd": {},
    "sgd": {"momentum": 0.0, "nesterov": False},
    "muon": {"momentum": 0.95, "nesterov": True, "eps": 1e-7},
    "lars": {"momentum": 0.9, "nesterov": False, "trust_coefficient": 0.001},
    "cosine": {"end": 0.0},
    "linear": {"end": 0.0},
    "polynomial": {"end": 0.0, "power": 1.0},
    "step": {"milestones": (), "gamma": 0.1},
    "constant": {},
}
"""Which of them version 0.1 gave to which optimizer or schedule, and what is its own default."""

_STILL_GIVEN = ("sgd", "rmsprop", "adagrad", "adadelta")
"""Optimizers that get what version 0.1 gave them also where nothing is said, though it is not torch's default."""


def defaults_of(name: str) -> dict[str, Any]:
    """Options an optimizer gets where nothing is said of them, as far as they differ from its own defaults."""
    if name.lower() not in _STILL_GIVEN:
        return {}
    return {key: _VERSION_0_1[key] for key, own in _TAKEN[name.lower()].items() if _VERSION_0_1[key] != own}


def folded(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stage, with the flat ones among the options of optimizer and schedule.

    Args:
        stage: plain data or models, in any of the forms that `unlabel.recipe.Ref` takes; left as it is.
    """
    fields = {name: value for name, value in stage.items() if name not in FIELDS}
    for owner, default in (("optimizer", "adamw"), ("schedule", "cosine")):
        more = {
            place.partition(".")[2]: stage[name]
            for name, place in FIELDS.items()
            if name in stage and place.startswith(owner)
        }
        if more:
            fields[owner] = _with(fields.get(owner, default), more)
    return fields


def _with(owner: Any, more: dict[str, Any]) -> Any:
    """A reference with more options; as it is if it is none, which its own validation says better."""
    reference = {"name": owner} if isinstance(owner, str) else owner.model_dump() if _is_model(owner) else owner
    if not isinstance(reference, Mapping) or not isinstance(reference.get("name"), str):
        return owner
    nested = reference.get("options")
    flat = {key: value for key, value in reference.items() if key not in ("name", "options")}
    options = {**nested, **flat} if isinstance(nested, Mapping) else flat
    keywords = _TAKEN.get(reference["name"].lower())
    for key, value in more.items():
        value = tuple(value) if isinstance(value, list) else value
        if keywords is None and value != _VERSION_0_1[key]:
            options[key] = value  # one that version 0.1 did not know: whoever says it means it
        elif keywords is not None and key in keywords:
            options[key] = value
            if value == keywords[key] and key not in defaults_of(reference["name"]):
                del options[key]  # its own default
    return {"name": reference["name"], "options": options}


def _is_model(value: Any) -> bool:
    return hasattr(value, "model_dump")
