"""The encoder alone: out, in the naming of its own ecosystem, and in, from published weights or a run.

An encoder may offer `Exportable`: the names its weights have elsewhere, the code that loads them there,
and an input to try it on. Everything else is exported under its own names, to be loaded by
`load_encoder`. Every export is loaded again by its own snippet, in a process of its own, and compared.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlabel import build
from unlabel.catalog.plugins import Catalog
from unlabel.errors import RunError, UsageError, nearest
from unlabel.recipe import Recipe, Ref
from unlabel.run import Run

if TYPE_CHECKING:
    from unlabel.task import Task

__all__ = ["FORMATS", "Exportable", "Published", "export", "initialise", "load_encoder", "load_first_weights"]


@runtime_checkable
class Exportable(Protocol):
    """What an encoder offers to be loadable without `unlabel`."""

    def exported(self) -> dict[str, Tensor]:
        """Its weights under the names they have in its own ecosystem; the tensors themselves, not copies."""

    def loading_code(self, file: str) -> str:
        """Python that leaves ``model``, in evaluation mode, with the weights of `file`; imports no `unlabel`."""

    def example(self, count: int) -> Tensor:
        """A float input of `count` samples, for tracing and for comparing."""

    def usage(self) -> str:
        """What goes in and comes out, for the README: shapes, normalisation."""


@runtime_checkable
class Published(Protocol):
    """What an encoder offers to start from weights published elsewhere."""

    def published(self, scheme: str, name: str) -> dict[str, Tensor]:
        """Weights called `name` in a library called `scheme`, under that library's names (may download)."""

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights fitted to this encoder's sizes where that is usual (position tables)."""


def export(run: Run, out: Path, kind: str = "safetensors", check: bool = True) -> dict[str, Any]:
    """Write a run's encoder to a folder, with a README whose snippet loads it.

    Args:
        run: where the encoder comes from.
        out: a folder that does not exist yet, or is empty.
        kind: ``safetensors``, ``onnx`` or ``torch-export``.
        check: load it back as the README says, in a fresh process, and compare features.

    Returns:
        ``{"files": [...], "difference": largest absolute difference of features, or None}``.

    Raises:
        UsageError: unknown format, `out` is taken, or an extra is missing.
        RunError: what was loaded back gives other features, or the encoder cannot be traced.
    """
    if kind not in FORMATS:
        raise UsageError(f"--format {kind!r}: expected {', '.join(FORMATS)}{nearest(kind, FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} already exists; give a folder that does not")
    encoder = run.encoder
    try:
        out.mkdir(parents=True, exist_ok=True)
        code = FORMATS[kind](encoder, out)
        config = {
            "encoder": run.recipe.encoder.model_dump(mode="json"),
            "task": run.recipe.name,
            "run": run.folder.name,
        }
        (out / "encoder.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (out / "README.md").write_text(_readme(run, encoder, code), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(out, ignore_errors=True)
        raise RunError(f"--out {out} cannot be written: {error}") from error
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # half an export would be in the way of the next try
        raise
    difference = _check(encoder, out, code) if check and isinstance(encoder, Exportable) else None
    return {"files": sorted(path.name for path in out.iterdir()), "difference": difference}


def load_encoder(path: Path | str, catalog: Catalog | None = None) -> nn.Module:
    """The encoder of a run or of a safetensors export, on the CPU, in evaluation mode.

    Raises:
        UsageError: the path is neither, or is damaged.
        RunError: the weights do not fit the encoder; a run has no whole checkpoint.
    """
    path, catalog = Path(path), catalog or Catalog.installed()
    if (path / "recipe.json").is_file():
        return Run(path, catalog).encoder
    if not (path / "encoder.json").is_file() or not (path / "encoder.safetensors").is_file():
        raise UsageError(f"{path} is neither a run nor a safetensors export (no recipe.json, no encoder.json)")
    try:
        ref = Ref.model_validate(json.loads((path / "encoder.json").read_text(encoding="utf-8"))["encoder"])
        weights = load_file(path / "encoder.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UsageError(f"{path} is a damaged export: {type(error).__name__}: {error}") from error
    encoder = build.build_encoder(ref, catalog)
    report = _copy(weights, _named(encoder))
    if report["missing"] or report["misshapen"]:
        raise RunError(f"{path}/encoder.safetensors does not fit {ref.name}: {report['summary']}")
    return encoder.eval()


def load_first_weights(task: Task, recipe: Recipe, catalog: Catalog) -> list[str]:
    """Give a task's encoders the first weights that the recipe's `init` names; what was loaded, in a line each.

    Raises:
        UsageError: unknown source, or no name matches.
    """
    encoders, summaries = task.encoders(), []
    for name, source in recipe.first_weights.items():
        summary = initialise(encoders[name], source, catalog)["summary"]
        summaries.append(summary if len(recipe.encoders) == 1 else f"{name}: {summary}")
    return summaries


def initialise(encoder: nn.Module, source: str, catalog: Catalog) -> dict[str, Any]:
    """Give an encoder its first weights.

    Args:
        encoder: changed in place.
        source: a run's folder, a .safetensors (or weights-only torch) file, or ``LIBRARY:NAME``.
        catalog: what is installed.

    Returns:
        A report of which names matched: ``matched``, ``missing``, ``unexpected``, ``misshapen``, ``summary``.

    Raises:
        UsageError: unknown source, or no name matches.
    """
    weights = _weights(encoder, source, catalog)
    target = _named(encoder)
    prefix = _prefix(weights, target)
    weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if isinstance(encoder, Published):
        weights = encoder.adapted(weights)
    report = _copy(weights, target)
    if not report["matched"]:
        example = ", ".join(list(weights)[:2])
        raise UsageError(
            f"--init {source}: none of its {len(weights)} names ({example}, ...) fits {type(encoder).__name__}"
        )
    return report


def _prefix(names: Iterable[str], wanted: Mapping[str, Any]) -> str:
    """What stands before the wanted names in most of the given ones: ``"module.encoder_q."``, or nothing."""
    found: Counter[str] = Counter({"": 0})
    for name in names:
        parts = name.split(".")
        endings = (".".join(parts[start:]) for start in range(len(parts)))
        found.update(name.removesuffix(ending) for ending in endings if ending in wanted)
    return max(found, key=lambda prefix: (found[prefix], -len(prefix)))


def _weights(encoder: nn.Module, source: str, catalog: Catalog) -> dict[str, Tensor]:
    path = Path(source).expanduser()
    if path.is_dir():
        return {name: value.clone() for name, value in _named(load_encoder(path, catalog)).items()}
    if path.is_file():
        return _read(path)
    scheme, colon, name = source.partition(":")
    if colon and isinstance(encoder, Published):
        return encoder.published(scheme, name)
    if colon:
        raise UsageError(f"--init {source}: {type(encoder).__name__} knows no published weights; give a file or a run")
    raise UsageError(f"--init {source}: there is no such file or run; expected RUN, FILE.safetensors or LIBRARY:NAME")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"--init {path} cannot be read: {error}") from error
    except Exception as error:  # torch.load raises whatever the damaged or unsafe content makes it raise
        raise UsageError(
            f"--init {path} holds more than weights, or is damaged ({type(error).__name__}); it was not run"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UsageError(f"--init {path}: expected names and tensors, found {type(content).__name__}")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _named(encoder: nn.Module) -> dict[str, Tensor]:
    return encoder.exported() if isinstance(encoder, Exportable) else dict(encoder.state_dict())


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Any]:
    """Copy what fits by name and shape, and report the rest."""
    both = weights.keys() & target.keys()
    misshapen = sorted(name for name in both if weights[name].shape != target[name].shape)
    for name in both.difference(misshapen):
        target[name].copy_(weights[name])
    missing, unexpected = sorted(target.keys() - weights.keys()), sorted(weights.keys() - target.keys())
    matched = len(both) - len(misshapen)
    parts = [f"{matched} of {len(target)} tensors loaded"]
    for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if names:
            parts.append(f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    report = {"matched": matched, "missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    return {**report, "summary": "; ".join(parts)}


def _safetensors(encoder: nn.Module, out: Path) -> str:
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in _named(encoder).items()},
        out / "encoder.safetensors",
    )
    if isinstance(encoder, Exportable):
        return encoder.loading_code("encoder.safetensors")
    return "import unlabel\n\nmodel = unlabel.load_encoder('.')\n"


def _onnx(encoder: nn.Module, out: Path) -> str:
    try:
        import onnx  # noqa: F401  # only to say early, and plainly, that it is missing
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError("--format onnx needs `pip install 'unlabel[onnx]'`") from error
    with warnings.catch_warnings(action="ignore"):  # torch's own, about its own insides
        program = torch.onnx.export(_traced(encoder), dynamo=True, verbose=False)
    if program is None:
        raise RunError("the encoder cannot be written as ONNX")
    program.save(str(out / "encoder.onnx"))
    return (
        "import onnxruntime\nimport torch\n\nsession = onnxruntime.InferenceSession('encoder.onnx')\n"
        "name = session.get_inputs()[0].name\n\n\ndef model(x):\n"
        "    return torch.from_numpy(session.run(None, {name: x.numpy()})[0])\n"
    )


def _torch_export(encoder: nn.Module, out: Path) -> str:
    program = _traced(encoder)
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(program, out / "encoder.pt2")
    return "import torch\n\nmodel = torch.export.load('encoder.pt2').module()\n"


def _traced(encoder: nn.Module) -> torch.export.ExportedProgram:
    """The encoder as a program that takes any number of samples.

    The stricter of torch's two ways of tracing understands code such as ``len(x)``; the other one more libraries.
    """
    example, batch = _example(encoder), torch.export.Dim("batch", min=1)
    reasons = []
    for strict in (False, True):
        try:
            with warnings.catch_warnings(action="ignore"):
                return torch.export.export(encoder, (example,), dynamic_shapes=({0: batch},), strict=strict)
        except Exception as error:  # whatever the encoder's code does that cannot be traced
            reasons.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
    raise RunError(f"{type(encoder).__name__} cannot be traced; use --format safetensors ({'; '.join(reasons)})")


def _example(encoder: nn.Module) -> Tensor:
    if not isinstance(encoder, Exportable):
        raise UsageError(
            f"{type(encoder).__name__} offers no example input, which this format needs; use --format safetensors"
        )
    return encoder.example(2)


FORMATS: dict[str, Callable[[nn.Module, Path], str]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "torch-export": _torch_export,
}


def _readme(run: Run, encoder: nn.Module, code: str) -> str:
    usage = encoder.usage() if isinstance(encoder, Exportable) else f"Input as in task {run.recipe.name}."
    results = run.evaluations.get("after", {})
    measured = "".join(f"- {name}: {json.dumps(numbers)}\n" for name, numbers in results.items()) or "- not evaluated\n"
    return (
        f"# Encoder of run {run.folder.name}\n\n"
        f"Trained with `{run.recipe.name}` on `{run.recipe.dataset.name}`.\n\n"
        f"## Load\n\nIn this folder:\n\n```python\n{code}```\n\n{usage}\n\n## Measured\n\n{measured}"
    )


@torch.no_grad()
def _check(encoder: nn.Module, out: Path, code: str) -> float:
    """Run the README's snippet where nothing else is loaded, and compare features on the same input."""
    assert isinstance(encoder, Exportable)
    example = encoder.example(3)  # not the number that it was traced with
    expected = encoder(example)
    with tempfile.TemporaryDirectory() as folder:
        save_file({"input": example.contiguous(), "features": expected.contiguous()}, Path(folder) / "case.safetensors")
        script = Path(folder) / "check.py"
        script.write_text(
            f"{code}\nimport torch\nfrom safetensors.torch import load_file\n"
            f"case = load_file({str(Path(folder) / 'case.safetensors')!r})\n"
            "with torch.no_grad():\n    print((model(case['input']) - case['features']).abs().max().item())\n",
            encoding="utf-8",
        )
        answer = subprocess.run([sys.executable, str(script)], cwd=out, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RunError(f"the export in {out} does not load: {answer.stderr.strip().splitlines()[-1]}")
    difference = float(answer.stdout.strip().splitlines()[-1])
    if not difference <= 1e-4 * max(1.0, float(expected.abs().max())):
        raise RunError(f"the export in {out} gives other features than the run (largest difference {difference:.2g})")
    return difference
