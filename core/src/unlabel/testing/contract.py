"""The contract of a plugin: every check of every component, as tests of any pytest suite or one after the other.

Finding out what there is to check imports neither torch nor the plugin's libraries, so collecting is quick; and a
plugin that is missing or broken is a test that fails and says why, not an error while tests are collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unlabel.catalog.plugins import Catalog, Offer
from unlabel.errors import UnlabelError, UsageError, nearest
from unlabel.testing import tiers
from unlabel.testing.checks import CHECKS, PLUGIN_CHECKS, Check, NotApplicable, Violation
from unlabel.testing.installed import find

__all__ = ["Case", "Result", "cases", "contract", "later", "results"]

Test = Callable[..., None]


@dataclass(frozen=True)
class Case:
    """One check of one component; calling it runs the check.

    Attributes:
        plugin: name of the plugin.
        kind: the hook that offers the component; ``"plugin"`` for the plugin as a whole.
        component: name of the component, or of the plugin.
        check: what is checked.
        catalog: what is installed; None if that cannot be told.
        offer: of the component; None for the plugin as a whole.
    """

    plugin: str
    kind: str
    component: str
    check: Check
    catalog: Catalog | None = field(repr=False, compare=False)
    offer: Offer | None = field(default=None, repr=False, compare=False)

    @property
    def id(self) -> str:
        """What pytest calls it and ``-k`` selects: ``sonar/echo-trains``."""
        return f"{self.component}-{self.check.name}"

    def __call__(self) -> None:
        """Run the check; whatever it runs is refused the network.

        Raises:
            Violation: the component breaks the contract; the message says how, and how to mend it.
            NotApplicable: there is nothing to check here, and why.
        """
        from unlabel.testing import network, trials

        try:
            catalog = self.catalog or Catalog.installed()
            with network.refused():
                self.check.function(trials.of(self.plugin, self.kind, self.component, catalog))
        except UnlabelError as error:  # the host's own message says what is wrong
            raise Violation(str(error)) from error


@dataclass(frozen=True)
class Result:
    """How a check went: ``"ok"``, ``"failed"`` or ``"not applicable"``, and the reason."""

    case: Case
    outcome: str
    reason: str = ""


def cases(plugin: str, catalog: Catalog | None = None) -> list[Case]:
    """Everything there is to check about a plugin, component by component; imports nothing of it but its names.

    Args:
        plugin: name of its entry point.
        catalog: what is installed; default: looked up.
    """
    try:
        catalog = catalog or Catalog.installed()
        found = find(plugin, catalog)
    except UsageError:
        return [Case(plugin, "plugin", plugin, PLUGIN_CHECKS[0], catalog)]  # which fails, and says why
    whole = [Case(plugin, "plugin", plugin, check, catalog) for check in PLUGIN_CHECKS]
    if not found.offers:
        return whole[:1]
    return whole + [
        Case(plugin, offer.kind, offer.name, check, catalog, offer)
        for offer in found.offers
        if offer in catalog.offers(offer.kind)  # or it is another plugin's, and `loads` says so
        for check in CHECKS
        if offer.kind in check.kinds
    ]


def contract(plugin: str, *, skip: Mapping[str, str] | None = None) -> Callable[[Test], Test]:
    """Make a test of every check of every component of a plugin; the test's argument `check` runs it.

    What takes long and is much the same for other components carries pytest's mark ``slow``, so that ``-m "not slow"``
    stays quick; see `unlabel.testing.tiers`.

    Args:
        plugin: name of its entry point.
        skip: id of a check -> why it cannot be met here; shown as a skipped test with that reason. One that is
            not found fails, so that none outlives its reason.

    Returns:
        A decorator for a test function with the argument `check`.
    """
    import pytest

    every = cases(plugin)
    found = {case.id: _under_pytest(case) for case in every}
    for name, reason in (skip or {}).items():
        found[name] = _skipped(reason) if name in found and reason.strip() else _stale(name, found)
    slow = later(every)
    marks = {name: (pytest.mark.slow,) if name in slow else () for name in found}
    parameters = [pytest.param(run, id=name, marks=marks[name]) for name, run in found.items()]
    return pytest.mark.parametrize("check", parameters)


def later(every: Sequence[Case]) -> set[str]:
    """Ids of the checks that need not be in every run of the tests."""
    full = tiers.in_full(dict.fromkeys(case.offer for case in every if case.offer is not None))
    return {case.id for case in every if case.check.costly and case.component not in full}


def _under_pytest(case: Case) -> Callable[[], None]:
    """The check in pytest's words: a violation is a failure without a traceback, since the message says it all."""

    def check() -> None:
        __tracebackhide__ = True
        import pytest

        broken = None
        try:
            case()
        except NotApplicable as reason:
            pytest.skip(f"not applicable: {reason}")
        except Violation as violation:
            broken = str(violation)
        if broken is not None:  # outside of the handler, whose traceback would be shown
            pytest.fail(f"{case.id}: {broken}", pytrace=False)

    return check


def _skipped(reason: str) -> Callable[[], None]:
    def check() -> None:
        __tracebackhide__ = True
        import pytest

        pytest.skip(reason)

    return check


def _stale(name: str, found: Mapping[str, Any]) -> Callable[[], None]:
    what = "has no reason" if name in found else f"is no check of this plugin{nearest(name, found)}"

    def check() -> None:
        __tracebackhide__ = True
        import pytest

        pytest.fail(f"skip={{{name!r}: ...}}: {name} {what}", pytrace=False)

    return check


def results(chosen: list[Case]) -> Iterator[Result]:
    """Run checks one after the other, whatever they raise."""
    for case in chosen:
        try:
            case()
        except NotApplicable as reason:
            yield Result(case, "not applicable", str(reason))
        except (Violation, UnlabelError) as error:
            yield Result(case, "failed", str(error))
        except (Exception, SystemExit) as error:  # whatever the plugin's code does is its failure, not the checker's
            yield Result(case, "failed", f"{type(error).__name__}: {' '.join(str(error).split())} {_place(error)}")
        else:
            yield Result(case, "ok")


def _place(error: BaseException) -> str:
    """Where an error came from: the innermost line, file and number."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return f"({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
