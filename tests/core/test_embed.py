"""Features of a dataset in a file: every readable sample, under its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import install, unlabel
from toysonar.pings import Files

import unlabel as package
from unlabel import Run, Stage, UsageError, load_encoder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    site = tmp_path_factory.mktemp("site")
    install(site, "toy", "toysonar.plugin")
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("UNLABEL_PLUGINS", "toy")
        assert unlabel("train", "toy/echo", "--recipe", "tiny", "--no-evaluate", "--out", folder).code == 0
        yield folder


@pytest.fixture
def pings(tmp_path: Path) -> Path:
    """Twelve readable files of two kinds, one too short and one that is none."""
    folder = tmp_path / "pings"
    folder.mkdir()
    for number in range(12):
        wave = np.random.default_rng(number).normal(size=16).astype(np.float32)
        np.save(folder / f"{'fast' if number % 2 else 'slow'}{number:02d}.npy", wave)
    np.save(folder / "fast-short.npy", np.zeros(3, np.float32))
    (folder / "slow-broken.npy").write_bytes(b"no array")
    return folder


def test_every_readable_sample_is_there_under_its_own_name(run: Path, pings: Path, tmp_path: Path) -> None:
    answer = unlabel("embed", run, "--data", pings, "--out", tmp_path / "features.npz")

    assert answer.code == 0
    assert answer.out == f"12 samples, 4 numbers each: {tmp_path / 'features.npz'}; 2 unreadable left out\n"
    with np.load(tmp_path / "features.npz") as found:
        assert set(found) == {"features", "names", "split", "labels"}
        features, names, labels, split = (found[name] for name in ("features", "names", "labels", "split"))
    assert sorted(names) == sorted(str(path) for path in pings.glob("*[0-9].npy"))
    assert features.shape == (12, 4)
    assert features.dtype == np.float32
    encoder = load_encoder(run)
    for name, row, label in zip(names, features, labels, strict=True):
        expected = encoder(torch.from_numpy(np.load(name))[None]).detach().numpy()[0]
        np.testing.assert_allclose(row, expected, atol=1e-6)  # another batch, another order of additions
        assert label == Path(name).name.startswith("fast")
    held_out = Files(pings).split("test")
    names_held_out = {held_out.name_of(index) for index in range(len(held_out))}
    assert [part == "test" for part in split] == [name in names_held_out for name in names]


def test_a_parquet_file_holds_the_same(run: Path, pings: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for ending in ("npz", "parquet"):
        assert unlabel("embed", run, "--data", pings, "--out", tmp_path / f"features.{ending}").code == 0

    table = parquet.read_table(tmp_path / "features.parquet").to_pydict()
    with np.load(tmp_path / "features.npz") as arrays:
        assert set(table) == set(arrays)
        for name in table:
            np.testing.assert_array_equal(np.array(table[name]), arrays[name])


def test_without_labels_there_is_no_column_of_them(run: Path, pings: Path, tmp_path: Path) -> None:
    for path in pings.glob("fast*"):
        path.rename(pings / path.name.replace("fast", "slow-"))

    # the kind of the file is its label here; a dataset with none at all says so with -1
    assert unlabel("embed", run, "--data", pings, "--out", tmp_path / "one.npz").code == 0
    with np.load(tmp_path / "one.npz") as found:
        assert set(found["labels"]) == {0}
    assert unlabel("embed", run, "--data", "toy/noise", "--out", tmp_path / "none.npz").code == 0
    with np.load(tmp_path / "none.npz") as found:
        assert set(found) == {"features", "names", "split"}
        assert set(found["split"]) == {"train"}, "it has no held-out part"


def test_nothing_readable_is_a_failure(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"no array")
    (tmp_path / "b.npy").write_bytes(b"no array")

    answer = unlabel("embed", run, "--data", tmp_path, "--out", tmp_path / "features.npz")

    assert answer.code == 1
    assert answer.err.startswith("error: no sample of the train part could be read: ")
    assert not (tmp_path / "features.npz").exists()


def test_training_from_python_takes_what_the_command_line_takes(run: Path, tmp_path: Path) -> None:
    result = package.train(
        "toy/echo",
        data="toy/noise",
        encoder="toy/linear",
        steps=3,
        batch_size=4,
        out=tmp_path / "new",
        evaluate=False,
        stages__0__lr=1e-3,
        task__ratio=0.25,
        init=run,
    )

    assert [line["step"] for line in result.metrics if "loss" in line] == [1, 2, 3]
    assert (result.recipe.stages[0].lr, result.recipe.task.options["ratio"]) == (1e-3, 0.25)
    assert result.recipe.init == str(run)
    assert result.encoder.dim == 4, "the recipe's own encoder keeps its keywords"

    changed = package.train(
        result.recipe, encoder="toysonar.echo:linear", steps=1, out=tmp_path / "own", evaluate=False, init=None
    )
    assert changed.encoder.dim == 8
    again = package.train(
        changed.recipe,
        encoder="toy/linear",
        out=tmp_path / "ref",
        evaluate=False,
        stages=[Stage(steps=2, batch_size=4)],
    )
    assert again.metrics[-1]["total_step"] == 2
    with pytest.raises(UsageError, match=r"--out .*ref already exists"):
        package.train("toy/echo", out=tmp_path / "ref")


def test_a_run_gives_its_encoder_recipe_and_numbers_in_python(run: Path) -> None:
    found = Run(run)

    assert found.recipe.task.name == "toy/echo"
    assert [line["step"] for line in found.metrics if "loss" in line] == list(range(1, 13))
    assert not found.encoder.training
    assert found.evaluate("knn", options=["knn.k=1"], device="cpu")["knn"]["k"] == 1
    assert set(found.evaluations) == {"health", "seconds", "samples_per_second"}
