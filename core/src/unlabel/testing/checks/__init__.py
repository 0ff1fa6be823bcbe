"""What a plugin promises, one function a check. The docstring says what and why; the message, how to mend it.

How a component is built, run and compared is in `unlabel.testing.trials`; nothing here imports torch, so that listing
the checks costs nothing. A check returns if all is well, raises `Violation` if the promise is broken, and
`NotApplicable` where there is nothing to check.
"""

from __future__ import annotations

from unlabel.testing.checks import components, datasets, encoders, others, tasks
from unlabel.testing.checks.promise import Check, NotApplicable, Violation, registered

__all__ = ["CHECKS", "PLUGIN_CHECKS", "Check", "NotApplicable", "Violation"]

_MODULES = [module.__name__ for module in (components, tasks, encoders, datasets, others)]
_ORDERED = sorted(registered(), key=lambda check: _MODULES.index(check.function.__module__))

PLUGIN_CHECKS: tuple[Check, ...] = tuple(check for check in _ORDERED if check.kinds == ("plugin",))
"""The checks of a plugin as a whole."""

CHECKS: tuple[Check, ...] = tuple(check for check in _ORDERED if check.kinds != ("plugin",))
"""The checks of its components."""
