"""What evaluations, observers and commands promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlabel.testing.checks.promise import Violation, are_numbers, of

if TYPE_CHECKING:
    from unlabel.testing.optimizer_trial import OptimizerTrial
    from unlabel.testing.trials import CommandTrial, EvaluationTrial, ObserverTrial


# Evaluations


@of("evaluations", costly=True)
def measures(evaluation: EvaluationTrial) -> None:
    """It runs on a frozen tiny run and returns finite numbers by name."""
    are_numbers(evaluation.measured(), evaluation.name)


# Observers


@of("observers")
def hears_every_event(observer: ObserverTrial) -> None:
    """It goes through a whole run of two stages, with logs, saved checkpoints and a bad sample, and an early end.

    A run may end at any moment: an observer that was only made, or only started, must close as well.
    """
    observer.ready()
    observer.made().close()
    observer.started().close()
    made = observer.made()
    observer.told(made)
    made.close()


@of("observers")
def changes_nothing(observer: ObserverTrial) -> None:
    """A run that is observed ends with the same weights, to the bit, as one that is not."""
    observer.ready()
    made = observer.made()
    found = observer.influence(made)
    made.close()
    if found:
        raise Violation(f"an observed run ends elsewhere ({found}): an observer only listens")


# Commands


@of("commands")
def has_help(command: CommandTrial) -> None:
    """A typed function with a docstring, whose `--help` works; its name is none of the core's."""
    if command.taken():
        raise Violation(f"`unlabel {command.name}` is a command of the core's: choose another name")
    untyped = command.untyped()
    if untyped:
        raise Violation(
            f"{', '.join(untyped)} of {command.offer.target} has no type: annotate it, so that values are checked"
        )
    text = command.help()
    if "Usage" not in text:
        raise Violation(
            f"`unlabel {command.name} --help` prints {text[:80]!r}: is the function one that typer can call?"
        )


@of("optimizers")
def descends_and_resumes_exactly(optimizer: OptimizerTrial) -> None:
    """It lowers a loss, and one that goes on from its saved state takes the same steps to the bit."""
    first, last = optimizer.losses()
    if not last < first:
        raise Violation(f"a loss of {first:.4g} became {last:.4g} in {optimizer.UPDATES} updates: does it descend?")
    if place := optimizer.resumed():
        raise Violation(f"a resumed run ends elsewhere ({place}): keep all it needs as tensors or numbers in `state`")
