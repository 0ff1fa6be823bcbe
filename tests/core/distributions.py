"""Small real distributions, written to a folder as an installer would leave them there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import dedent

HOOKS = "from unlabel import hookimpl\n"


def write(
    folder: Path,
    name: str,
    plugin: str,
    *,
    modules: Mapping[str, str] | None = None,
    requires: Iterable[str] = ("unlabel",),
    distribution: str | None = None,
) -> None:
    """Write package ``<name>_plugin`` and the metadata of distribution ``unlabel-<name>`` 0.1 into `folder`.

    Args:
        folder: a folder of the import path.
        name: name of the entry point, which is the plugin's.
        plugin: source of the package's ``plugin.py``.
        modules: further modules of the package: name -> source.
        requires: requirement lines of the distribution.
        distribution: another name for it.
    """
    package = folder / f"{name}_plugin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for module, source in {"plugin": plugin, **(modules or {})}.items():
        (package / f"{module}.py").write_text(dedent(source))
    distribution = distribution or f"unlabel-{name}"
    metadata = folder / f"{distribution.replace('-', '_')}-0.1.dist-info"
    metadata.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {distribution}",
        "Version: 0.1",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (metadata / "METADATA").write_text("\n".join(lines) + "\n")
    (metadata / "entry_points.txt").write_text(f"[unlabel]\n{name} = {name}_plugin.plugin\n")


def offering(hook: str, names: Mapping[str, str]) -> str:
    """Source of a plugin with one hook that offers these names."""
    return f"{HOOKS}\n@hookimpl\ndef {hook}():\n    return {dict(names)!r}\n"
