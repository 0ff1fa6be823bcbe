"""Docstrings as Markdown: paragraphs, ``Args:`` sections, arXiv numbers as links. No name is looked up anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["cell", "link_papers", "prose", "sections", "table", "to_markdown"]

_PAPER = re.compile(r"(?:arXiv[: ]\s*)?\b(\d\d(?:0[1-9]|1[0-2])\.\d{4,5})\b")
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):\s*$", re.MULTILINE)
_ITEM = re.compile(r"^(?:[-*]|\d+\.) ")
_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)


def sections(document: str) -> dict[str, str]:
    """The text before any section under ``""``, then each section's dedented body by its name."""
    parts = _SECTION.split(document)
    found = {"": parts[0].strip()}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        lines = body.strip("\n").split("\n")
        end = next((n for n, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
        found[name] = "\n".join(line.removeprefix("    ") for line in lines[:end]).strip()
        rest = "\n".join(lines[end:]).strip()
        found[""] += f"\n\n{rest}" if rest else ""
    return found


def prose(text: str) -> str:
    """Paragraphs of a docstring: lines joined, lists kept, markup that is not meant escaped, papers linked."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.split("\n")
        if all(line.startswith("    ") for line in lines if line):
            paragraphs.append(paragraph)  # an indented block is code in both
            continue
        joined = ""
        for line in lines:
            joined += ("\n" if _ITEM.match(line) else " ") + line.strip()
        joined = joined.strip()
        joined = re.sub(r"(?<!\n)\n(?=(?:[-*]|\d+\.) )", "\n\n", joined, count=1) if not _ITEM.match(joined) else joined
        joined = joined.removesuffix(":") if joined.endswith("::") else joined  # what says that code follows
        paragraphs.append(link_papers(_escaped(joined)))
    return "\n\n".join(paragraphs)


def _escaped(text: str) -> str:
    """Text outside code spans in which ``<``, ``*`` and ``_`` stand for themselves."""
    pieces = _CODE.split(text)
    for number in range(0, len(pieces), 2):
        piece = pieces[number].replace("<", "&lt;")
        pieces[number] = re.sub(r"(?<!\n)(?<!^)([*_])", r"\\\1", piece)
    return "".join(pieces)


def link_papers(text: str) -> str:
    """The text with every arXiv number outside code spans as a link."""
    pieces = _CODE.split(text)
    for number in range(0, len(pieces), 2):
        pieces[number] = _PAPER.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", pieces[number])
    return "".join(pieces)


def cell(text: object) -> str:
    """Text for a cell of a table: one line, bars escaped outside code spans."""
    pieces = _CODE.split(" ".join(str(text).split()))
    pieces[::2] = [piece.replace("|", "\\|") for piece in pieces[::2]]
    return "".join(pieces)


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; empty without rows."""
    names, lines = list(head), [" | ".join(cell(entry) for entry in row) for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *(f"| {line} |" for line in lines)])


def to_markdown(document: str) -> str:
    """A whole docstring, its sections as tables or paragraphs."""
    found = sections(document)
    parts = [prose(found.pop(""))]
    for name, body in found.items():
        title = {"Args": "Arguments"}.get(name, name)
        entries = _entries(body) if name in ("Args", "Attributes", "Raises") else []
        if entries:
            parts.append(table([title, ""], ((f"`{entry}`", prose(meaning)) for entry, meaning in entries)))
        else:
            parts.append(f"**{title}**\n\n{prose(body)}")
    return "\n\n".join(part for part in parts if part)


def _entries(body: str) -> list[tuple[str, str]]:
    """The ``name: meaning`` entries of a section, a meaning's further lines joined."""
    found: list[tuple[str, str]] = []
    for line in body.split("\n"):
        entry = re.match(r"^(\*{0,2}\w[\w., *]*):\s*(.*)", line)
        if entry:
            found.append((entry.group(1), entry.group(2)))
        elif found and line.strip():
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found
