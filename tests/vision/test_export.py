"""An encoder leaves in timm's naming and comes back with the same features; first weights come from anywhere."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import Answer, unlabel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlabel import Catalog, Recipe, RunError, UsageError, compose, export, load_encoder
from unlabel.export import checking
from unlabel.recipe import Ref, Stage
from unlabel_vision import views
from unlabel_vision.encoders.resnet import resnet
from unlabel_vision.encoders.vit import vit

ENCODERS = {
    "vit": ("vision/mae", ()),
    "small": ("vision/simclr", ()),
    "standard": ("vision/simclr", ("--set", "encoder.stem=standard", "--set", "encoder.width=64")),
    "timm": ("vision/simclr", ("--encoder", "vision/timm:test_convnext", "--set", "encoder.image_size=32")),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One short run for each kind of encoder."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLABEL_PLUGINS", "vision")
        for name, (task, words) in ENCODERS.items():
            answer = unlabel("train", task, "--recipe", "tiny", "--steps", 2, "--batch-size", 8, "--no-evaluate",
                             "--device", "cpu", "--out", place / name, *words)  # fmt: skip
            assert answer.code == 0, answer.err
        yield {name: place / name for name in ENCODERS}


@pytest.fixture(scope="module")
def exported(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each of them exported, unchecked."""
    place = tmp_path_factory.mktemp("exports")
    for name, folder in runs.items():
        assert unlabel("export", folder, "--out", place / name, "--no-check").code == 0
    return {name: place / name for name in runs}


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def features(encoder: nn.Module) -> Tensor:
    return encoder(images())


def snippet(folder: Path) -> str:
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return code


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_the_readme_alone_gives_the_same_features(
    name: str, runs: dict[str, Path], exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported[name])
    code = snippet(exported[name])
    space: dict[str, object] = {}
    exec(code, space)

    assert "unlabel" not in code
    assert not space["model"].training
    expected = features(load_encoder(runs[name]))
    torch.testing.assert_close(features(space["model"]), expected, atol=1e-6, rtol=0)
    assert expected.std() > 0.01


@pytest.mark.slow
def test_the_snippet_of_a_plain_encoder_is_one_line_of_timm(exported: dict[str, Path]) -> None:
    assert "model = timm.create_model(" in snippet(exported["vit"])
    assert "checkpoint_path='encoder.safetensors'" in snippet(exported["vit"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_the_readmes_transform_makes_the_inputs_that_evaluations_make(
    name: str, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported[name])
    space: dict[str, Any] = {}
    exec(snippet(exported[name]), space)
    rows, columns = np.indices((70, 90))
    image = np.stack([rows * 3, columns * 2, rows + columns], axis=-1).astype(np.uint8)

    sample = views.ResizeCenterCrop(32)({"image": image}, np.random.default_rng(0))
    expected = views.to_float(torch.from_numpy(np.ascontiguousarray(sample["image"]))[None])[0]

    # the same filter, rounded to bytes once more and once less: a level of 255, divided by a deviation of 0.22
    torch.testing.assert_close(space["transform"](Image.fromarray(image)), expected, atol=2 / 255 / 0.22, rtol=0)
    preprocessing = json.loads((exported[name] / "preprocessing.json").read_text())
    assert preprocessing["input_size"] == [3, 32, 32]
    assert preprocessing["mean"] == list(views.IMAGENET_MEAN)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_run_and_its_export_load_alike(name: str, runs: dict[str, Path], exported: dict[str, Path]) -> None:
    mine, theirs = load_encoder(runs[name]), load_encoder(exported[name])

    assert not theirs.training
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in mine.state_dict().items())
    # a run's convolutions lie in memory channels last, which adds up in another order
    torch.testing.assert_close(features(mine), features(theirs), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_the_command_checks_in_a_process_of_its_own_what_it_wrote(runs: dict[str, Path], tmp_path: Path) -> None:
    answer = unlabel("export", runs["vit"], "--out", tmp_path / "new")

    assert answer.code == 0
    found = re.fullmatch(
        r".*new: README.md, encoder.json, encoder.safetensors, preprocessing.json; "
        r"loaded back as its README says, largest difference (\S+)\n",
        answer.out,
    )
    assert found is not None
    assert float(found[1]) <= 1e-6
    assert "Input: float32, (N, 3, 32, 32), RGB in [0, 1], then minus" in (tmp_path / "new" / "README.md").read_text()


@pytest.mark.slow
def test_an_export_that_does_not_load_is_a_failure(runs: dict[str, Path], tmp_path: Path) -> None:
    class Liar(nn.Linear):
        def exported(self) -> dict[str, Tensor]:
            return dict(self.state_dict())

        def loading_code(self, file: str) -> str:
            return f"import torch\nassert {file!r}\nmodel = torch.nn.Linear(2, 2, bias=False)\n"

        def example(self, count: int) -> Tensor:
            return torch.ones(count, 2)

        def usage(self) -> str:
            return ""

    with pytest.raises(RunError, match="gives other features than the run"):
        checking.check(Liar(2, 2), tmp_path, Liar(2, 2).loading_code("x"))
    with pytest.raises(RunError, match="does not load: NameError: name 'model'"):
        checking.check(Liar(2, 2), tmp_path, "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch's own loader
@pytest.mark.parametrize("kind", ["onnx", "torch-export"])
@pytest.mark.parametrize("name", ["vit", "small"])
def test_other_formats_take_any_number_of_samples(
    kind: str, name: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")

    answer = unlabel("export", runs[name], "--out", tmp_path / "new", "--format", kind, "--no-check")

    assert answer == Answer(0, answer.out, ""), answer.err
    monkeypatch.chdir(tmp_path / "new")
    space: dict[str, object] = {}
    exec(snippet(tmp_path / "new"), space)
    encoder = load_encoder(runs[name])
    for count in (1, 5):
        expected = encoder(images(count)).detach()
        # another program computes it: float32 rounding through a dozen layers
        torch.testing.assert_close(space["model"](images(count)).detach(), expected, atol=1e-5, rtol=1e-4)


def test_a_damaged_export_is_refused(exported: dict[str, Path], tmp_path: Path) -> None:
    def copy(**changed: bytes) -> Path:
        for path in exported["vit"].iterdir():
            (tmp_path / path.name).write_bytes(changed.get(path.suffix[1:], path.read_bytes()))
        return tmp_path

    weights = (exported["vit"] / "encoder.safetensors").read_bytes()
    with pytest.raises(UsageError, match="is a damaged export: SafetensorError"):
        load_encoder(copy(safetensors=weights[:-10]))
    with pytest.raises(UsageError, match="is a damaged export: JSONDecodeError"):
        load_encoder(copy(json=b"{"))
    with pytest.raises(UsageError, match="is a damaged export: KeyError"):
        load_encoder(copy(json=b"{}"))
    with pytest.raises(UsageError, match="encoder 'os:system' stands in a file"):
        load_encoder(copy(json=b'{"encoder": {"name": "os:system"}}'))
    with pytest.raises(RunError, match=r"does not fit vision/vit: .* tensors loaded"):
        load_encoder(copy(json=b'{"encoder": {"name": "vision/vit", "dim": 64, "heads": 4}}'))
    with pytest.raises(UsageError, match="neither a run nor a safetensors export"):
        load_encoder(tmp_path / "nowhere")


# First weights


def started(source: object, tmp_path: Path, task: str = "vision/mae") -> tuple[nn.Module, str]:
    """The encoder of a run that started at `source` and learnt nothing, and what was said about the names."""
    still = (
        "--set",
        "stages.0.lr=0",
        "--set",
        "stages.0.weight_decay=0",
        "--steps",
        1,
        "--batch-size",
        4,
        "--no-evaluate",
    )
    answer = unlabel("train", task, "--recipe", "tiny", "--init", source, "--out", tmp_path / "started", *still)
    assert answer.code == 0, answer.err
    [line] = [line for line in answer.err.splitlines() if line.startswith("init ")]
    return load_encoder(tmp_path / "started"), line.removeprefix("init ").strip()


@pytest.mark.slow
def test_first_weights_from_a_run_or_its_export_are_its_weights(
    runs: dict[str, Path], exported: dict[str, Path], tmp_path: Path
) -> None:
    expected = features(load_encoder(runs["vit"]))

    for number, source in enumerate([runs["vit"], exported["vit"], exported["vit"] / "encoder.safetensors"]):
        (tmp_path / str(number)).mkdir()
        encoder, said = started(source, tmp_path / str(number))
        assert said == "30 of 30 tensors loaded"
        assert torch.equal(features(encoder), expected)


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "model.", "module.encoder_q.", "backbone.0."])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_first_weights_from_torch_files_of_other_programs(
    prefix: str, key: str | None, exported: dict[str, Path], tmp_path: Path
) -> None:
    weights = load_file(exported["vit"] / "encoder.safetensors")
    content: dict[str, object] = {prefix + name: value for name, value in weights.items()}
    content["head.weight"] = torch.zeros(2, 2)
    content["epoch"] = 3
    torch.save({key: content, "epoch": 3} if key else content, tmp_path / "other.pth")
    encoder = vit(image_size=32, patch_size=8, dim=32, depth=2, heads=4)

    report = export.initialise(encoder, str(tmp_path / "other.pth"), Catalog([]))

    assert report["matched"] == 30
    assert report["missing"] == report["misshapen"] == []
    assert report["unexpected"] == (["head.weight"] if prefix == "" else [])
    assert all(torch.equal(value, weights[name]) for name, value in encoder.exported().items())


def test_weights_that_fit_in_part_are_reported(exported: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(exported["vit"] / "encoder.safetensors")
    del weights["norm.weight"]
    weights["norm.bias"] = torch.zeros(7)
    weights["fc_norm.weight"] = torch.zeros(3)
    save_file(weights, tmp_path / "part.safetensors")
    encoder = vit(image_size=32, patch_size=8, dim=32, depth=2, heads=4)
    before = encoder.model.norm.bias.clone()

    report = export.initialise(encoder, str(tmp_path / "part.safetensors"), Catalog([]))

    assert report["summary"] == (
        "28 of 30 tensors loaded; 1 missing (norm.weight); 1 unexpected (fc_norm.weight); "
        "1 of another shape (norm.bias)"
    )
    assert torch.equal(encoder.model.norm.bias, before)
    assert torch.equal(encoder.model.cls_token, weights["cls_token"])


def test_weights_of_another_architecture_are_refused(exported: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"none of its \d+ names \(.*, \.\.\.\) fits ViT"):
        export.initialise(
            vit(image_size=32, dim=32, depth=1, heads=4),
            str(exported["small"] / "encoder.safetensors"),
            Catalog([]),
        )


def test_a_position_table_of_another_size_is_fitted(exported: dict[str, Path]) -> None:
    larger = vit(image_size=64, patch_size=8, dim=32, depth=2, heads=4)

    report = export.initialise(larger, str(exported["vit"] / "encoder.safetensors"), Catalog([]))

    assert report["summary"] == "30 of 30 tensors loaded"
    assert larger.model.pos_embed.shape == (1, 1 + 8 * 8, 32)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
@pytest.mark.parametrize("ending", ["pt", "pth", "bin"])
def test_a_file_that_would_run_code_is_refused_and_not_run(
    writer: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"trap.{ending}"
    if writer == "torch":
        torch.save({"model": {"cls_token": torch.zeros(1, 1, 32)}, "args": _Trap()}, path)
    else:
        path.write_bytes(pickle.dumps({"model": _Trap()}))

    with pytest.raises(UsageError, match=r"holds more than weights, or is damaged .*; it was not run"):
        export.initialise(vit(image_size=32, dim=32, depth=1, heads=4), str(path), Catalog([]))

    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nothing.safetensors", "there is no such file or run; expected RUN, FILE.safetensors or LIBRARY:NAME"),
        ("timm:resnet5000", "timm has no such model; did you mean"),
        ("hub:resnet50", "published weights are known as timm:NAME"),
        ("folder", "is neither a run nor a safetensors export"),
        ("broken.safetensors", "--init broken.safetensors cannot be read"),
        ("list.pt", "expected names and tensors, found list"),
    ],
)
def test_a_wrong_source_is_explained(source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"12345678")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")

    with pytest.raises(UsageError, match=re.escape(reason)):
        export.initialise(resnet(depth=10, width=8, stem="small", image_size=32), source, Catalog([]))


def test_a_recipe_with_a_library_model_survives_its_file(tmp_path: Path) -> None:
    chosen = Recipe(
        task=Ref("vision/simclr"),
        encoder=Ref("vision/timm", name="test_resnet"),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=1)],
    )
    (tmp_path / "mine.json").write_text(chosen.to_json())

    found = compose.compose(
        "vision/simclr", Catalog.installed(), name=str(tmp_path / "mine.json"), settings=["encoder.image_size=64"]
    )

    assert found.encoder == Ref("vision/timm", name="test_resnet", image_size=64)
