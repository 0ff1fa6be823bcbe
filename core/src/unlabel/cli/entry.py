"""Entry point of ``unlabel``: which command is which function, and what becomes of an error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from unlabel.cli import authoring, browsing, datasets, errors, plugin_commands, results, training
from unlabel.cli.application import app

__all__ = ["FUNCTIONS", "main"]

FUNCTIONS: dict[str, Callable[..., None]] = {
    "list": browsing.list_,
    "plugins": browsing.plugins,
    "show": browsing.show,
    "train": training.train,
    "resume": training.resume,
    "report": results.report,
    "evaluate": results.evaluate,
    "embed": results.embed,
    "export": results.export,
    "inspect": datasets.inspect,
    "prepare": datasets.prepare,
    "check": authoring.check,
    "bench": training.bench,
    "new-plugin": authoring.new_plugin,
}
"""The core's own commands, in the order of the help."""

for _name, _function in FUNCTIONS.items():
    app.command(_name)(_function)


def main() -> NoReturn:
    """Entry point of ``unlabel``; turns errors into one line and an exit code."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]  # allowed anywhere
    try:
        with errors.old_names_in_one_line():
            plugin_commands.add(FUNCTIONS)
            code = app(prog_name="unlabel", standalone_mode=False)
    except errors.Misuse as error:
        errors.misused(error)
    except (Exception, KeyboardInterrupt) as error:
        errors.fail(error, debug)
    if code == 130:
        print("error: interrupted", file=sys.stderr)
    errors.leave(code if type(code) is int else 0)
