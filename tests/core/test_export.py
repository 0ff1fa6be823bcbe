"""Exports: one encoder or several, of one input or many, in the core's formats or their own; each loads alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toyright.encoders import Open

from unlabel import Catalog, RunError, UsageError, export, load_encoder
from unlabel.export import checking, examples, formats
from unlabel.export.protocols import Example
from unlabel.export.writing import Origin, Part, write
from unlabel.recipe import Ref

LENGTH = Open(dim=3).example(1).shape[1]


class Reader(nn.Module):
    """Means of embedded tokens where the mask is set; loads with torch alone, and has a format of its own."""

    def __init__(self, *, words: int = 11, dim: int = 5):
        super().__init__()
        self.dim = dim
        self.table = nn.Embedding(words, dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        shown = mask[..., None].to(self.table.weight.dtype)
        return (self.table(tokens) * shown).sum(1) / shown.sum(1).clamp_min(1)

    def exported(self) -> dict[str, Tensor]:
        return {"words": self.table.weight}

    def loading_code(self, file: str) -> str:
        return (
            "import torch\nfrom safetensors.torch import load_file\n\n"
            f"table = load_file({file!r})['words']\n\n\n"
            "def model(tokens, mask):\n    shown = mask[..., None].float()\n"
            "    return (table[tokens] * shown).sum(1) / shown.sum(1).clamp_min(1)\n"
        )

    def example(self, count: int) -> Example:
        tokens = torch.arange(4 * count).reshape(count, 4) % len(self.table.weight)
        return {"tokens": tokens, "mask": tokens != 3}

    def usage(self) -> str:
        return "Tokens, int64, (N, L), and which of them are there."

    def formats(self) -> Mapping[str, Callable[[Path], str]]:
        return {"plain": self.plain}

    def plain(self, folder: Path) -> str:
        """Numbers that are read without any library."""
        (folder / "words.json").write_text(json.dumps(self.table.weight.tolist()))
        code = "import json\n\ntable = torch.tensor(json.loads(open('words.json').read()))"
        return self.loading_code("x").replace("table = load_file('x')['words']", code)


class Pair(Reader):
    """The same, its inputs by position."""

    def example(self, count: int) -> Example:
        named = super().example(count)
        assert isinstance(named, Mapping)
        return tuple(named.values())


class Whole(Reader):
    """Writes its own files."""

    names: tuple[str, ...] = ("words",)

    def write(self, folder: Path) -> str:
        """Configuration, vocabulary, and weights as others know them."""
        (folder / "config.json").write_text('{"hidden_size": 5}')
        (folder / "vocab.txt").write_text("a\nb\n")
        save_file({name: self.table.weight.detach().clone() for name in self.names}, folder / "model.safetensors")
        return self.loading_code("model.safetensors").replace("['words']", f"[{self.names[0]!r}]")

    def preprocessing(self) -> dict[str, Any]:
        """What a text becomes."""
        return {"tokenizer": "vocab.txt", "max_length": 4}

    def preprocessing_code(self, file: str) -> str:
        """How its ecosystem makes inputs."""
        return f"import json\n\ntransform = json.load(open({file!r}))['max_length'].__add__\n"


CATALOG = Catalog([])


def part(encoder: nn.Module, name: str = "", **inputs: Any) -> Part:
    return Part(Ref(name or f"test_export:{type(encoder).__name__}"), encoder, inputs)


def origin(folder: Path) -> Origin:
    return Origin(folder, "toy/both", "toy/pings", {"knn": {"accuracy": 0.5}})


def snippet(folder: Path) -> str:
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return code


def written(folder: Path, kind: str = "safetensors", check: bool = False, **parts: Part) -> dict[str, Any]:
    """Below `folder`; a check starts a process for each encoder."""
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    return write(parts, origin(run), folder / "out", kind, check)


@pytest.fixture
def two() -> dict[str, Part]:
    torch.manual_seed(0)
    return {"wave": part(Open(dim=3), "toyright.encoders:Open"), "text": part(Reader())}


# Several encoders


@pytest.mark.slow
def test_each_of_several_encoders_has_a_folder_that_is_complete(two: dict[str, Part], tmp_path: Path) -> None:
    """Written, and each loaded by its own snippet in a process that never heard of this library."""
    answer = written(tmp_path, check=True, **two)

    every = ("README.md", "encoder.json", "encoder.safetensors")
    assert answer["files"] == ["README.md", *(f"text/{name}" for name in every), *(f"wave/{name}" for name in every)]
    assert answer["difference"] <= 1e-6
    for name in two:
        assert json.loads((tmp_path / "out" / name / "encoder.json").read_text())["name"] == name
        assert "unlabel" not in snippet(tmp_path / "out" / name)
    overview = (tmp_path / "out/README.md").read_text()
    assert "- [wave](wave/README.md): `toyright.encoders:Open`" in overview
    assert '- knn: {"accuracy": 0.5}' in overview


def test_one_of_several_is_loaded_by_name(two: dict[str, Part], tmp_path: Path) -> None:
    written(tmp_path, **two)
    out = tmp_path / "out"
    assert torch.equal(load_file(out / "text/encoder.safetensors")["words"], two["text"].encoder.table.weight)  # type: ignore[union-attr,operator]
    with pytest.raises(UsageError, match=rf"{out} has the encoders text, wave: name one, as in .*of='text'"):
        load_encoder(out)
    with pytest.raises(UsageError, match=rf"{out} has no encoder 'wav': it has text, wave; did you mean wave"):
        load_encoder(out, of="wav")
    with pytest.raises(UsageError, match=r"out/text has no encoder 'wave': it has text"):
        load_encoder(out / "text", of="wave")


def test_first_weights_of_a_folder_of_several_are_those_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLABEL_PLUGINS", "vision")
    from unlabel_vision.encoders.resnet import resnet

    made = {name: resnet(depth=10, width=8, stem="small", image_size=32) for name in ("left", "right")}
    ref = Ref("vision/resnet", depth=10, width=8, stem="small", image_size=32)
    write({name: Part(ref, each, {}) for name, each in made.items()}, origin(tmp_path), tmp_path / "out",
          "safetensors", check=False)  # fmt: skip
    new = resnet(depth=10, width=8, stem="small", image_size=32)

    export.initialise(new, str(tmp_path / "out"), Catalog.installed(), "right")

    for key, value in new.state_dict().items():
        assert torch.equal(value, made["right"].state_dict()[key])
    loaded = load_encoder(tmp_path / "out", of="left").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in made["left"].state_dict().items())
    with pytest.raises(UsageError, match="has the encoders left, right: name one"):
        export.initialise(new, str(tmp_path / "out"), Catalog.installed())
    with pytest.raises(UsageError, match="has no encoder 'rigt': it has left, right; did you mean right"):
        export.initialise(new, str(tmp_path / "out"), Catalog.installed(), "rigt")


def test_the_folder_of_one_encoder_is_flat_whatever_its_name(tmp_path: Path) -> None:
    assert written(tmp_path, text=part(Reader()))["files"] == ["README.md", "encoder.json", "encoder.safetensors"]


# Inputs


@pytest.mark.parametrize("kind", ["safetensors", "torch-export", "onnx"])
@pytest.mark.parametrize("encoder", [Reader, Pair, Open])
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch's own loader
@pytest.mark.slow
def test_every_format_takes_every_kind_of_input(encoder: type[nn.Module], kind: str, tmp_path: Path) -> None:
    """Traced with two samples, tried with three."""
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    assert written(tmp_path, kind, True, only=part(encoder()))["difference"] <= 1e-5


def test_inputs_by_keyword_and_by_place_are_the_same() -> None:
    torch.manual_seed(0)
    reader, pair = Reader(), Pair()
    pair.load_state_dict(reader.state_dict())
    assert torch.equal(examples.call(reader, reader.example(3)), examples.call(pair, pair.example(3)))
    for wrong in ({}, (), [torch.zeros(1)], (torch.zeros(1), 3), {"tokens": [1]}):
        with pytest.raises(TypeError, match="expected a tensor, or a tuple or dict of tensors"):
            examples.arguments(wrong)  # type: ignore[arg-type]


# Formats and files of an encoder's own


@pytest.mark.slow
def test_an_encoders_own_format_is_written_and_checked(tmp_path: Path) -> None:
    answer = written(tmp_path, "plain", True, only=part(Reader()))
    assert "words.json" in answer["files"]
    assert answer["difference"] <= 1e-6


def test_a_format_that_an_encoder_lacks_is_refused_before_anything_is_written(
    two: dict[str, Part], tmp_path: Path
) -> None:
    with pytest.raises(
        UsageError, match=r"--format 'plain' of the encoder 'wave': expected safetensors, onnx, torch-export"
    ):
        written(tmp_path, "plain", **two)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match=r"--format 'plane': expected .*torch-export, plain; did you mean plain"):
        written(tmp_path, "plane", only=two["text"])


@pytest.mark.slow
def test_an_encoder_writes_its_ecosystems_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = written(tmp_path, check=True, only=part(Whole(), max_length=6))

    out = tmp_path / "out"
    own = ["README.md", "config.json", "encoder.json", "model.safetensors", "preprocessing.json", "vocab.txt"]
    assert answer["files"] == own, "and no second copy of the weights"
    assert answer["difference"] <= 1e-6
    assert json.loads((out / "encoder.json").read_text())["weights"] == "model.safetensors"
    assert json.loads((out / "preprocessing.json").read_text()) == {"tokenizer": "vocab.txt", "max_length": 6}, (
        "what the task's transform says is what was done"
    )
    monkeypatch.chdir(out)
    assert "transform = json.load" in snippet(out)
    assert "How inputs are made stands in `preprocessing.json`" in (out / "README.md").read_text()


def test_weights_of_other_names_are_written_once_more_for_our_own_loader(tmp_path: Path) -> None:
    encoder = Whole()
    encoder.names = ("embeddings.word",)
    assert "encoder.safetensors" in written(tmp_path, only=part(encoder))["files"]
    assert load_file(tmp_path / "out/encoder.safetensors").keys() == {"words"}


def test_a_path_in_an_exports_list_leads_nowhere_else(tmp_path: Path) -> None:
    written(tmp_path, only=part(Whole()))
    (tmp_path / "elsewhere.safetensors").write_bytes((tmp_path / "out/model.safetensors").read_bytes())
    config = json.loads((tmp_path / "out/encoder.json").read_text())
    (tmp_path / "out/encoder.json").write_text(json.dumps({**config, "weights": "../elsewhere.safetensors"}))
    with pytest.raises(UsageError, match=r"neither a run nor a safetensors export \(no elsewhere.safetensors\)"):
        load_encoder(tmp_path / "out", CATALOG)


def test_tied_weights_are_written_under_both_names(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

    encoder = Tied()
    formats.write_weights(encoder, tmp_path / "tied.safetensors")
    weights = load_file(tmp_path / "tied.safetensors")
    assert torch.equal(weights["first.weight"], weights["second.weight"])
    assert weights.keys() == encoder.state_dict().keys()


# Preprocessing and assets


def test_what_is_no_json_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="what preprocessing\\(\\) says of Reader is no JSON"):
        written(tmp_path, only=part(Reader(), mean=torch.zeros(3)))
    assert not (tmp_path / "out").exists()


def listed(run: Path, **changed: str) -> None:
    (run / "assets/task").mkdir(parents=True)
    (run / "assets/task/vocab.txt").write_text("a\nb\n")
    digest = hashlib.sha256(b"a\nb\n").hexdigest()
    (run / "assets.json").write_text(json.dumps({"task/vocab.txt": digest, **changed}))


def test_assets_of_the_run_go_with_it(two: dict[str, Part], tmp_path: Path) -> None:
    listed(tmp_path / "run")
    assert "assets/task/vocab.txt" in written(tmp_path, **two)["files"]
    assert (tmp_path / "out/assets/task/vocab.txt").read_text() == "a\nb\n"


def test_an_asset_lies_beside_each_encoder_whose_inputs_need_it(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"c").hexdigest()
    listed(tmp_path / "run", **{"dataset/scale.txt": digest})
    (tmp_path / "run/assets/dataset").mkdir()
    (tmp_path / "run/assets/dataset/scale.txt").write_text("c")
    needing = part(Reader(), tokens=[{"file": "assets/task/vocab.txt"}])
    files = written(tmp_path, wave=part(Open(dim=3)), text=needing, more=needing)["files"]
    places = ["assets/dataset/scale.txt", "more/assets/task/vocab.txt", "text/assets/task/vocab.txt"]
    assert [name for name in files if "assets" in name] == places


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "assets/task/vocab.txt").write_text("x"), "does not match the hash"),
        (lambda run: (run / "assets/task/vocab.txt").unlink(), "is missing; the run cannot be used"),
        (lambda run: (run / "assets.json").write_text("[3]"), "assets.json is damaged"),
        (
            lambda run: (run / "assets.json").write_text('{"../recipe.json": "0"}'),
            "is damaged: expected names",
        ),
    ],
)
def test_damaged_assets_are_not_exported(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    listed(tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(RunError, match=message):
        written(tmp_path, only=part(Reader()))
    assert not (tmp_path / "out").exists()


# The check


@pytest.mark.slow
def test_a_snippet_that_needs_this_library_is_no_snippet(tmp_path: Path) -> None:
    reader = Reader()
    formats.write_weights(reader, tmp_path / "encoder.safetensors")
    code = reader.loading_code("encoder.safetensors")
    assert checking.check(reader, tmp_path, code) <= 1e-6
    with pytest.raises(RunError, match="does not load: AssertionError: the snippet imports unlabel"):
        checking.check(reader, tmp_path, f"import unlabel\n{code}")


def test_an_encoder_that_returns_no_tensor_is_told_so(tmp_path: Path) -> None:
    class Dictionary(Reader):
        def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"features": super().forward(tokens, mask)}

    with pytest.raises(RunError, match="Dictionary returns dict, expected a tensor of features"):
        checking.check(Dictionary(), tmp_path, "")
