"""The site: it builds strictly, a link that leads nowhere fails, and every task has its page."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import unlabel
from unlabel import Catalog
from unlabel.describe import component

ROOT = Path(__file__).resolve().parents[2]

Pages = dict[str, list[tuple[str, str, str]]]
"""Group of the navigation -> path, title and text of its pages."""


def build(root: Path, site: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What ``make docs`` does, for the checkout or a copy of it."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(site)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1", **variables},
    )


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    """The module that writes the generated pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "generate"))
        yield importlib.import_module("pages")
    for name in ("pages", "components", "reference", "docstrings"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def generated(generator: ModuleType) -> Pages:
    """Every generated page."""
    return generator.generated(Catalog.installed())


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    answer = build(ROOT, tmp_path / "site")

    assert answer.returncode == 0, answer.stderr
    for name in Catalog.installed().names("tasks"):
        assert (tmp_path / "site" / "tasks" / f"{name}.html").is_file(), name
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r'<(?:script|img|iframe)\b[^>]*\bsrc="(https?:[^"]+)"', page.read_text(encoding="utf-8"))
        styles = re.findall(r'<link\b[^>]*\bhref="(https?:[^"]+)"', page.read_text(encoding="utf-8"))
        assert fetched + styles == [], page


@pytest.mark.slow
def test_a_link_that_leads_nowhere_fails(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "start.md").open("a", encoding="utf-8") as page:
        page.write("\n[a](nowhere.md) [b](recipes.md#no-such-heading) [c](tasks/sonar/none.md) [d](/absolute.md)\n")
    (tmp_path / "docs" / "forgotten.md").write_text("# In no navigation\n", encoding="utf-8")

    answer = build(tmp_path, tmp_path / "site", UNLABEL_PLUGINS="")

    assert answer.returncode != 0
    assert "Aborted with 5 warnings in strict mode" in answer.stdout + answer.stderr  # the five, and no other
    for words in ("'nowhere.md'", "'#no-such-heading'", "'tasks/sonar/none.md'", "'/absolute.md'", "forgotten.md"):
        assert words in answer.stderr


def test_a_plugin_that_cannot_be_shown_fails_the_build(generator: ModuleType) -> None:
    """In strict mode a warning is a failure; it names the plugin and what is wrong with it."""
    from unlabel.catalog.plugins import Plugin

    told: list[str] = []
    broken = Plugin("sonar", "unlabel-sonar", "0.1", problems=["no water"])
    generator.warn_of_problems(Catalog([broken]), lambda *words: told.append(words[0] % words[1:]))
    assert told == ["plugin sonar (unlabel-sonar) has no pages: no water"]


def test_a_public_name_is_read_where_it_is_defined(generator: ModuleType) -> None:
    """Packages pass names on: their signature and docstring stand elsewhere, and must not be missing for that."""
    page = generator.reference.public()[2]
    for name in unlabel.__all__:
        if name != "__version__":
            section = page.partition(f"\n## {name} {{ #{name} }}\n\n")[2].partition("\n## ")[0]
            assert re.search(r"^```python\n.*?```\n\n\w", section, re.DOTALL), name


def test_a_recipe_of_several_encoders_has_a_row_for_each(generator: ModuleType) -> None:
    plain = {
        "task": "sonar/match",
        "encoders": {"image": "sonar/eye", "text": {"name": "sonar/ear", "dim": 3}},
        "dataset": "sonar/dives",
        "stages": [{"steps": 1}],
    }
    page = "\n".join(generator.components.recipe("sonar/match", "tiny", {"document": "", "recipe": plain}, "../"))
    assert "| encoder `image` | [`sonar/eye`](../encoders.md#sonar-eye) | defaults |" in page
    assert "| encoder `text` | [`sonar/ear`](../encoders.md#sonar-ear) | `dim=3` |" in page


@pytest.mark.slow
def test_generated_pages_are_the_same_every_time(generator: ModuleType, generated: Pages) -> None:
    assert generator.generated(Catalog.installed()) == generated
    for group in generated.values():
        for path, _, text in group:
            assert not re.search(r" at 0x[0-9a-f]+|/site-packages/|<function|<class|\[\[arXiv", text), path


@pytest.mark.slow
def test_a_tasks_page_says_what_its_source_says(generated: Pages) -> None:
    catalog = Catalog.installed()
    pages = {path: text for path, _, text in generated["tasks"]}
    for offer in catalog.offers("tasks"):
        found, page = component(offer, catalog), pages[f"tasks/{offer.name}.md"]
        assert not found["arxiv"] or f"https://arxiv.org/abs/{found['arxiv']}" in page, offer.name
        for entry in found["keywords"]:
            assert f"| `{entry['name']}` |" in page, (offer.name, entry["name"])
        assert ("## What it shows" in page) == bool(found["show"]), offer.name
        for name in found["encoders"]:
            assert f"encoders.md#{name.replace('/', '-')}" in page, (offer.name, name)
        for recipe in found["recipes"]:
            assert f"### {recipe}\n" in page, (offer.name, recipe)
            command = rf"```bash\nunlabel train {re.escape(offer.name)}( --recipe {recipe})?\b"
            assert re.search(command, page.partition(f"### {recipe}\n")[2]), (offer.name, recipe)
