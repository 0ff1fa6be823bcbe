"""The report: what it says is what the runs hold, whatever state they are in, and nothing of theirs runs in it."""

from __future__ import annotations

import base64
import io
import json
import re
import statistics
import wave
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from commandline import unlabel
from PIL import Image
from reports import HOSTILE, written

from unlabel import compose, report
from unlabel.catalog.plugins import Catalog
from unlabel.errors import UsageError
from unlabel.report import curves, encoding, nearness, reading, summary
from unlabel.show import files
from unlabel.show.media import Clip, Mark, Media, Picture, Sound, Table, Text

EMPTY = Catalog([])


def page(*folders: Path) -> str:
    return report.page([reading.read(folder) for folder in folders], EMPTY)


def text_of(html: str) -> str:
    """What a reader sees, without tags, styles and scripts."""
    bare = re.sub(r"<(style|script)\b.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).split())


def data_of(html: str) -> dict:  # type: ignore[type-arg]
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


# What it says


def test_a_report_holds_everything_of_a_run(tmp_path: Path) -> None:
    html = page(written(tmp_path / "mine"))
    shown = text_of(html)

    for expected in (
        "toy/echo: mine",
        "healthy plain",
        "torn plain",
        "raw inputs 0.6",
        "random init 0.5, change +0.2",
        "unlabel train toy/echo --data /data/plain",
        "--out mine-again",
        "2.11.0",
    ):
        assert expected in shown, expected
    assert "What is missing" not in shown
    data = data_of(html)
    assert [curve["name"] for curve in data["curves"]] == ["loss", "own plain", "knn", "rankme", "lr"]
    loss = data["curves"][0]["series"][0]
    lines = [json.loads(line) for line in (tmp_path / "mine/metrics.jsonl").read_text().splitlines()]
    assert loss["y"] == [float(f"{line['loss']:.5g}") for line in lines if "loss" in line]
    assert loss["x"] == list(range(1, 41))
    assert data["runs"][0]["stages"] == [{"name": "warm plain", "begin": 0}, {"name": "main", "begin": 10}]
    assert len(re.findall(r'<img [^>]*alt="view plain after update', html)) == 4


def test_every_picture_says_what_it_shows(tmp_path: Path) -> None:
    html = page(written(tmp_path / "mine"))
    images = re.findall(r"<img\b[^>]*>", html)
    assert images
    assert all(" alt=" in image for image in images)
    assert all("data:image/png;base64," in image for image in images)


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    folder = written(tmp_path / "mine")
    assert page(folder) == page(folder)


def test_the_spread_over_seeds_is_that_of_the_runs(tmp_path: Path) -> None:
    runs = [reading.read(written(tmp_path / f"s{seed}", seed)) for seed in (0, 1, 4)]
    other = reading.read(written(tmp_path / "other", 2, lr=1.0))

    [(members, [accuracy])] = summary.spreads([*runs, other])  # without k, which is a setting

    assert members == runs
    after, gains = [0.7, 0.72, 0.78], [0.2, 0.21, 0.24]
    assert accuracy.after == pytest.approx((statistics.mean(after), statistics.stdev(after)))
    assert accuracy.gain == pytest.approx((statistics.mean(gains), statistics.stdev(gains)))
    assert accuracy.worst == pytest.approx(0.2)
    assert "Spread over 3 seeds" in text_of(report.page([*runs, other], EMPTY))


def test_differences_of_numbers_and_settings_are_marked(tmp_path: Path) -> None:
    html = page(written(tmp_path / "a"), written(tmp_path / "b", 1, lr=0.5, updates=20))

    assert re.search(
        r'stages\.0\.lr</th><td class="value mono">0\.001</td><td class="value mono"><mark>0\.5</mark>', html
    )
    assert re.search(r'stages\.1\.steps</th><td class="value mono">30</td><td class="value mono"><mark>20</mark>', html)
    assert re.search(
        r'knn accuracy, trained</th><td class="n">0\.7</td><td class="n">0\.72 <span[^>]*>\(\+0\.02\)', html
    )
    assert "knn k, trained" not in html, "a setting of the evaluation is no result"
    rows = summary.differences([reading.read(tmp_path / name) for name in ("a", "b")])
    assert {row.name for row in rows} == {"seed", "stages.0.lr", "stages.1.steps"}


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    data = data_of(page(written(tmp_path / "a/run"), written(tmp_path / "b/run", 1)))
    assert len({run["name"] for run in data["runs"]}) == 2


def test_a_recipes_claim_is_shown_with_what_was_changed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    catalog = Catalog.installed()

    chosen = compose.compose("vision/mae", catalog, name="quick", settings=["stages.0.lr=0.5", "task.mask_ratio=0.6"])
    written(folder)
    (folder / "recipe.json").write_text(chosen.to_json())

    [claim] = summary.claims(reading.read(folder), catalog)

    assert claim.task == "vision/mae"
    assert claim.recipe == "quick", "the nearest, as the command names none"
    assert "minutes on two CPU cores" in claim.text[0]
    assert ("stages.0.lr", "0.0015", "0.5") in claim.changed
    assert ("task.mask_ratio", "default", "0.6") in claim.changed
    assert len(claim.changed) == 2
    assert summary.claims(reading.read(folder), EMPTY) == []
    again = written(tmp_path / "again")
    (again / "recipe.json").write_text(chosen.model_copy(update={"seed": 1}).to_json())
    shown = text_of(report.page([reading.read(folder), reading.read(again)], catalog))
    assert shown.count("What the recipe quick of vision/mae claims (run, again)") == 1, "once for both"


def test_of_tasks_trained_together_each_ones_claim_is_shown_as_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    catalog = Catalog.installed()

    changes = ["stages.0.lr=0.5", "stages.0.weights={loss_rotation: 3}"]
    chosen = compose.compose("vision/mae+vision/rotation", catalog, name="tiny", encoder="vision/vit", settings=changes)
    written(folder)
    (folder / "recipe.json").write_text(chosen.to_json())

    first, second = summary.claims(reading.read(folder), catalog)

    assert (first.task, first.recipe) == ("vision/mae", "tiny")
    assert (second.task, second.recipe) == ("vision/rotation", "tiny")
    assert [place for place, _, _ in first.changed] == ["stages.0.lr"], "rotation's weight is none of its settings"
    changed = {place: (theirs, ours) for place, theirs, ours in second.changed}
    assert changed["encoder.name"] == ('"vision/resnet"', '"vision/vit"')
    assert not any(place.startswith("task.") for place in changed), "its keywords are where they were"
    shown = text_of(report.page([reading.read(folder)], catalog))
    for task in ("mae", "rotation"):
        assert f"What the recipe tiny of vision/{task} claims of that task alone" in shown
    assert "trained vision/mae+vision/rotation on one encoder; nothing is claimed of them together" in shown


def test_without_its_script_the_numbers_are_there(tmp_path: Path) -> None:
    folder = written(tmp_path / "mine")
    html = page(folder)
    losses = [json.loads(line).get("loss") for line in (folder / "metrics.jsonl").read_text().splitlines()]
    known = [loss for loss in losses if loss is not None]
    cells = [summary.number(value) for value in (known[0], min(known), max(known), known[-1])]
    assert "mine " + " ".join(cells) in text_of(html)
    assert "<noscript>" in html


# Runs that are not whole


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("evaluations.json", None, "did not come to its end"),
        ("evaluations.json", "{", "evaluations.json is damaged"),
        ("evaluations.json", "[1]", "holds no JSON object"),
        ("evaluations.json", '{"after": 3, "before": {"knn": [1]}, "health": {"a": 1}}', ""),
        ("evaluations.json", '{"after": {"knn": {"accuracy": NaN}}, "health": [["odd", "x"], 3]}', ""),
        ("environment.json", None, "where it ran is unknown"),
        ("environment.json", '{"command": "unlabel", "versions": 3}', ""),
        ("metrics.jsonl", None, "nothing was logged yet"),
        (
            "metrics.jsonl",
            '{"stage": 0, "step": 1, "total_step": 1, "loss": 1}\n{"stage": 0, "st',
            "1 damaged of 2 lines",
        ),
        ("metrics.jsonl", '{"loss": 1}\n', "do not say which update"),
        ("metrics.jsonl", '{"stage": 0, "step": 1, "total_step": 1, "loss": NaN}\n', ""),
        ("quarantine.jsonl", "{}\n17\n", "quarantine.jsonl: 1 damaged"),
        ("recipe.json", "{", "recipe.json is damaged"),
        ("recipe.json", '{"task": 3, "stages": {"a": 1}, "encoder": "x"}', ""),
        ("embeddings.npz", "PK torn", "embeddings.npz is left out"),
        ("pictures/stage01-update00000015.npz", "torn", "pictures/stage01-update00000015.npz cannot be read"),
        ("pictures/stageXX-update1.npz", "torn", ""),
    ],
)
def test_what_is_missing_or_damaged_is_said_and_the_rest_shown(
    tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    folder = written(tmp_path / "run")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)

    shown = text_of(page(folder))

    assert words in shown
    assert ("What is missing or damaged" in shown) == bool(words)
    if name != "recipe.json":
        assert "toy/echo: run" in shown
    assert words in text_of(page(written(tmp_path / "whole"), folder)), "beside another run"


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    folder = written(tmp_path / "whole")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "recipe.json").write_bytes((folder / "recipe.json").read_bytes())

    shown = text_of(page(begun))

    assert "nothing was logged yet" in shown
    assert f"unlabel resume {begun}" in shown


@pytest.mark.slow
def test_features_of_the_embed_command_are_shown_too(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    (folder / "embeddings.npz").unlink()
    rng = np.random.default_rng(0)
    np.savez(folder / "features.npz", features=rng.normal(size=(900, 5)), names=np.arange(900).astype(str))
    found = reading.read(folder).embeddings
    assert found is not None
    assert found.features.shape == (400, 5)
    assert "400 samples, 5 features each" in text_of(page(folder))


# The command


@pytest.mark.slow
def test_the_command_writes_one_file_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLABEL_PLUGINS", "")
    written(tmp_path / "a")
    written(tmp_path / "b", 1)

    assert unlabel("report", "a") == (0, "a/report.html\n", "")
    assert unlabel("report", "a", "b") == (0, "report.html\n", "")
    assert unlabel("report", "a", "b", "--out", "here.html") == (0, "here.html\n", "")
    assert unlabel("report", "a").code == 0, "a report is replaced"
    assert not list(tmp_path.rglob("*.writing"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["b"], "b is not a run: it does not exist"),
        (["notes"], "notes is not a run: it has no recipe.json"),
        (["a", "notes"], "notes is not a run"),
        (["a", "--out", "notes"], "--out notes is a folder; give a file, such as notes/report.html"),
        (["a", "--out", "none/x.html"], "--out none/x.html: there is no folder none"),
        (["a", "--out", "notes/todo.html"], "is there already and is no report, so it is left alone"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLABEL_PLUGINS", "")
    written(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/todo.html").write_text("buy milk")

    answer = unlabel("report", *words)

    assert answer.code == 2
    assert reason in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    assert (tmp_path / "notes/todo.html").read_text() == "buy milk"


def test_without_its_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'unlabel\[report\]'"):
        report.write([written(tmp_path / "a")], None, EMPTY)


# Safe and light


def test_text_of_users_is_only_ever_text(tmp_path: Path) -> None:
    html = page(written(tmp_path / "run", text=HOSTILE))

    assert "<script>window" not in html
    assert "<img src=x" not in html
    assert "{{" not in re.sub(r"<(style|script)\b.*?</\1>", "", html, flags=re.DOTALL).replace("{{ 7 * 7 }}", "")
    assert html.count("</script>") == 2
    assert html.count("<script") == 2
    assert data_of(html)["maps"][0]["classes"][0] == f"slow {HOSTILE}", "and all of it is there"


def test_the_page_forbids_itself_everything_but_its_own_script(tmp_path: Path) -> None:
    html = page(written(tmp_path / "run"))
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy.startswith("default-src &#39;none&#39;")
    assert "unsafe" not in policy
    assert "style=" not in re.sub(r"<(style|script)\b.*?</\1>", "", html, flags=re.DOTALL)
    without_namespace = html.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|url\((?!#)|@import|https?://""", without_namespace)


@pytest.mark.slow
def test_large_runs_stay_within_five_megabytes(tmp_path: Path) -> None:
    folder, rng = written(tmp_path / "run"), np.random.default_rng(0)
    for step in range(20):
        noise = {f"p{number}": rng.integers(0, 256, (700, 900, 3), dtype=np.uint8) for number in range(2)}
        np.savez(folder / "pictures" / f"stage02-update{step:08d}.npz", **noise)
    place = {"stage": 1, "epoch": 0}
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(11, 20_000):
            numbers = {f"m{number}": float(value) for number, value in enumerate(rng.normal(size=10))}
            file.write(json.dumps({**place, "step": step, "total_step": 10 + step, **numbers}) + "\n")

    html = page(folder)

    assert len(html.encode()) < 5e6
    assert len(re.findall(r"<img [^>]*alt=\"p\d after update", html)) == 40


def test_a_long_curve_keeps_its_peaks_and_ends() -> None:
    x, y = np.arange(100_000.0), np.random.default_rng(0).normal(size=100_000)
    y[[31_415, 92_653]] = 1000, -1000
    few_x, few_y = curves.thinned(x, y, 300)
    assert len(few_x) <= 302
    assert {31_415, 92_653, 0, 99_999} <= set(few_x.astype(int))
    assert np.array_equal(few_y, y[few_x.astype(int)])
    assert curves.thinned(x[:200], y[:200], 300)[0].tolist() == x[:200].tolist()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 48)])
@pytest.mark.parametrize("kind", ["noise", "ramp", "stripes"])
def test_pictures_come_back_to_the_last_bit(shape: tuple[int, int], kind: str) -> None:
    rows, columns = np.indices(shape)
    grey = {"noise": np.random.default_rng(0).integers(0, 256, shape), "ramp": 3 * columns, "stripes": 40 * (rows % 7)}
    picture = np.stack([grey[kind] % 256, (grey[kind] + 9) % 256, 255 - grey[kind] % 256], axis=2).astype(np.uint8)
    opened = Image.open(io.BytesIO(base64.b64decode(encoding.text(encoding.png(picture)))))
    assert np.array_equal(np.asarray(opened), picture)


def test_the_largest_picture_gives_way_first() -> None:
    rng = np.random.default_rng(0)
    large, small = (rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (400, 100))
    files = encoding.fitting([large, small], 200_000)
    assert sum(map(len, files)) <= 200_000
    sizes = [Image.open(io.BytesIO(file)).size for file in files]
    assert sizes == [(200, 200), (100, 100)]
    assert encoding.fitting([small], 10**9) == [encoding.png(small)]


def test_neighbours_are_those_of_the_largest_cosine() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 41)[:, None]
    found = nearness.neighbours(features, 5)
    for query in range(40):
        cosines = {
            other: float(features[query] @ features[other])
            / float(np.linalg.norm(features[query]) * np.linalg.norm(features[other]))
            for other in range(40)
            if other != query
        }
        assert found[query].tolist() == sorted(cosines, key=cosines.__getitem__, reverse=True)[:5]


def test_the_map_keeps_groups_apart_and_survives_degenerate_features() -> None:
    rng, labels = np.random.default_rng(0), np.arange(90) % 3
    places, _ = nearness.mapped(np.eye(8)[labels] * 9 + rng.normal(size=(90, 8)))
    assert places.min() >= 0
    assert places.max() <= 1
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (labels[apart.argmin(axis=1)] == labels).mean() > 0.95
    for degenerate in (np.ones((20, 4)), np.zeros((3, 1)), np.arange(15.0)[:, None]):
        found, _ = nearness.mapped(degenerate)
        assert found.shape == (len(degenerate), 2)
        assert np.isfinite(found).all()


# Legible


def palettes() -> dict[str, dict[str, str]]:
    style = (resources.files("unlabel.report") / "style.css").read_text("utf-8")
    blocks = {"light": r":root \{(.*?)\}", "dark": r':root\[data-theme="dark"\] \{(.*?)\}'}
    return {
        name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", re.search(block, style, re.DOTALL)[1]))  # type: ignore[index]
        for name, block in blocks.items()
    }


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_the_standard_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_have_the_contrast_of_wcag_aa(theme: str) -> None:
    colour = palettes()[theme]
    on = [("text", "page"), ("text", "surface"), ("quiet", "page"), ("quiet", "surface"), ("link", "surface")]
    on += [("link", "page"), ("surface", "accent"), ("on-mark", "mark"), ("text", "mark")]
    on += [(state, f"{state}-back") for state in ("ok", "warn", "bad")]
    for front, back in on:
        assert contrast(colour[front], colour[back]) >= 4.5, (front, back)
    for front in ("control", "accent", *(f"s{number}" for number in range(8))):
        assert contrast(colour[front], colour["surface"]) >= 3, front
    assert palettes()["light"].keys() == palettes()["dark"].keys()


# What a task showed besides pictures


def shows(folder: Path, **shown: Media) -> str:
    """The report of a run whose task showed these, in the last stage."""
    written(folder)
    files.write(folder / "pictures" / "stage01-update00000030.npz", shown)
    return page(folder)


def test_a_sound_is_played_by_the_page_itself(tmp_path: Path) -> None:
    samples = np.stack([np.linspace(-1, 1, 400), np.zeros(400)]).astype(np.float32)
    html = shows(tmp_path / "run", heard=Sound(samples, 8000, "both ears"))

    [encoded] = re.findall(r'<audio controls [^>]*src="data:audio/wav;base64,([^"]+)"', html)
    with wave.open(io.BytesIO(base64.b64decode(encoded))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 8000, 400)
        frames = np.frombuffer(file.readframes(400), "<i2").reshape(400, 2)
    assert np.array_equal(frames[:, 0], (samples[0] * 32767).round())
    assert not frames[:, 1].any()
    assert "both ears" in text_of(html)
    assert "media-src data:;" in html


def test_sounds_that_are_too_many_are_shortened_and_that_is_said(tmp_path: Path) -> None:
    noise = np.zeros(6 * 48_000, np.float32)
    html = shows(tmp_path / "run", **{f"heard {number}": Sound(noise, 48_000) for number in range(8)})
    sizes = [len(base64.b64decode(file)) for file in re.findall(r"data:audio/wav;base64,([^\"]+)", html)]
    assert len(sizes) == 8
    assert sum(sizes) < 2.01e6
    assert text_of(html).count("here the first 2.6 s") == 8


def test_a_clip_is_a_strip_of_its_pictures(tmp_path: Path) -> None:
    frames = np.arange(3, dtype=np.uint8)[:, None, None, None] * 90 + np.zeros((3, 10, 20, 3), np.uint8)
    html = shows(tmp_path / "run", moved=Clip(frames, 12.5))
    [encoded] = re.findall(r'<img [^>]*alt="moved after update[^>]*base64,([^"]+)"', html)
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert strip.shape == (10, 3 * 22 - 2, 3)
    assert [strip[5, 22 * number + 5, 0] for number in range(3)] == [0, 90, 180]
    assert "12.5 pictures a second" in text_of(html)


def test_a_texts_marks_and_a_tables_cells_are_there(tmp_path: Path) -> None:
    html = shows(
        tmp_path / "run",
        read=Text(["the first line", ["a ", Mark("cat", "dog", 0.3), " sat"]], "masked"),
        counted=Table(["word", "share", "rare"], [["the", 0.123456, False], ["ox", None, True]], "of words"),
    )
    assert '<p dir="auto">the first line</p><p dir="auto">a <mark class="m2">cat<sub>dog</sub></mark> sat</p>' in html
    assert '<td class="value">the</td><td class="n">0.1235</td><td class="value">False</td>' in html
    assert "masked" in text_of(html)
    assert "of words" in text_of(html)


def test_no_text_of_a_sample_becomes_part_of_the_page(tmp_path: Path) -> None:
    """Texts, marks, cells, columns, captions, names: a sample's words are a stranger's."""
    html = shows(
        tmp_path / "run",
        **{
            HOSTILE: Text([HOSTILE, [Mark(HOSTILE, HOSTILE)]], HOSTILE),
            "cells": Table([HOSTILE], [[HOSTILE]], HOSTILE),
            "sound": Sound(np.zeros(10, np.float32), 8000, HOSTILE),
            "picture": Picture(np.zeros((4, 4, 3), np.uint8), HOSTILE),
        },
    )
    assert html.count("<script") == page(written(tmp_path / "plain")).count("<script")
    assert "<img src=x" not in html
    assert text_of(html).count("{{ 7 * 7 }}") == 9, "shown as it is, but for the mark's label, which is cut"


def test_words_of_the_map_are_escaped_too(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    with np.load(folder / "embeddings.npz") as table:
        columns = {name: table[name] for name in table.files if name != "thumbnails"}
    np.savez(folder / "embeddings.npz", words=np.array([HOSTILE] * 60), **columns)
    html = page(folder)
    assert data_of(html)["maps"][0]["names"][0] == f"{HOSTILE} · /data/plain/0.npy"
    assert "<img src=x" not in html
