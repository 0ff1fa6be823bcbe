"""Does an export load? Its own snippet says so, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unlabel.errors import RunError
from unlabel.export import examples
from unlabel.export.protocols import Tried

__all__ = ["check"]

_SCRIPT = """{code}
import sys

import torch
from safetensors.torch import load_file

case = load_file({case!r})
given = [case.pop(f"input.{{place}}") for place in range({positional})]
named = {{name.removeprefix("input."): value for name, value in case.items() if name.startswith("input.")}}
with torch.no_grad():
    difference = (model(*given, **named) - case["features"]).abs().max().item()
assert "unlabel" not in sys.modules, "the snippet imports unlabel, which is not there where it is used"
print(difference)
"""


@torch.no_grad()
def check(encoder: nn.Module, out: Path, code: str) -> float:
    """Run the README's snippet where nothing else is loaded, and compare features on the same input.

    Args:
        encoder: one that offers an example (`protocols.Tried`).
        out: the folder that it was written to, where the snippet runs.
        code: the snippet.

    Returns:
        The largest absolute difference of features.

    Raises:
        RunError: the snippet fails, needs `unlabel`, or gives other features.
    """
    assert isinstance(encoder, Tried)
    example = encoder.example(3)  # not the number that it was traced with
    expected = examples.call(encoder, example)
    if not isinstance(expected, Tensor):
        raise RunError(f"{type(encoder).__name__} returns {type(expected).__name__}, expected a tensor of features")
    inputs = {f"input.{name}": value.contiguous().clone() for name, value in examples.tensors(example).items()}
    with tempfile.TemporaryDirectory() as folder:
        case, script = Path(folder) / "case.safetensors", Path(folder) / "check.py"
        save_file({**inputs, "features": expected.contiguous()}, case)
        positional = len(examples.arguments(example)[0])
        script.write_text(_SCRIPT.format(code=code, case=str(case), positional=positional), encoding="utf-8")
        answer = subprocess.run([sys.executable, str(script)], cwd=out, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RunError(f"the export in {out} does not load: {answer.stderr.strip().splitlines()[-1]}")
    difference = float(answer.stdout.strip().splitlines()[-1])
    if not difference <= 1e-4 * max(1.0, float(expected.abs().max())):
        raise RunError(f"the export in {out} gives other features than the run (largest difference {difference:.2g})")
    return difference
