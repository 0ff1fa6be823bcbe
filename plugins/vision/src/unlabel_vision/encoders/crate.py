"""CRATE as an encoder: for its own autoencoder and for every other task on images or on patches.

The network and its source are in `unlabel_vision.encoders.crate_network`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from unlabel.errors import UsageError
from unlabel.nn import transformer
from unlabel_vision.encoders import crate_network
from unlabel_vision.encoders.crate_network import CrateNetwork, Layer
from unlabel_vision.encoders.patch_encoder import Attend, Part, PatchEncoder, check_sizes, stepped

__all__ = ["Crate", "crate", "renamed"]

_PUBLISHED = (
    (r"\.layers\.0\.0\.norm\.", ".norm1."),
    (r"\.layers\.0\.0\.fn\.qkv\.", ".attn.subspaces."),
    (r"\.layers\.0\.0\.fn\.to_out\.0\.", ".attn.out."),
    (r"\.layers\.0\.1\.norm\.", ".norm2."),
    (r"\.layers\.0\.1\.fn\.weight$", ".ista.dictionary"),
)


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names of an encoder's weights changed into those here; other names are left alone.

    Their encoder adds the table that is called the decoder's; the one called ``pos_embed`` is never used.
    """
    state = {}
    for name, value in weights.items():
        if name.startswith("blocks."):
            for theirs, ours in _PUBLISHED:
                name = re.sub(theirs, ours, name)
        state[name] = value
    if "decoder_pos_embed" in state:
        state["pos_embed"] = state.pop("decoder_pos_embed")
    return state


class Crate(PatchEncoder):
    """A white-box transformer that can leave patches out.

    Args:
        options: keywords of `CrateNetwork`.

    Attributes:
        options: as given.
    """

    def __init__(self, **options: Any):
        model = CrateNetwork(**options)
        super().__init__(model, options["dim"], options["heads"], options["pool"])
        self.options = options
        transformer.xavier_init(model)
        self.fix_positions()

    def step(self, block: Part, tokens: Tensor, attend: Attend | None = None) -> Tensor:
        """One layer, with its own attention or another: (N, T, dim) -> (N, T, dim)."""
        layer: Layer = stepped(block, tokens, attend)
        return layer.code

    def states(self, tokens: Tensor) -> list[Layer]:
        """What each layer makes of tokens (N, T, dim), before the final norm."""
        layers: list[Layer] = []
        for block in self.model.blocks:
            layers.append(stepped(block, layers[-1].code if layers else tokens))
        return layers

    def loading_code(self, file: str) -> str:
        """The network's source, which knows nothing of this package, and how to fill it."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        source = inspect.getsource(crate_network).strip()
        return (
            f"{source}\n\n\nfrom safetensors.torch import load_file\n\nmodel = CrateNetwork({options})\n"
            f"model.load_state_dict(load_file({file!r}))\nmodel.eval()\n"
        )

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' names changed, and the position table interpolated to this grid."""
        weights = renamed(weights)
        if "pos_embed" in weights:
            weights["pos_embed"] = self.fitted(weights["pos_embed"])
        return weights


def crate(
    *,
    image_size: int = 224,
    patch_size: int = 16,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    step: float = 0.1,
    threshold: float = 0.5,
    fused: bool = True,
    tied_output: bool = False,
    pool: Literal["token", "avg"] = "token",
    class_token: bool = True,
) -> Crate:
    """A white-box transformer, CRATE-Base/16 by default (Pai et al. 2024, arXiv 2404.02446).

    Each layer is attention within learned subspaces, then a step towards a sparse code. Sizes of the paper (dim, heads,
    depth): tiny 384, 6, 12; small 576, 12, 12; base 768, 12, 12; large 1024, 16, 24. A layer has a quarter of the
    weights of a ViT's. Positions are fixed (sine-cosine) unless a task decides otherwise.

    Args:
        image_size: side of the input in pixels; a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        dim: width of the tokens; a multiple of 4 and of `heads`.
        depth: number of layers.
        heads: subspaces, each of dim / heads dimensions.
        step: length of the sparsifying step (eta), above 0.
        threshold: penalty on the code's entries (lambda), 0 or more; the supervised CRATE's is 0.1.
        fused: two products with the dictionary instead of the formula's three; the same but for rounding.
        tied_output: attention's way back is the transposed way in, as in theory, instead of a map of its own.
        pool: representation: class token, or mean over patches.
        class_token: whether there is one.

    Raises:
        UsageError: the sizes do not fit each other, or a step or threshold out of range.
    """
    check_sizes(image_size, patch_size, dim, depth, heads, pool, class_token)
    if not step > 0.0:
        raise UsageError(f"encoder.step={step} must be above 0; 0.1 is the paper's")
    if not threshold >= 0.0:
        raise UsageError(f"encoder.threshold={threshold} must be 0 or more; 0.5 is the paper's")
    return Crate(
        image_size=image_size,
        patch_size=patch_size,
        dim=dim,
        depth=depth,
        heads=heads,
        eta=step,
        threshold=threshold,
        fused=fused,
        tied_output=tied_output,
        class_token=class_token,
        pool=pool,
    )
