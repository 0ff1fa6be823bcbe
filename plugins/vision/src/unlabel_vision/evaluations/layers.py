"""Layer by layer: how compressed tokens are within subspaces, how much they still span, and how sparse they are.

The mechanism that CRATE claims (Pai et al. 2024, arXiv 2404.02446, section 4): along the layers the rate of coding
tokens within the learned subspaces falls, and their code becomes sparse. Needs no labels.
"""

from __future__ import annotations

from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from unlabel import Frozen
from unlabel.errors import UsageError
from unlabel.evaluate.features import evaluating
from unlabel_vision import views
from unlabel_vision.encoders.crate import Crate
from unlabel_vision.encoders.crate_network import CrateBlock
from unlabel_vision.encoders.patch_encoder import PatchEncoder
from unlabel_vision.tasks.crate_mae import coding_rate as rates

__all__ = ["coding_rate", "measured"]


@torch.no_grad()
def measured(encoder: PatchEncoder, images: Tensor, eps: float = 0.01, tolerance: float = 0.0) -> dict[str, Tensor]:
    """Numbers of each layer, from 1 on, of whole images; see `coding_rate`.

    Args:
        encoder: CRATE, or another in parts, which has no subspaces and gets rates of whole tokens alone.
        images: float, (N, 3, S, S), normalised.
        eps, tolerance: as for `coding_rate`.

    Returns:
        float32, (N,) each.
    """
    tokens = encoder.with_class(encoder.embed(images) + encoder.positions)
    numbers: dict[str, Tensor] = {}
    if isinstance(encoder, Crate):
        layers = encoder.states(tokens)
        outputs = [layer.code for layer in layers]
        for number, (block, layer) in enumerate(zip(encoder.model.blocks, layers, strict=True), start=1):
            assert isinstance(block, CrateBlock)
            inside = block.attn.coordinates(block.norm1(layer.compressed))
            numbers[f"incoming_{number}"] = rates.coding_rate(layer.coordinates, eps)
            numbers[f"compression_{number}"] = rates.coding_rate(inside, eps)
    else:
        outputs = encoder.outputs(tokens)
    for number, output in enumerate(outputs, start=1):
        numbers[f"rate_{number}"] = rates.coding_rate(output[:, None], eps)
        numbers[f"sparsity_{number}"] = (output.abs() <= tolerance).float().mean((1, 2))
    return numbers


def coding_rate(frozen: Frozen, *, samples: int = 512, eps: float = 0.01, tolerance: float = 0.0) -> dict[str, float]:
    """Coding rates and sparsity of the encoder's layers, on held-out images, or training images where there are none.

    Args:
        frozen: what to judge.
        samples: images, at most.
        eps: distortion of the rates, above 0.
        tolerance: entries no larger count as zero.

    Returns:
        For each layer l from 1 on, means over the images: ``incoming_l``, the rate R^c of coding what comes in within
        the layer's subspaces (as the authors measure); ``compression_l``, the same after its attention, Z^(l + 1/2);
        ``rate_l``, the rate R of coding what comes out, at all; ``sparsity_l``, its share of zeros. Rates are nats an
        image. Encoders without subspaces have the last two.

    Raises:
        UsageError: an encoder that is not in parts, or a keyword out of range.
    """
    encoder = frozen.task.encoder
    if not isinstance(encoder, PatchEncoder):
        raise UsageError(
            f"vision/coding_rate looks at the layers of an encoder of patches, which {type(encoder).__name__} is not: "
            "it measures vision/crate and vision/vit"
        )
    if samples < 1 or not eps > 0.0 or tolerance < 0.0:
        raise UsageError(
            f"samples={samples}, eps={eps}, tolerance={tolerance}: expected at least 1, more than 0, and 0 or more"
        )
    split: Literal["train", "test"] = "test" if frozen.has_split("test") else "train"
    order = frozen.indices(split)[:samples]
    values: dict[str, list[float]] = {}
    with evaluating(frozen.task), torch.inference_mode():
        for batch in frozen.batches(split, frozen.task.eval_transform(), order=order, batch_size=64):
            for name, numbers in measured(encoder, views.to_float(batch["image"]), eps, tolerance).items():
                values.setdefault(name, []).extend(numbers.tolist())
    return {name: fmean(numbers) for name, numbers in values.items()}
