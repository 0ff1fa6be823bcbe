"""Whether a recipe can be run: every name and keyword of it against what is installed, before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlabel import signature
from unlabel.errors import UsageError, nearest
from unlabel.optim import offers
from unlabel.recipe import Recipe

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog

__all__ = ["verify", "verify_stages"]


def verify(recipe: Recipe, catalog: Catalog) -> None:
    """Check every keyword of every component against its real signature and type, without building any.

    Args:
        recipe: its keywords are converted in place.
        catalog: what is installed.

    Raises:
        UsageError: an unknown name or keyword (with the nearest), a value of the wrong type, or an encoder too many or
            too few for the tasks.
    """
    for ref in recipe.tasks:
        role = "task" if len(recipe.tasks) == 1 else f"task.{ref.name}"
        make = catalog.load("tasks", ref.name)
        ref.options = signature.keywords(ref, make, role, given=signature.encoder_parts(make))
    _verify_encoders(recipe, catalog)
    for name, ref in recipe.encoders.items():
        role = "encoder" if len(recipe.encoders) == 1 else f"encoders.{name}"
        ref.options = signature.keywords(ref, signature.factory(ref, "encoders", catalog), role)
    recipe.dataset.options = signature.keywords(
        recipe.dataset, signature.factory(recipe.dataset, "datasets", catalog), "dataset"
    )
    verify_stages(recipe, catalog)
    for ref in recipe.evaluations or ():
        signature.keywords(ref, catalog.load("evaluations", ref.name), "evaluation", skip=1)
    if isinstance(recipe.init, str) and len(recipe.encoders) > 1:
        names = ", ".join(recipe.encoders)
        raise UsageError(
            f"--init {recipe.init}: {recipe.name} has the encoders {names}: give --init PART={recipe.init}"
        )
    for name in recipe.first_weights:
        if name not in recipe.encoders:
            raise UsageError(f"init.{name}: there is no encoder {name!r}{nearest(name, recipe.encoders)}")


def _verify_encoders(recipe: Recipe, catalog: Catalog) -> None:
    """Whether every part of every task gets an encoder, and every encoder goes somewhere."""
    used: set[str] = set()
    for ref in recipe.tasks:
        make = catalog.load("tasks", ref.name)
        for part, needed in signature.encoder_parts(make).items():
            source = signature.encoder_of(part, make, recipe)
            if source is not None:
                used.add(source)
            elif needed:
                parts = ", ".join(signature.encoder_parts(make))
                raise UsageError(f"{ref.name} has the encoders {parts}: give --encoder {part}=NAME")
    for name in recipe.encoders.keys() - used:
        known = [part for ref in recipe.tasks for part in signature.encoder_parts(catalog.load("tasks", ref.name))]
        hint = nearest(name, known) or f"; it has {', '.join(dict.fromkeys(known))}"
        raise UsageError(f"encoders.{name}: {recipe.name} has no encoder of that name{hint}")


def verify_stages(recipe: Recipe, catalog: Catalog) -> None:
    """Check the optimizers and schedules of every stage, as `verify` does, and find those that plugins offer."""
    for number, stage in enumerate(recipe.stages):
        offers.check(stage, f"stages.{number}", catalog)
