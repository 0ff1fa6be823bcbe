"""Two encoders, ragged texts, groups, an asset, a prepare step and an evaluation without labels: real runs of a plugin.

It is the proof that the rooms around the training loop fit more than one encoder of one tensor with class labels.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import Answer, install, unlabel
from safetensors.torch import load_file
from toytowers import hue, match
from toytowers.records import VOCABULARY, Records

import unlabel as package
from unlabel import Catalog, Run, Stage, UsageError, compose, joining, load_encoder, recipe
from unlabel.recipe import Group, Ref
from unlabel.testing.fixtures import TwoProcesses

HERE = Path(__file__).parent
ALIKE = ("--set", "execution.precision=fp32", "--device", "cpu", "--workers", 0)
SHORT = ("--steps", 6, "--no-evaluate", "--set", "save_every=1", "--set", "keep=100", "--set", "log_every=1")
SHORT = (*SHORT, "--set", "dataset.count=64")
WAYS = ("image_to_text", "text_to_image")


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The plugin is installed, and nothing else; the cache is of this module."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "towers", "toytowers.plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("UNLABEL_PLUGINS", "towers")
        patch.setenv("UNLABEL_CACHE", str(folder / "cache"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(HERE), os.environ.get("PYTHONPATH", "")]))
        yield folder


def train(folder: Path, *words: object, task: str = "towers/match") -> Answer:
    """What the command answers; it ended well."""
    answer = unlabel("train", task, "--recipe", "tiny", "--out", folder, *ALIKE, *words)
    assert answer.code == 0, answer.err
    return answer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 updates, evaluated, with its report."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six updates, three an epoch, saved after each."""
    folder = tmp_path_factory.mktemp("short") / "run"
    train(folder, *SHORT)
    assert [line["epoch"] for line in Run(folder).metrics if "loss" in line] == [0, 0, 0, 1, 1, 1]
    return folder


def last(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer state at the end."""
    path = max((folder / "checkpoints").glob("step-*"))
    return {f"{file}.{name}": value for file in ("task", "optimizers")
            for name, value in load_file(path / f"{file}.safetensors").items()}  # fmt: skip


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def refused(*words: object) -> str:
    """The one line in which a command says no."""
    answer = unlabel(*words)
    assert answer.code == 2, (answer.out, answer.err)
    [line] = [line for line in answer.err.splitlines() if line.startswith("error")]
    return line


# Training, and what is said on the command line


@pytest.mark.slow
def test_it_trains_and_is_judged_without_labels(whole: Path) -> None:
    results = Run(whole).evaluations
    assert set(results["before"]) == set(results["after"]) == {"retrieval"}
    assert list(results["lacking"]) == ["linear_probe"]
    assert "has no labels, and this evaluation needs them" in results["lacking"]["linear_probe"]
    assert "\n" not in results["lacking"]["linear_probe"]
    losses = [line["loss"] for line in Run(whole).metrics if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert results["after"]["retrieval"]["image_to_text_queries"] < 48, "some held-out records have no text"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_training_finds_texts_and_pictures_and_chance_does_not(seed: int, tmp_path: Path) -> None:
    train(tmp_path / "run", "--seed", seed)
    results = Run(tmp_path / "run").evaluations
    for way in WAYS:
        chance = results["after"]["retrieval"][f"{way}_chance_recall@1"]
        assert chance < 0.03
        assert results["before"]["retrieval"][f"{way}_recall@1"] < 4 * chance
        assert results["after"]["retrieval"][f"{way}_recall@1"] > 10 * chance
        assert (
            results["after"]["retrieval"][f"{way}_median_rank"]
            < 4
            < results["before"]["retrieval"][f"{way}_median_rank"]
        )


@pytest.mark.slow
def test_parts_are_named_in_a_recipe_file_and_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    encoders = {"image": {"name": "towers/deep", "dim": 6}, "text": {"name": "towers/text", "dim": 6}}
    stages = [{"steps": 2, "batch_size": 16}]
    dataset = {"name": "towers/records"}
    path.write_text(json.dumps({"task": "towers/match", "encoders": encoders, "dataset": dataset, "stages": stages}))
    words = ("train", "towers/match", "--recipe", path, *ALIKE, "--no-evaluate")
    assert unlabel(*words, "--out", tmp_path / "file").code == 0
    modules = Run(tmp_path / "file").encoders
    assert {name: type(module).__name__ for name, module in modules.items()} == {"image": "Deep", "text": "Text"}
    assert {module.dim for module in modules.values()} == {6}

    chosen = ("--encoder", "image=towers/image", "--set", "encoders.text.dim=5", "--set", "encoders.image.dim=5")
    assert unlabel(*words, *chosen, "--out", tmp_path / "words").code == 0
    modules = Run(tmp_path / "words").encoders
    assert {name: type(module).__name__ for name, module in modules.items()} == {"image": "Image", "text": "Text"}
    assert {module.dim for module in modules.values()} == {5}


def test_what_data_imply_reaches_the_encoder_that_takes_it(short: Path) -> None:
    written = json.loads((short / "recipe.json").read_text())
    words = json.loads((short / "assets/dataset" / VOCABULARY).read_text())
    assert written["encoders"]["text"]["tokens"] == len(words) + 2
    assert "tokens" not in written["encoders"]["image"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--encoder", "txt=towers/text"),
            "encoders.txt: towers/match has no encoder of that name; did you mean text?",
        ),
        (("--encoder", "towers/text"), "has the encoders image, text: give --encoder PART=towers/text"),
        (("--encoder", "text=towers/texd"), "no encoder is called 'towers/texd'; did you mean towers/text"),
        (("--set", "encoders.txt.dim=3"), "encoders.txt.dim: no field 'txt'; did you mean text?"),
        (("--set", "encoders.text.dims=3"), "encoders.text.dims: towers/text has no keyword 'dims'; did you mean dim?"),
        (("--set", "encoders.text.dim=wide"), "encoders.text.dim: "),
        (("--set", "encoder.dim=3"), "there are several encoders: encoders.image, encoders.text"),
        (("--set", "encoders.text.dim=3"), "image encoder gives 24 numbers and the text encoder 3"),
        (("--init", "txt=WHOLE"), "init.txt: there is no encoder 'txt'; did you mean text?"),
        (("--init", "WHOLE"), "has the encoders image, text: give --init PART="),
        (("--init", "text=WHOLE", "--init", "WHOLE"), "give one, or PART=SOURCE for each encoder"),
        (("--init", "text=nowhere"), "--init nowhere: there is no such file or run"),
        (("--batch-size", 8), "batch size 8 is not 8 identities of 2 samples: use --batch-size 16"),
        (("--set", "judging.tset=3"), "judging.tset: no such field; did you mean test?"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_nearest(
    words: tuple[object, ...], says: str, whole: Path, tmp_path: Path
) -> None:
    given = [str(word).replace("WHOLE", str(whole)) for word in words]
    line = refused("train", "towers/match", "--recipe", "tiny", "--out", tmp_path / "run", *ALIKE, *given)
    assert says in line
    assert not (tmp_path / "run").exists()


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    stages = [{"steps": 2, "batch_size": 16}]
    base = {"task": "towers/match", "dataset": "towers/records", "stages": stages}
    for encoders in ({"encoders": {"image": "towers/image"}}, {"encoder": "towers/image"}):
        path.write_text(json.dumps({**base, **encoders}))
        missing = "text" if "encoders" in encoders else "image"
        line = refused("train", "towers/match", "--recipe", path, "--out", tmp_path / "run")
        assert f"towers/match has the encoders image, text: give --encoder {missing}=NAME" in line


@pytest.mark.slow
def test_first_weights_come_from_runs_exports_and_files_part_by_part(whole: Path, tmp_path: Path) -> None:
    assert unlabel("export", whole, "--out", tmp_path / "out", "--no-check").code == 0
    trained = {name: module.state_dict() for name, module in Run(whole).encoders.items()}
    file = tmp_path / "out/text/encoder.safetensors"
    for number, (text, image) in enumerate([(file, tmp_path / "out"), (whole, tmp_path / "out/image")]):
        folder, still = tmp_path / f"{number}", ("--steps", 1, "--no-evaluate", "--set", "stages.0.lr=0")
        said = train(folder, "--init", f"text={text}", "--init", f"image={image}", *still).err
        assert "text: 3 of 3 tensors loaded" in said
        assert "image: 4 of 4 tensors loaded" in said
        for name, module in Run(folder).encoders.items():
            assert_same(module.state_dict(), trained[name])


def test_recipes_of_several_encoders_survive_files_and_those_of_version_0_1_still_load(short: Path) -> None:
    original = compose.compose("towers/match", Catalog.installed(), name="tiny")
    assert recipe.parse(json.loads(original.to_json()), "") == original
    again = Run(short).recipe
    assert recipe.parse(json.loads(again.to_json()), "") == again

    old: dict[str, Any] = {
        "task": {"name": "towers/hue", "options": {}},
        "encoder": {"name": "towers/image", "options": {"dim": 8}},
        "dataset": {"name": "towers/labelled", "options": {}},
        "stages": [{"steps": 4, "batch_size": 16, "lr": 0.01, "optimizer": "adamw", "schedule": "cosine"}],
        "monitor_every": 2,
        "keep": 2,
        "max_bad": 0.01,
        "execution": {"device": "cpu"},
    }
    loaded = recipe.parse(old, "")
    assert loaded.encoders == {"encoder": Ref("towers/image", dim=8)}
    assert loaded.judging.monitor_every == 2
    assert loaded.stages[0].last_batch == "straddle"


@pytest.mark.slow
def test_a_task_of_one_part_takes_the_only_encoder_whatever_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    stages = [{"steps": 2, "batch_size": 16}]
    parts = {"task": "towers/hue", "encoder": "towers/image", "dataset": "towers/labelled", "stages": stages}
    path.write_text(json.dumps(parts))
    answer = unlabel("train", "towers/hue", "--recipe", path, "--out", tmp_path / "run", *ALIKE)
    assert answer.code == 0, answer.err
    assert set(Run(tmp_path / "run").evaluations["after"]) == {"knn"}
    assert unlabel("export", tmp_path / "run", "--out", tmp_path / "out", "--no-check").code == 0
    assert load_encoder(tmp_path / "out").dim == load_encoder(tmp_path / "run").dim == 24


@pytest.mark.slow
@pytest.mark.parametrize("order", ["buckets", "shuffled"])
def test_other_orders_train_too_and_records_without_text_are_no_pairs(order: str, tmp_path: Path) -> None:
    train(tmp_path / "run", "--set", f"dataset.order={order}", "--steps", 10, "--no-evaluate")
    seen = [line["loss"] for line in Run(tmp_path / "run").metrics if "loss" in line]
    assert np.isfinite(seen).all()


@pytest.mark.slow
def test_tasks_share_encoders_by_name(tmp_path: Path) -> None:
    joint = ("--encoder", "image=towers/image", "--data", "towers/records", "--steps", 4, "--no-evaluate")
    line = refused("train", "towers/match+towers/hue", "--recipe", "tiny", "--out", tmp_path / "run", *ALIKE)
    assert "the tiny recipes of its parts differ" in line
    freeze = 'stages.0.groups=[{"pattern": "text.*", "freeze": true}]'
    train(tmp_path / "run", *joint, "--set", freeze, task="towers/match+towers/hue")
    run = Run(tmp_path / "run")
    assert set(run.encoders) == {"image", "text"}
    assert {"loss_match", "loss_hue"} <= set(run.metrics[-2])
    assert (
        unlabel("embed", run.folder, "--data", "towers/records", "--of", "text", "--out", tmp_path / "f.npz").code == 0
    )


def test_what_a_first_part_says_of_shared_encoders_holds_for_all() -> None:
    groups = [Group(pattern=pattern, freeze=True) for pattern in ("text.*", "*.bias", "head.*")]
    first = match.tiny().model_copy(update={"stages": [Stage(steps=1, batch_size=16, groups=groups)]})
    recipes = {"towers/match": first, "towers/hue": hue.tiny()}
    joined = joining.join(recipes, "tiny", encoders={"image": "towers/image"}, data="towers/records")
    patterns = [group.pattern for group in joined.stages[0].groups]
    assert patterns == ["text.*", "*.bias", "parts.match.head.*"]
    alone = joining.part(joined)["towers/match"].stages[0].groups
    assert [group.pattern for group in alone] == ["text.*", "*.bias", "head.*"]


def test_prepare_alone_fills_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path))
    for _ in range(2):
        assert unlabel("prepare", "towers/records").code == 0
        assert len(list(tmp_path.glob("toytowers/*.json"))) == 1


# Exactly the same


@pytest.mark.parametrize("update", range(1, 6))
def test_a_run_resumed_after_any_update_ends_the_same_to_the_bit(update: int, short: Path, tmp_path: Path) -> None:
    shutil.copytree(short, tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").glob("step-*"):
        if int(path.name.rpartition("-")[2]) > update:
            shutil.rmtree(path)
    answer = unlabel("resume", tmp_path / "run", "--no-evaluate")
    assert answer.code == 0, answer.err
    assert f"continuing after update {update}" in answer.err
    assert_same(last(short), last(tmp_path / "run"))


@pytest.mark.slow
def test_a_killed_run_ends_the_same_to_the_bit(short: Path, tmp_path: Path) -> None:
    command = ["train", "towers/match", "--recipe", "tiny", "--out", tmp_path / "run", *ALIKE, *SHORT]
    command += ["--observe", "towers/slow"]
    killed = subprocess.Popen([sys.executable, "-m", "unlabel", *map(str, command)], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("run/checkpoints/step-00000003")) and killed.poll() is None:
        pass
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert unlabel("resume", tmp_path / "run", "--no-evaluate").code == 0
    assert_same(last(short), last(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["groups", "shuffled"])
def test_two_processes_end_where_one_does(order: str, two_processes: TwoProcesses, tmp_path: Path) -> None:
    words = ("--steps", 6, "--no-evaluate", "--set", f"dataset.order={order}", "--set", "stages.0.lr=1e-3")
    train(tmp_path / "one", *words)
    command = ("train", "towers/match", "--recipe", "tiny", "--out", tmp_path / "two", *ALIKE, *words)
    assert "2 processes" in two_processes.command(*command)
    left, right = last(tmp_path / "one"), last(tmp_path / "two")
    for name in (name for name in left if name.startswith("task")):
        torch.testing.assert_close(left[name], right[name], atol=2e-5, rtol=0)  # sums in another order, through Adam


# Judging


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each record was read."""
    counts: Counter[int] = Counter()
    read: Callable[[Records, int], dict[str, Any]] = Records.__getitem__

    def counting(self: Records, index: int) -> dict[str, Any]:
        counts[index] += 1
        return read(self, index)

    monkeypatch.setattr(Records, "__getitem__", counting)
    return counts


def test_each_judged_record_is_read_once_for_both_encoders_before_and_after(
    reads: Counter[int], tmp_path: Path
) -> None:
    train(tmp_path / "run", "--steps", 2, "--set", "judging.monitor=0")
    held_out = Records().split("test")
    assert {reads[index] for index in held_out.indices.tolist()} == {1}  # type: ignore[union-attr]


def test_how_many_are_judged_can_be_said(reads: Counter[int], whole: Path) -> None:
    answer = unlabel("evaluate", whole, "--set", "judging.test=12", "--json")
    assert answer.code == 0, answer.err
    numbers = json.loads(answer.out)["retrieval"]
    assert numbers["text_to_image_candidates"] == sum(reads.values()) == 12
    assert "linear_probe: not made: the test part of Records has no labels" in answer.err


def test_evaluations_have_options_and_say_what_they_lack(whole: Path) -> None:
    answer = unlabel("evaluate", whole, "retrieval", "--set", "retrieval.first=text", "--json")
    assert next(iter(json.loads(answer.out)["retrieval"])).startswith("text_to_image")
    assert "has no output 'tetx': it has image, text; did you mean text?" in refused(
        "evaluate", whole, "retrieval", "--set", "retrieval.first=tetx"
    )
    assert "has no labels" in refused("evaluate", whole, "linear_probe")


def test_a_run_elsewhere_without_the_cache_is_judged_as_before(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "moved")
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(Records, "_write", lambda *_: pytest.fail("the vocabulary is built again"))
    answer = unlabel("evaluate", tmp_path / "moved", "--json", "--device", "cpu")
    assert json.loads(answer.out)["retrieval"] == Run(whole).evaluations["after"]["retrieval"]


def test_other_data_of_the_same_kind_are_read_with_the_runs_own_words(whole: Path) -> None:
    answer = unlabel("evaluate", whole, "retrieval", "--set", "dataset.seed=7", "--json")
    numbers = json.loads(answer.out)["retrieval"]
    assert numbers["text_to_image_recall@1"] > 10 * numbers["text_to_image_chance_recall@1"]


def test_data_of_another_kind_are_prepared_before_they_are_read(whole: Path) -> None:
    answer = unlabel("evaluate", whole, "--data", "towers/labelled", "--json")
    assert answer.code == 0, answer.err
    assert set(json.loads(answer.out)) == {"retrieval", "linear_probe"}


@pytest.mark.parametrize("command", ["evaluate", "resume", "export", "embed"])
def test_a_damaged_asset_is_named_in_one_line(command: str, short: Path, tmp_path: Path) -> None:
    shutil.copytree(short, tmp_path / "run")
    (tmp_path / "run/assets/dataset" / VOCABULARY).write_text('["red"]')
    more = {"export": ("--out", tmp_path / "out"), "embed": ("--data", "towers/records", "--out", tmp_path / "f.npz")}
    answer = unlabel(command, tmp_path / "run", *more.get(command, ()))
    assert answer.code == 1
    assert f"dataset/{VOCABULARY} is damaged: its content does not match the hash" in answer.err.splitlines()[0]
    assert "Traceback" not in answer.err


# What comes out


def test_features_of_either_output_stand_in_a_file(whole: Path, tmp_path: Path) -> None:
    sizes = {}
    for of in ("image", "text"):
        out = tmp_path / f"{of}.npz"
        answer = unlabel("embed", whole, "--data", "towers/records", "--of", of, "--out", out, "--device", "cpu")
        assert answer.code == 0, answer.err
        with np.load(out) as found:
            sizes[of] = Counter(found["names"].tolist())
            assert found["features"].shape == (sum(sizes[of].values()), 24)
        rows = f"{sum(sizes[of].values())} rows of " if of == "text" else ""
        assert answer.out == f"{rows}{len(sizes[of])} samples, 24 numbers each: {out}\n"
    assert set(sizes["image"].values()) == {1}
    texts = {f"record {index}": len(Records().texts(index)) for index in range(192)}
    assert sizes["text"] == Counter(texts)
    message = refused("embed", whole, "--data", "towers/records", "--of", "txt", "--out", tmp_path / "x.npz")
    assert "Match has no output 'txt': it has image, text; did you mean text?" in message


ALONE = """
import json, sys
import torch
from pathlib import Path
exec(open("README.md").read().split("```python\\n")[1].split("```")[0])
inputs = json.load(open("preprocessing.json"))
if "vocabulary" in inputs:
    words = json.load(open(inputs["vocabulary"]))
    tokens = torch.tensor([[words.index(word) + inputs["first"] for word in sys.argv[1].split()]])
    features = model(tokens=tokens, mask=torch.ones_like(tokens))
else:
    image = torch.tensor(json.loads(sys.argv[1])).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(inputs[name])[:, None, None] for name in ("mean", "std"))
    features = model((image - mean) / std)
assert not any(name.partition(".")[0] in ("unlabel", "toytowers") for name in sys.modules)
print(json.dumps(features[0].tolist()))
"""
"""A text or a picture is encoded with what lies in the folder of one encoder alone."""


@pytest.mark.slow
def test_two_folders_load_without_this_library_and_make_inputs_as_they_say(whole: Path, tmp_path: Path) -> None:
    answer = unlabel("export", whole, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert "loaded back as its README says" in answer.out
    assert not (tmp_path / "out/assets").exists()
    task, record = Run(whole).task(), Records()[0]
    dataset = Run(whole).dataset()
    batch = {**dataset.collate([record]), "index": torch.tensor([0])}
    for name, given in (("image", json.dumps(record["image"].tolist())), ("text", record["texts"][0])):
        folder = tmp_path / "elsewhere" / name
        shutil.copytree(tmp_path / "out" / name, folder)
        loaded = subprocess.run(
            [sys.executable, "-c", ALONE, given], cwd=folder, capture_output=True, text=True, check=False
        )
        assert loaded.returncode == 0, loaded.stderr
        rows = task.representation(batch, name)
        expected = rows[0] if name == "text" else rows  # type: ignore[index]
        torch.testing.assert_close(torch.tensor(json.loads(loaded.stdout)), expected[0].detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch-export"])
def test_both_are_traced(kind: str, whole: Path, tmp_path: Path) -> None:
    answer = unlabel("export", whole, "--out", tmp_path / "out", "--format", kind)
    assert answer.code == 0, answer.err


def test_encoders_are_taken_by_name(whole: Path, tmp_path: Path) -> None:
    run = Run(whole)
    assert {name: type(module).__name__ for name, module in run.encoders.items()} == {"image": "Image", "text": "Text"}
    with pytest.raises(UsageError, match=r"has the encoders image, text: take one of Run\.encoders"):
        run.encoder  # noqa: B018
    assert_same(load_encoder(whole, of="text").state_dict(), run.encoders["text"].state_dict())
    with pytest.raises(UsageError, match="has no encoder 'texts': it has image, text; did you mean text"):
        load_encoder(whole, of="texts")
    with pytest.raises(UsageError, match="name one, as in load_encoder"):
        load_encoder(whole)


def test_the_report_shows_texts_and_pictures(whole: Path) -> None:
    page = (whole / "report.html").read_text()
    words = json.loads((whole / "assets/dataset" / VOCABULARY).read_text())
    assert any(f">{word}<" in page for word in words), "of the task's text, a word"
    assert "8 pixels wide" in page, "the caption of the task's picture"
    assert "image to text recall@1" in page
    with np.load(whole / "embeddings.npz") as kept:
        assert kept["thumbnails"].shape[1:] == (32, 32, 3), "of the dataset's pictures"


def test_show_names_the_encoders_of_each_part() -> None:
    answer = unlabel("show", "towers/match")
    assert "encoders\n  image: towers/deep, towers/image, towers/text\n  text: " in answer.out
    keywords = answer.out.partition("keywords\n")[2].partition("\n\nencoders")[0]
    assert keywords.split(":")[0].strip() == "temperature"
    found = json.loads(unlabel("show", "towers/match", "--json").out)
    assert [entry["name"] for entry in found["keywords"]] == ["temperature"]
    assert list(found["parts"]) == ["image", "text"]
    assert "parts" not in json.loads(unlabel("show", "towers/hue", "--json").out)


def test_from_python_it_is_the_same(tmp_path: Path) -> None:
    original = compose.compose("towers/match", Catalog.installed(), name="tiny")
    run = package.train(
        original,
        encoder=["image=towers/deep", "text=towers/text"],
        steps=2,
        out=tmp_path / "run",
        evaluate=False,
        encoders__image__dim=4,
        encoders__text__dim=4,
    )
    assert {module.dim for module in run.encoders.values()} == {4}
    assert set(run.evaluate("retrieval", device="cpu")) == {"retrieval"}


# The contract


@pytest.mark.slow
def test_the_plugin_keeps_the_contract() -> None:
    answer = unlabel("check", "towers", "--json")
    failed = [entry for entry in json.loads(answer.out) if entry["outcome"] == "failed"]
    assert failed == []
    outcomes = {entry["id"]: entry["outcome"] for entry in json.loads(answer.out)}
    for check in (
        "resumes_exactly",
        "two_processes_are_one",
        "evaluates",
        "exports_and_returns",
        "keeps_to_its_device",
    ):
        assert outcomes[f"towers/match-{check}"] == "ok"
    for encoder in ("image", "text"):
        assert outcomes[f"towers/{encoder}-makes_its_dim"] == outcomes[f"towers/{encoder}-loads_elsewhere"] == "ok"
