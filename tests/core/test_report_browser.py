"""The report in a real browser: it works, for everybody, and asks the network for nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, Page, program
from reports import HOSTILE, written

from unlabel import Ref, compose, report
from unlabel.catalog.plugins import Catalog
from unlabel.session import Session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program()
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    return report.write([written(folder / "mine")], folder / "one.html", Catalog([]))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    runs = [written(folder / "a"), written(folder / "b", 1, lr=0.1), written(folder / "c", 2, task="toy/x", updates=9)]
    return report.write(runs, folder / "three.html", Catalog([]))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    return report.write([written(folder / "run", text=HOSTILE)], folder / "run.html", Catalog([]))


def well(page: Page, path: Path) -> None:
    """The script ran to its end, said nothing, and nothing but the file was asked for."""
    assert page.value("document.documentElement.dataset.ready") == "true"
    assert page.complaints() == []
    assert page.requests() == [path.resolve().as_uri()]


@pytest.mark.parametrize("name", ["one", "several", "hostile"])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (360, True)])
def test_it_opens_without_a_complaint_or_a_request(
    browser: Browser, request: pytest.FixtureRequest, name: str, width: int, dark: bool
) -> None:
    path = request.getfixturevalue(name)
    page = browser.open(path, width=width, dark=dark)

    well(page, path)
    assert page.value("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    assert page.value("window.hacked") is None
    assert page.value("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert page.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    drawn = page.value(
        "[...document.querySelectorAll('figure.chart svg.plot')].map(svg => svg.querySelectorAll('path').length)"
    )
    runs = 3 if name == "several" else 1
    assert len(drawn) >= 5
    assert drawn[0] == runs, "a line for every run"
    assert path.stat().st_size < 5e6


def test_the_curve_on_the_screen_is_that_of_the_run(browser: Browser, one: Path) -> None:
    page = browser.open(one)
    points = page.value(
        "document.querySelector('figure.chart path').getAttribute('d').split(/[ML]/).slice(1)"
        ".map(pair => pair.split(' ').map(Number))"
    )
    values = page.value("JSON.parse(document.getElementById('data').textContent).curves[0].series[0].y")
    assert len(points) == len(values) == 40
    xs, ys = zip(*points, strict=True)
    assert all(b > a for a, b in itertools.pairwise(xs))
    low, high = values.index(min(values)), values.index(max(values))
    assert ys[low] == max(ys), "the smallest value is lowest"
    scale = (ys[low] - ys[high]) / (max(values) - min(values))
    assert ys == pytest.approx([ys[low] - scale * (value - min(values)) for value in values], abs=0.2)


def test_its_controls_work_from_the_keyboard(browser: Browser, one: Path) -> None:
    page = browser.open(one)
    page.press("Tab")
    assert page.value("document.activeElement.className") == "skip"
    first = page.value("document.querySelector('figure.chart path').getAttribute('d')")
    page.value("document.querySelector('figure.chart svg.plot').focus()")

    page.press("ArrowRight", "ArrowRight", "ArrowRight")
    readout = page.value("document.querySelector('.readout').textContent")
    third = page.value("JSON.parse(document.getElementById('data').textContent).curves[0].series[0].y[2]")
    assert readout == f"update 3: {third:.4g}"
    assert page.value("document.querySelector('.readout').getAttribute('aria-live')") == "polite"

    page.press("+")
    zoomed = page.value("document.querySelector('figure.chart path').getAttribute('d')")
    assert zoomed != first
    page.press("0", "l")
    assert page.value("document.querySelector('figure.chart [data-do=log]').getAttribute('aria-pressed')") == "true"
    assert page.value("document.querySelector('figure.chart path').getAttribute('d')") not in (first, zoomed)
    page.press("l")
    assert page.value("document.querySelector('figure.chart path').getAttribute('d')") == first

    page.value("document.getElementById('theme').focus()")
    page.press("Enter")
    assert page.value("document.documentElement.dataset.theme") == "dark"
    assert page.value("document.getElementById('theme').getAttribute('aria-pressed')") == "true"
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)"

    page.value("document.querySelector('.map svg.plot').focus()")
    page.press("ArrowRight")
    assert page.value("document.querySelectorAll('.panel li canvas').length") == 5
    chosen = page.value("document.querySelector('.panel p').textContent")
    page.press("ArrowLeft")
    assert page.value("document.querySelector('.panel p').textContent") != chosen
    well(page, one)


def test_dragging_zooms_and_a_double_click_shows_all_again(browser: Browser, one: Path) -> None:
    page = browser.open(one)
    page.value("document.querySelector('figure.chart').scrollIntoView({behavior: 'instant'}), 1")
    box = page.value("(({x, y, width, height}) => [x, y, width, height])"
                     "(document.querySelector('figure.chart svg.plot').getBoundingClientRect())")  # fmt: skip
    first = page.value("document.querySelector('figure.chart path').getAttribute('d')")

    middle = box[1] + box[3] / 2
    page.drag((box[0] + box[2] * 0.4, middle), (box[0] + box[2] * 0.7, middle))

    zoomed = page.value("document.querySelector('figure.chart path').getAttribute('d')")
    assert zoomed != first
    page.value("document.getElementById('reset-all').click(), 1")
    assert page.value("document.querySelector('figure.chart path').getAttribute('d')") == first


def test_runs_of_other_lengths_are_aligned(browser: Browser, several: Path) -> None:
    page = browser.open(several)
    ends = (
        "[...document.querySelectorAll('figure.chart')[0].querySelectorAll('path')]"
        ".map(path => Number(path.getAttribute('d').split(/[ML]/).pop().split(' ')[0]))"
    )
    assert page.value("document.getElementById('along').value") == "share"
    assert len(set(page.value(ends))) == 1, "each run ends at the right"
    page.value("document.getElementById('along').value = 'updates',"
               "document.getElementById('along').dispatchEvent(new Event('change'))")  # fmt: skip
    assert len(set(page.value(ends))) == 2, "the third run is shorter"


def test_everything_has_a_name_and_a_place(browser: Browser, several: Path) -> None:
    page = browser.open(several)
    assert page.value("document.documentElement.lang") == "en"
    for landmark in ("header", "nav[aria-label]", "main", "footer"):
        assert page.value(f"document.querySelectorAll('{landmark}').length") == 1, landmark
    assert page.value("document.querySelectorAll('h1').length") == 1
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    interactive = ("button", "link", "checkbox", "combobox", "application", "img", "image")
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node["ignored"] and node["role"]["value"] in interactive and not node.get("name", {}).get("value")
    ]
    assert nameless == []
    ids = page.value("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids))
    scrolling = "[...document.querySelectorAll('*')].filter(node => node.scrollWidth > node.clientWidth + 1 &&"
    scrolling += " getComputedStyle(node).overflowX === 'auto' && node.tabIndex < 0 && !node.closest('nav')).length"
    assert page.value(scrolling) == 0, "what scrolls can be scrolled from the keyboard"


def test_on_paper_it_is_light_and_without_controls(browser: Browser, one: Path) -> None:
    page = browser.open(one, dark=True)
    page.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.value("window.dispatchEvent(new Event('beforeprint'))")
    assert page.value("document.documentElement.dataset.theme") == "light"
    assert page.value("getComputedStyle(document.querySelector('.top')).display") == "none"
    assert page.value("getComputedStyle(document.querySelector('.tools')).display") == "none"
    assert len(page.call("Page.printToPDF")["data"]) > 10_000


def test_real_runs_of_different_tasks(browser: Browser, tmp_path: Path) -> None:
    """One run, and three of different tasks side by side, as training leaves them."""

    catalog = Catalog.installed()
    folders = []
    for task, steps in (("vision/mae", 4), ("graph/dgi", 4), ("trajectory/ppt", 1)):
        chosen = compose.compose(task, catalog, name="tiny", steps=steps)
        chosen = chosen.model_copy(update={"evaluations": [Ref("knn")]})
        folders.append(tmp_path / task.replace("/", "-"))
        Session(chosen, folders[-1], catalog, quiet=True, evaluate=task == "vision/mae").run()

    single = report.write(folders[:1], None, catalog)
    together = report.write(folders, tmp_path / "three.html", catalog)

    for path in (single, together):
        page = browser.open(path, width=360)
        well(page, path)
        assert path.stat().st_size < 5e6
    shown = page.value("document.body.innerText")
    for words in (
        "vision-mae",
        "graph-dgi",
        "trajectory-ppt",
        "raw inputs",
        "What the recipe tiny of vision/mae claims",
    ):
        assert words in shown
    assert page.value("[...document.querySelectorAll('.film img')].every(image => image.alt.includes('after update'))")
    assert page.value("document.querySelectorAll('.film img').length") >= 10
    assert page.value("document.querySelectorAll('.map svg').length") == 1, "of the run that was evaluated"
