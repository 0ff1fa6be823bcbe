"""Shapes that annotations state are checked, in tests alone: modules of pure tensor functions, loaded once more.

A second copy of a module is loaded with the names behind ``if TYPE_CHECKING`` in place, and every function of it checks
what it gets and gives. The package itself knows nothing of it, and needs neither jaxtyping nor beartype.
"""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import unlabel

ANNOTATED = ("nn.masking", "nn.patches", "nn.positions", "nn.losses", "evaluate.metrics", "evaluate.knn")
HERE = Path(unlabel.__file__).parent


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ModuleType]]:
    """A copy of a module that checks shapes."""
    jaxtyping = pytest.importorskip("jaxtyping")
    pytest.importorskip("beartype")
    folder = tmp_path_factory.mktemp("checked")
    made: dict[str, ModuleType] = {}

    def load(name: str) -> ModuleType:
        if name not in made:
            importlib.import_module(f"unlabel.{name}")  # what it needs is loaded as ever
            copy = f"checked_{name.replace('.', '_')}"
            shutil.copy(HERE / f"{name.replace('.', '/')}.py", folder / f"{copy}.py")
            with pytest.MonkeyPatch.context() as patch, jaxtyping.install_import_hook(copy, "beartype.beartype"):
                patch.setattr(typing, "TYPE_CHECKING", True)
                patch.syspath_prepend(folder)
                made[name] = importlib.import_module(copy)
        return made[name]

    yield load
    for module in made.values():
        del sys.modules[module.__name__]


def rows(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def classes(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


CALLS: dict[str, tuple[list[Any], list[Any]]] = {
    "nn.masking.from_noise": ([rows(2, 8), 0.5], [rows(8), 0.5]),
    "nn.masking.split": ([rows(2, 8), 3], [rows(2, 8, 1), 3]),
    "nn.masking.context": ([rows(2, 8), 0.5, torch.ones(2, 8, dtype=torch.bool)], [rows(2, 8), 0.5, rows(2, 8)]),
    "nn.masking.take": ([rows(2, 8, 3), classes(2, 4)], [rows(2, 8, 3), classes(1, 4)]),
    "nn.masking.restore": (
        [rows(2, 1, 3), rows(1, 1, 3), classes(2, 4)],
        [rows(2, 1, 3), rows(1, 1, 3), classes(3, 4)],
    ),
    "nn.patches.patchify": ([rows(2, 3, 4, 4), 2], [rows(2), 2]),
    "nn.patches.unpatchify": ([rows(2, 4, 12), 2, (4, 4)], [rows(2, 4, 1, 12), 2, (4, 4)]),
    "nn.patches.normalize_patches": ([rows(2, 4, 12)], [rows(4, 12)]),
    "nn.positions.rotary": ([4, rows(5, 2)], [4, rows(5)]),
    "nn.positions.interpolate": ([rows(1, 5, 3), (2, 2), (3, 3)], [rows(5), (2, 2), (3, 3)]),
    "nn.losses.nt_xent": ([rows(4, 3), rows(4, 3), 0.1], [rows(4, 3), rows(5, 3), 0.1]),
    "nn.losses.info_nce": ([rows(4, 3), rows(4, 3), 0.1], [rows(4, 3), rows(4, 2), 0.1]),
    "nn.losses.symmetric_info_nce": ([*[rows(4, 3)] * 4, 0.1], [*[rows(4, 3)] * 3, rows(3, 3), 0.1]),
    "nn.losses.info_nce_queue": (
        [rows(4, 3), rows(4, 3), rows(9, 3), 0.1],
        [rows(4, 3), rows(4, 3), rows(9, 3), 0.1, torch.ones(4, 8, dtype=torch.bool)],
    ),
    "nn.losses.masked_mean": ([rows(2, 4), rows(2, 4)], [rows(2, 4), rows(2, 1)]),
    "nn.losses.masked_cross_entropy": (
        [rows(2, 4, 5), classes(2, 4), rows(2, 4), torch.eye(5)],
        [rows(2, 4, 5), classes(2, 4), rows(2, 4), torch.eye(4)],
    ),
    "nn.losses.masked_accuracy": ([rows(2, 4, 5), classes(2, 4), rows(2, 4)], [rows(2, 4, 5), rows(2, 4), rows(2, 4)]),
    "nn.losses.negative_cosine": ([rows(4, 3), rows(4, 3)], [rows(4, 3), rows(3)]),
    "evaluate.metrics.accuracy": ([classes(4), classes(4)], [classes(4), classes(1)]),
    "evaluate.metrics.balanced_accuracy": ([classes(4), classes(4)], [classes(4, 1), classes(4)]),
    "evaluate.metrics.top_k_accuracy": ([classes(4, 3), classes(4), 2], [classes(4, 3), classes(3), 2]),
    "evaluate.metrics.confusion": ([classes(4), classes(4), 3], [classes(4), rows(4), 3]),
    "evaluate.metrics.intersection_over_union": ([torch.eye(3, dtype=torch.int64)], [classes(3, 2)]),
    "evaluate.metrics.mutual_information": ([classes(4), classes(4)], [classes(4), classes(5)]),
    "evaluate.metrics.adjusted_rand": ([classes(4), classes(4)], [classes(4), rows(4)]),
    "evaluate.metrics.clustering_accuracy": ([classes(4), classes(4)], [classes(4), classes(5)]),
    "evaluate.knn.predict": (
        [rows(5, 3), classes(5), rows(2, 3), 2, 0.1, 4],
        [rows(5, 3), classes(5), rows(2, 4), 2, 0.1, 4],
    ),
}
"""Function -> arguments of shapes that fit, and of such that do not."""


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_shape_raises(name: str, checked: Callable[[str], ModuleType]) -> None:
    module, _, function = name.rpartition(".")
    right, wrong = CALLS[name]
    getattr(checked(module), function)(*right)
    with pytest.raises(Exception, match="Type-check error") as error:
        getattr(checked(module), function)(*wrong)
    assert type(error.value).__name__ == "TypeCheckError"


def test_what_is_returned_is_checked_too(checked: Callable[[str], ModuleType]) -> None:
    positions = checked("nn.positions")
    assert positions.sincos(12, (2, 3)).shape == (6, 12)
    assert positions.neighbourhood((2, 2), 1.0).shape == (4, 4)
    turn = positions.Rotary(torch.ones(2, 5, 3, 4), torch.zeros(2, 5, 3, 4), 1)
    with pytest.raises(Exception, match="Type-check error"):
        positions.rotate(rows(3, 4), turn)  # the tables are larger than the tokens: the result would be, too


def test_every_tensor_of_a_public_function_has_a_shape() -> None:
    """Functions that take or give others, such as `Gather`, aside."""
    bare = []
    for name in ANNOTATED:
        module = ast.parse((HERE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                entries = [*node.args.args, *node.args.kwonlyargs]
                annotations = [entry.annotation for entry in entries if entry.annotation] + [node.returns]
                texts = [ast.unparse(annotation) for annotation in annotations if annotation]
                bare += [f"{name}.{node.name}: {text}" for text in texts if text in ("Tensor", "Tensor | None")]
                takes = any("[Tensor, " in ast.unparse(entry) for entry in annotations[:-1] if entry)
                called = f"{name}.{node.name}" in CALLS or node.name == "rotate"  # which has a test of its own
                bare += [f"{name}.{node.name} is not among the calls"] if takes and not called else []
    assert not bare, "\n".join(bare)


@pytest.mark.slow
def test_the_package_needs_no_checker() -> None:
    names = [f"unlabel.{name}" for name in ANNOTATED]
    code = (
        "import sys; sys.modules['jaxtyping'] = sys.modules['beartype'] = None\n"
        f"import importlib; [importlib.import_module(name) for name in {names}]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
