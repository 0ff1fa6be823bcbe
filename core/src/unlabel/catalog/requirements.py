"""Whether what a distribution requires admits this version of the core."""

from __future__ import annotations

import re
from collections.abc import Iterable

from unlabel import __version__

__all__ = ["admits", "mismatch", "normalized"]


def normalized(name: str) -> str:
    """A distribution's name as installers compare it: ``"Unlabel_Sonar"`` is ``"unlabel-sonar"``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def mismatch(requires: Iterable[str]) -> str:
    """Why these requirements do not admit this version of the core, or an empty string."""
    for line in requires:
        name = re.match(r"\s*([\w.-]*)", line)
        if name is None or normalized(name.group(1)) != "unlabel":
            continue
        wanted = line[name.end() :].strip().strip("()")
        admitted = admits(wanted)
        if admitted is None:
            from packaging.requirements import Requirement  # takes a while to import

            requirement = Requirement(line)
            wanted = str(requirement.specifier)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            admitted = not applies or requirement.specifier.contains(__version__, prereleases=True)
        if not admitted:
            return f"needs unlabel{wanted}, but unlabel {__version__} is installed: upgrade one of them"
    return ""


def admits(wanted: str) -> bool | None:
    """Whether ``>=1.2,<1.3`` and the like admit this version of the core; None for anything less plain."""
    here = _numbers(__version__)
    for clause in wanted.split(",") if wanted else ():
        plain = re.fullmatch(r"\s*(>=|<=|>|<)\s*([\d.]+)\s*", clause)
        there = _numbers(plain.group(2)) if plain else None
        if plain is None or there is None or here is None:
            return None
        length = max(len(here), len(there))
        left, right = (numbers + (0,) * (length - len(numbers)) for numbers in (here, there))
        if not {">=": left >= right, "<=": left <= right, ">": left > right, "<": left < right}[plain.group(1)]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...] | None:
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)*", version) else None
