"""The formats of an export: the core's own, and those an encoder adds. Each writes files and returns loading code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unlabel.errors import RunError, UsageError, nearest
from unlabel.export import examples
from unlabel.export.protocols import Example, Exportable, Formatted, Tried, Written

__all__ = ["FORMATS", "OURS", "WEIGHTS", "named", "offered", "write_weights", "writer"]

WEIGHTS = "encoder.safetensors"

OURS = "import unlabel\n\nmodel = unlabel.load_encoder('.')\n"
"""The snippet of an encoder that nothing but this library can load."""


def writer(encoder: nn.Module, kind: str, which: str = "") -> Callable[[Path], str]:
    """What writes an encoder in the format `kind`; `which` is its name where there are several.

    Raises:
        UsageError: it has no such format; the message names those it has.
    """
    formats = offered(encoder)
    if kind not in formats:
        of = f" of the encoder {which!r}" if which else ""
        raise UsageError(f"--format {kind!r}{of}: expected {', '.join(formats)}{nearest(kind, formats)}")
    return formats[kind]


def offered(encoder: nn.Module) -> dict[str, Callable[[Path], str]]:
    """Every format an encoder can be written in, by name; its own come after the core's, and instead of them."""
    formats: dict[str, Callable[[Path], str]] = {name: partial(write, encoder) for name, write in FORMATS.items()}
    return formats | dict(encoder.formats() if isinstance(encoder, Formatted) else {})


def named(encoder: nn.Module) -> dict[str, Tensor]:
    """Its weights under the names that files give them."""
    return encoder.exported() if isinstance(encoder, Exportable) else dict(encoder.state_dict())


def write_weights(encoder: nn.Module, path: Path) -> None:
    """Write the weights alone; one that has two names is written twice, since such a file shares nothing."""
    weights, places = {}, set()
    for name, value in named(encoder).items():
        value = value.detach().cpu().contiguous()
        weights[name] = value.clone() if value.data_ptr() in places else value
        places.add(value.data_ptr())
    save_file(weights, path)


def _safetensors(encoder: nn.Module, out: Path) -> str:
    if isinstance(encoder, Written):
        return encoder.write(out)
    write_weights(encoder, out / WEIGHTS)
    if isinstance(encoder, Exportable):
        return encoder.loading_code(WEIGHTS)
    return OURS


def _onnx(encoder: nn.Module, out: Path) -> str:
    try:
        import onnx  # noqa: F401  # only to say early, and plainly, that it is missing
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError("--format onnx needs `pip install 'unlabel[onnx]'`") from error
    example = _example(encoder)
    single = isinstance(example, Tensor)
    inputs = [name if isinstance(example, Mapping) else f"x{name}" for name in examples.tensors(example)]
    with warnings.catch_warnings(action="ignore"):  # torch's own, about its own insides
        program = torch.onnx.export(
            _traced(encoder, example), dynamo=True, verbose=False, input_names=None if single else inputs
        )
    if program is None:
        raise RunError("the encoder cannot be written as ONNX")
    program.save(str(out / "encoder.onnx"))
    session = "import onnxruntime\nimport torch\n\nsession = onnxruntime.InferenceSession('encoder.onnx')\n"
    if single:
        return (
            f"{session}name = session.get_inputs()[0].name\n\n\ndef model(x):\n"
            "    return torch.from_numpy(session.run(None, {name: x.numpy()})[0])\n"
        )
    return (
        f"{session}names = [entry.name for entry in session.get_inputs()]  # without those that change nothing\n\n\n"
        f"def model({', '.join(inputs)}):\n    given = {{{', '.join(f'{name!r}: {name}' for name in inputs)}}}\n"
        "    return torch.from_numpy(session.run(None, {name: given[name].numpy() for name in names})[0])\n"
    )


def _torch_export(encoder: nn.Module, out: Path) -> str:
    program = _traced(encoder, _example(encoder))
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(program, out / "encoder.pt2")
    return "import torch\n\nmodel = torch.export.load('encoder.pt2').module()\n"


def _traced(encoder: nn.Module, example: Example) -> torch.export.ExportedProgram:
    """The encoder as a program that takes any number of samples.

    The stricter of torch's two ways of tracing understands code such as ``len(x)``; the other one more libraries.
    """
    positional, keywords = examples.arguments(example)
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in positional) if positional else {name: {0: batch} for name in keywords}
    reasons = []
    for strict in (False, True):
        try:
            with warnings.catch_warnings(action="ignore"):
                return torch.export.export(encoder, positional, keywords, dynamic_shapes=shapes, strict=strict)
        except Exception as error:  # whatever the encoder's code does that cannot be traced
            reasons.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
    raise RunError(f"{type(encoder).__name__} cannot be traced; use --format safetensors ({'; '.join(reasons)})")


def _example(encoder: nn.Module) -> Example:
    if not isinstance(encoder, Tried):
        raise UsageError(
            f"{type(encoder).__name__} offers no example input, which this format needs; use --format safetensors"
        )
    return encoder.example(2)


FORMATS: Mapping[str, Callable[[nn.Module, Path], str]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "torch-export": _torch_export,
}
