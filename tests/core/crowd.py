"""Many plugins, to see what a crowd of them costs: as `unlabel new-plugin` writes them, and larger ones."""

from __future__ import annotations

from pathlib import Path

import environments

from unlabel import Catalog
from unlabel.scaffold import plugin

OFFERS = {
    "tasks": ("order", "masked"),
    "encoders": ("conv", "transformer"),
    "datasets": ("tones", "files"),
    "evaluations": ("tagging",),
    "commands": ("play",),
    "observers": ("journal",),
}


def fresh(folder: Path, count: int) -> list[Path]:
    """Write `count` distributions as `unlabel new-plugin` does, called fresh00 and so on, and return their folders."""
    return [plugin.write(f"fresh{number:02}", folder, Catalog([])) for number in range(count)]


def crowd(folder: Path, count: int) -> list[Path]:
    """Write `count` distributions with nine names each, called crowd00 and so on, and return their folders."""
    return [_member(folder, f"crowd{number:02}") for number in range(count)]


def _member(folder: Path, name: str) -> Path:
    package = f"unlabel_{name}"
    hooks = ['"""Names."""\n\nfrom unlabel import hookimpl\n']
    for hook, things in OFFERS.items():
        # commands are called without a prefix
        table = {(f"{name}-{t}" if hook == "commands" else f"{name}/{t}"): f"{package}.{t}:{t.title()}" for t in things}
        hooks.append(f"@hookimpl\ndef {hook}() -> dict[str, str]:\n    return {table!r}\n")
    modules = {thing: _module(thing) for things in OFFERS.values() for thing in things}
    requires = ["unlabel>=0.1,<0.2", "numpy>=1.26", "torch>=2.11"]
    return environments.project(folder, name, "\n\n".join(hooks), modules=modules, requires=requires)


STEP = """
def step{n}(x: torch.Tensor) -> torch.Tensor:
    \"\"\"Step {n}: (N, D) to (N, D).\"\"\"
    y = x + {n}
    return y * 2

"""

METHOD = """
    def method{n}(self, x: int) -> int:
        \"\"\"Method {n}.\"\"\"
        return x + {n}
"""

MODULE = """\
\"\"\"{title}: which half was heard first?

Nobody, 2031, arXiv 3101.00001. Predicts one half from the other.
\"\"\"

import torch

{steps}

class {title}:
    \"\"\"{title} of sounds.

    Args:
        width: of the layers.
    \"\"\"
{methods}"""


def _module(thing: str) -> str:
    """Some hundred lines with a class among functions; torch is imported, so that importing it would be noticed."""
    steps = "".join(STEP.format(n=n) for n in range(20))
    methods = "".join(METHOD.format(n=n) for n in range(12))
    return MODULE.format(title=thing.title(), steps=steps, methods=methods)
