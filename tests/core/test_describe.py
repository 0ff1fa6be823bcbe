"""One line about a name is read from the source, whatever the source looks like; all about one, from the object."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlabel.catalog.plugins import Catalog, Offer, Plugin
from unlabel.catalog.summary import summary
from unlabel.describe import component

SOURCE = '''
"""The module. arXiv 2101.00001."""

class Plain:
    """Plain one.

    More.
    """

class Bare:
    def method(self):
        """Not the class's."""

@decorated(
    "x",
)
class Spread(
    Base,
    key={"a":
         "not a docstring"},
):  # a remark
    r"""Spread out."""

def function(
    x: int = 3, *, table: dict[str, str] = {"k": "v"}
) -> dict[str, int]:
    'Single quotes.'
    return {"a":
        "b"}

async def later():
    # a remark first
    """Asynchronous."""

def mute(): return {"a":
    """no docstring"""}

class PlainNot:
    """Another."""
'''


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Plain", "Plain one."),
        ("Bare", "The module. arXiv 2101.00001."),
        ("Spread", "Spread out."),
        ("function", "Single quotes."),
        ("later", "Asynchronous."),
        ("mute", "The module. arXiv 2101.00001."),
        ("absent", "The module. arXiv 2101.00001."),
    ],
)
def test_the_line_is_that_of_the_object_or_else_of_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str
) -> None:
    (tmp_path / "described.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))

    assert summary(Offer("encoders", "toy/x", f"described:{name}", "toy"))["summary"] == line
    task = summary(Offer("tasks", "toy/x", f"described:{name}", "toy"))
    assert (task["summary"], task["arxiv"]) == ("The module. arXiv 2101.00001.", "2101.00001")


@pytest.mark.parametrize(
    "source", [b"class A:\n    '''un\0terminated'''", b"class A(:", b"\xff\xfe\x00", b"class A:\n" + b"(" * 5000, b""]
)
def test_what_is_no_python_has_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: bytes) -> None:
    (tmp_path / "garbage.py").write_bytes(source)
    monkeypatch.syspath_prepend(str(tmp_path))

    assert summary(Offer("encoders", "toy/x", "garbage:A", "toy"))["summary"] == ""


@pytest.mark.parametrize("target", ["no_such_module:A", ":A", "..:A", "a\0b:A", "os.path.x:A", "__main__:A"])
def test_a_target_that_leads_nowhere_has_no_line(target: str) -> None:
    assert isinstance(summary(Offer("encoders", "toy/x", target, "toy"))["summary"], str)


MATCHING = '''
"""Match: which sound goes with which picture?"""

from torch import nn

from unlabel import Task


class Eye(nn.Module): ...


class Ear(nn.Module): ...


class Match(Task):
    """Match.

    Args:
        image, sound: what is matched.
        margin: how far apart.
    """

    outputs = ("image", "sound")

    def __init__(self, image: Eye, sound: Ear, *, margin: float = 0.1): ...

    def show(self, batch):
        """Pictures beside waves."""
'''


def test_the_encoders_of_a_task_with_several_are_named_as_they_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "matching.py").write_text(MATCHING)
    monkeypatch.syspath_prepend(str(tmp_path))
    offers = [
        Offer("encoders", "toy/eye", "matching:Eye", "toy"),
        Offer("encoders", "toy/ear", "matching:Ear", "toy"),
        Offer("tasks", "toy/match", "matching:Match", "toy"),
    ]

    described = component(offers[2], Catalog([Plugin("toy", "unlabel-toy", "0.1", offers)]))

    assert described["encoders"] == ["image=toy/eye", "sound=toy/ear"]
    assert [keyword["name"] for keyword in described["keywords"]] == ["margin"]
    assert (described["show"], described["outputs"]) == ("Pictures beside waves.", ["image", "sound"])
