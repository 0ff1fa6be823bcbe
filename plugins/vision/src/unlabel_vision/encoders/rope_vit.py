"""Vision transformer whose queries and keys are turned by their positions, instead of a table that is added.

Blocks are timm's (Dosovitskiy et al. 2020, arXiv 2010.11929), positions as in CroCo v2 (Weinzaepfel et al. 2022,
arXiv 2211.10408): the first half of each head turns with the row, the second with the column. Without a class token.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from unlabel.errors import UsageError
from unlabel.nn import masking, positions, transformer
from unlabel_vision.encoders.patch_encoder import Attend, Part, PatchEncoder, check_sizes, merged, project
from unlabel_vision.encoders.timm import preprocessing_code

__all__ = ["RotaryViT", "rope_vit", "turned"]

_MODEL = "vit_base_patch16_224"
# timm's class with rotary positions, by a name that stands for no layer scale, which create_model cannot take away
_ELSEWHERE = "eva_giant_patch14_224"


def turned(attention: Part, tokens: Tensor, rotation: positions.Rotary) -> Tensor:
    """Self-attention with turned queries and keys, for `PatchEncoder.run`: (N, T, dim) -> (N, T, dim)."""
    query, key, value = project(attention, tokens)
    query, key = positions.rotate(query, rotation), positions.rotate(key, rotation)
    return merged(attention, transformer.attend(query, key, value))


class RotaryViT(PatchEncoder):
    """A timm vision transformer without position table and class token, with rotary positions.

    Args:
        model: timm's VisionTransformer with ``pos_embed="none"``.
        base: of the frequencies, see `unlabel.nn.positions.rotary`.
        options: keywords by which timm makes a model of these sizes.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, model: VisionTransformer, base: float, options: dict[str, Any]):
        blocks: Part = model.blocks
        super().__init__(model, model.embed_dim, blocks[0].attn.num_heads, "avg")
        self.base, self.options = base, options
        table = positions.rotary(self.dim // self.heads, positions.places((self.grid, self.grid)), base)
        self.register_buffer("cos", table.cos, persistent=False)
        self.register_buffer("sin", table.sin, persistent=False)

    def rotation(self, keep: Tensor | None = None) -> positions.Rotary:
        """Angles of all patches, (L, width), or of those kept, (N, 1, K, width)."""
        if keep is None:
            return positions.Rotary(self.cos, self.sin, 2)
        return positions.Rotary(self.cos[keep][:, None], self.sin[keep][:, None], 2)

    def tokens(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens after the final norm, as `PatchEncoder.tokens`; nothing is added, each patch turns by its place."""
        patches = self.embed(images)
        if keep is None:
            return self.run(patches)
        attend = functools.partial(turned, rotation=self.rotation(keep))
        return self.run(masking.take(patches, keep), [attend] * self.layers)

    def step(self, block: Part, tokens: Tensor, attend: Attend | None = None) -> Tensor:
        """One of timm's blocks on all patches in their order, or with an attention that knows which ones there are."""
        if attend is None:
            if tokens.shape[1] != self.grid**2:
                raise UsageError(
                    f"vision/rope_vit was given {tokens.shape[1]} tokens and not all {self.grid**2} patches, so it "
                    "cannot know where they are; this task works with a position table: use --encoder vision/vit"
                )
            attend = functools.partial(turned, rotation=self.rotation())
        tokens = tokens + block.drop_path1(block.ls1(attend(block.attn, block.norm1(tokens))))
        result: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        return result

    @property
    def positions(self) -> Tensor:
        """There is no table.

        Raises:
            UsageError: always; says which encoder has one.
        """
        raise UsageError("this task changes the position table, and vision/rope_vit has none: use --encoder vision/vit")

    def fix_positions(self, order: Literal["xy", "yx"] = "xy") -> None:
        """Nothing to do: angles are fixed."""

    def blind_to_positions(self) -> None:
        """Not possible.

        Raises:
            UsageError: always; says which encoder can.
        """
        raise UsageError(
            "this task hides where patches are, and vision/rope_vit always knows: use --encoder vision/vit "
            "--set encoder.class_token=false --set encoder.pool=avg"
        )

    def loading_code(self, file: str) -> str:
        """timm pairs neighbouring numbers of a head where these weights pair the halves: rows change places."""
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return (
            "import timm\nimport torch\nfrom safetensors.torch import load_file\n\n"
            f"model = timm.create_model({_ELSEWHERE!r}{options})\n"
            f"weights = load_file({file!r})\n"
            "for name, value in weights.items():\n"
            "    if 'attn.qkv' in name:\n"
            f"        rows = value.reshape(3, {self.heads}, 2, 2, -1, *value.shape[1:])\n"
            "        parts = [rows[:2].transpose(3, 4).flatten(), rows[2].flatten()]\n"
            "        weights[name] = torch.cat(parts).view(value.shape)\n"
            "model.load_state_dict(weights)\nmodel.eval()\n"
        )

    def preprocessing_code(self, file: str) -> str:
        return preprocessing_code(file)

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights: no size depends on the number of patches. A position table or class token is left out."""
        return {name: value for name, value in weights.items() if name not in ("pos_embed", "cls_token")}


def rope_vit(
    *,
    image_size: int = 224,
    patch_size: int = 16,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    base: float = 100.0,
    drop_path: float = 0.0,
) -> RotaryViT:
    """A vision transformer with rotary positions, ViT-B/16 by default; the mean over patches represents an image.

    Args:
        image_size: side of the input in pixels; a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        dim: width of the tokens; a multiple of 4 times `heads`.
        depth: number of blocks.
        heads: attention heads.
        base: of the frequencies; 100 is CroCo v2's.
        drop_path: probability of leaving the last block's branches out for a sample in training, from 0 at the first
            block on (Huang et al., arXiv 1603.09382).

    Raises:
        UsageError: the sizes do not fit each other.
    """
    check_sizes(image_size, patch_size, dim, depth, heads, "avg", class_token=False)
    if dim % (4 * heads):
        raise UsageError(
            f"encoder.dim={dim} must be a multiple of 4 x heads={heads}: heads turn in two halves, in pairs"
        )
    if not 0.0 <= drop_path < 1.0:
        raise UsageError(f"encoder.drop_path={drop_path} is outside [0, 1); 0.1 is usual")
    sizes: dict[str, Any] = {"img_size": image_size, "patch_size": patch_size, "embed_dim": dim, "depth": depth}
    sizes |= {"num_heads": heads, "num_classes": 0, "class_token": False, "global_pool": "avg"}
    drop: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    model: Part = timm.create_model(_MODEL, **sizes, **drop, pos_embed="none", fc_norm=False)
    elsewhere = {"mlp_ratio": 4.0, "use_fc_norm": False, "attn_type": "rope", "use_abs_pos_emb": False}
    elsewhere |= {"use_rot_pos_emb": True, "rope_temperature": float(base)}
    return RotaryViT(model, base, {**sizes, **drop, **elsewhere})
