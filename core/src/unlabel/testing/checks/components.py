"""What the plugin as a whole promises, and every component whatever its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlabel.testing.checks.promise import Violation, of

if TYPE_CHECKING:
    from unlabel.testing.component import Component
    from unlabel.testing.trials import Whole

EVERYTHING = ("tasks", "encoders", "datasets", "evaluations", "optimizers", "commands", "observers")


@of("plugin")
def loads(plugin: Whole) -> None:
    """The plugin is installed, and the host finds nothing wrong with it.

    A name without the plugin's prefix, or that two plugins claim, a misspelt hook, something printed while importing.
    """
    problems = plugin.found.problems
    if problems:
        raise Violation("; ".join(problems))


@of("plugin")
def imports_nothing_heavy(plugin: Whole) -> None:
    """Asking what the plugin offers imports neither torch nor numpy, in an interpreter of its own.

    Every `unlabel` command asks every installed plugin; one heavy import costs all of them seconds.
    """
    heavy = plugin.imported() & {"torch", "numpy"}
    if heavy:
        raise Violation(
            f"the plugin's entry point imports {' and '.join(sorted(heavy))}: name components by strings "
            "('package.module:Class'), and move imports out of its module and of the package's __init__.py"
        )


@of(*EVERYTHING)
def resolves(component: Component) -> None:
    """The name leads to an object of the kind that it is offered as."""
    wrong = component.misfit()
    if wrong:
        raise Violation(wrong)


@of(*EVERYTHING)
def is_described(component: Component) -> None:
    """There is a docstring, whose first line says in one sentence what this is; `unlabel list` shows it.

    A task's is its module's: the idea, the paper, what is predicted from what, where it differs.
    """
    line = component.document.partition("\n")[0]
    where = (
        f"module {component.offer.target.partition(':')[0]}" if component.kind == "tasks" else component.offer.target
    )
    if not line:
        raise Violation(f"{where} has no docstring: say in its first line what {component.name} is")
    if len(line) > 160:
        raise Violation(f"the first line of {where} has {len(line)} characters: one short sentence, then a blank line")


@of("tasks", "encoders", "datasets", "evaluations")
def keywords_documented(component: Component) -> None:
    """Every keyword has a type and a meaning under ``Args:``, and a task's has a default and is keyword-only.

    Keywords are the configuration: `unlabel show` prints them, and values given on the command line are checked
    against their types. The defaults of a task are its paper's.
    """
    problems = component.undocumented()
    if problems:
        raise Violation("; ".join(problems))
