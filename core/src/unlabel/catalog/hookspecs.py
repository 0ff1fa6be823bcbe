"""The seven hooks a plugin may implement. Each returns a dictionary of names; none imports anything heavy.

The first four map a name (``"sonar/echo_order"``) to ``"package.module:attribute"``, a string, so that
listing what is installed imports neither torch nor the plugin's libraries. So do the others. In place
of a target, `unlabel.Moved` keeps the old name of something working for a release.
"""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

from unlabel.catalog.deprecation import Moved

__all__ = ["HOOKS", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("unlabel")
hookimpl = pluggy.HookimplMarker("unlabel")
"""Marks a function of a plugin's table of contents as a hook; its name says which."""


@hookspec
def tasks() -> Mapping[str, str | Moved]:  # type: ignore[empty-body]  # pluggy specifications have no body
    """Pretext tasks: subclasses of `unlabel.Task`. Their module may define paper(), quick(), tiny() recipes."""


@hookspec
def encoders() -> Mapping[str, str | Moved]:  # type: ignore[empty-body]
    """Encoders: classes or functions returning a module with `.dim`."""


@hookspec
def datasets() -> Mapping[str, str | Moved]:  # type: ignore[empty-body]
    """Datasets: subclasses of `unlabel.Dataset`; the first named is the plugin's default."""


@hookspec
def evaluations() -> Mapping[str, str | Moved]:  # type: ignore[empty-body]
    """Downstream evaluations: functions of a `unlabel.Frozen` encoder returning named numbers."""


@hookspec
def optimizers() -> Mapping[str, str | Moved]:  # type: ignore[empty-body]
    """Optimizers: subclasses of `torch.optim.Optimizer` with a keyword `lr`, chosen by a stage of the recipe."""


@hookspec
def commands() -> Mapping[str, str | Moved]:  # type: ignore[empty-body]
    """Subcommands of the command line: typed functions, as typer takes them."""


@hookspec
def observers() -> Mapping[str, str | Moved]:  # type: ignore[empty-body]
    """Loggers: subclasses of `unlabel.Observer`, chosen with ``--observe``."""


HOOKS = ("tasks", "encoders", "datasets", "evaluations", "optimizers", "commands", "observers")
