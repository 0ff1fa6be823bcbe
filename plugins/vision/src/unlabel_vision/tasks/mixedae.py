"""MixedAE: mix the patches of several images into one, and take it apart again.

Chen, Liu, Hong, Xu, Li, Yeung, "Mixed Autoencoder for Self-supervised Visual Representation Learning", 2023, arXiv
2303.17152. Predicts each image's normalised pixels where another image's patches stand in the mixture, from its own
patches among the strangers; every patch attends only to those most like it, and has to resemble those of its own image.
The authors released no code, and the text leaves choices open. Taken here: the class token is a candidate key like any
other; the contrast is of the encoder's last features without a projector; pixels are normalised patch by patch; which
of its images comes first in a group means nothing, so segment embeddings are given in the order of the batch.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import Recipe, Ref, Stage, seeds
from unlabel.errors import UsageError
from unlabel.nn import patches, transformer
from unlabel.task import Batch
from unlabel_vision import attention_pictures, masked_autoencoder, views
from unlabel_vision.encoders.patch_encoder import Attend, PatchEncoder, merged, project, require_tokens
from unlabel_vision.image_task import PatchTask

__all__ = [
    "MixedAE",
    "contrast",
    "contrast_floor",
    "homologous_share",
    "mix",
    "paper",
    "quick",
    "sources",
    "tiny",
    "top_k",
    "unmix",
]


def sources(noise: Tensor, group: int) -> Tensor:
    """Which image of its group each patch of a mixture comes from: each of them L / group times, at random.

    Args:
        noise: float, (G, L): one row a group; L a multiple of `group`.
        group: images mixed into one.

    Returns:
        int64, (G, L), in [0, group).
    """
    return noise.argsort(dim=1).argsort(dim=1) * group // noise.shape[1]


def mix(tokens: Tensor, chosen: Tensor) -> Tensor:
    """Mix the patches of each group in place: position l holds patch l of the image chosen there.

    Args:
        tokens: (N, L, D): the images of a group are neighbours.
        chosen: int64, (G, L), of `sources`; N is a multiple of G.

    Returns:
        (G, L, D).
    """
    count, length, dim = tokens.shape
    groups = len(chosen)
    first = torch.arange(groups, device=chosen.device)[:, None] * (count // groups)
    row = (first + chosen) * length + torch.arange(length, device=chosen.device)
    return tokens.reshape(-1, dim).index_select(0, row.flatten()).view(groups, length, dim)


def owned(chosen: Tensor, group: int) -> Tensor:
    """Which positions of its group's mixture belong to each image: bool, (G * group, L)."""
    image = torch.arange(group, device=chosen.device)[:, None]
    return (chosen[:, None] == image).flatten(0, 1)


def unmix(tokens: Tensor, own: Tensor, mask_token: Tensor) -> Tensor:
    """A sequence for each image: the mixture's tokens where they are its own, mask tokens elsewhere.

    Args:
        tokens: (G, L, D).
        own: bool, (N, L), of `owned`.
        mask_token: (1, 1, D).

    Returns:
        (N, L, D).
    """
    groups, length, dim = tokens.shape
    mine = own.view(groups, -1, length, 1)
    return torch.where(mine, tokens[:, None], mask_token.to(tokens.dtype)).view(-1, length, dim)


@torch.no_grad()
def top_k(query: Tensor, key: Tensor, count: int) -> Tensor:
    """Which keys each query attends to: those of its `count` largest scores, no more where scores are equal.

    Args:
        query: (..., T, width). key: (..., S, width).
        count: at most S.

    Returns:
        bool, (..., T, S).
    """
    scores = query @ key.transpose(-2, -1)
    best = scores.topk(count, dim=-1, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)


@torch.no_grad()
def homologous_share(attended: Tensor, same: Tensor) -> Tensor:
    """Share of the patches attended to, other than a patch itself, that are of its own image.

    Args:
        attended: bool, (G, heads, 1 + L, 1 + L), of `top_k`; the class token, which is first, does not count.
        same: bool, (G, L, L): pairs of patches of the same image.

    Returns:
        Scalar; (K - 1) / (L - 1) by chance, where each image has K patches.
    """
    others = attended[:, :, 1:, 1:] & ~torch.eye(same.shape[1], dtype=torch.bool, device=same.device)
    return (others & same[:, None]).sum() / others.sum()


def homologous(count: int, same: Tensor, shares: list[Tensor]) -> Attend:
    """Attention to the `count` most similar tokens; gradients pass the kept scores only.

    Args:
        count: keys of each query.
        same: see `homologous_share`, which is appended to `shares`.
        shares: grows by one for each block.
    """

    def attend(attention: nn.Module, tokens: Tensor) -> Tensor:
        query, key, value = project(attention, tokens)
        attended = top_k(query, key, count)  # k = r L of all tokens, by q_i k_j: (G, heads, 1 + L, 1 + L)
        shares.append(homologous_share(attended, same))
        return merged(attention, transformer.attend(query, key, value, attended))

    return attend


def oracle(same: Tensor) -> Attend:
    """Attention of each patch to those of its own image alone; the class token sees all and is seen by none."""
    visible = functional.pad(same, (1, 0, 1, 0))
    visible[:, 0] = True

    def attend(attention: nn.Module, tokens: Tensor) -> Tensor:
        query, key, value = project(attention, tokens)
        return merged(attention, transformer.attend(query, key, value, visible[:, None]))

    return attend


def contrast(tokens: Tensor, chosen: Tensor, temperature: float, index: Tensor | None = None) -> Tensor:
    """Supervised contrast within each mixture: a patch's positives are the other patches of its image.

    Khosla et al., arXiv 2004.11362, eq. 2, with the source as the class and negatives of the same mixture only.

    Args:
        tokens: float, (G, L, D); normalised here.
        chosen: int64, (G, L), of `sources`.
        temperature: divides the cosines.
        index: int64, (G, group): the sample of each image. Patches of an image that is in the group twice are no
            negatives of each other, where None takes all images for different ones.

    Returns:
        float32 at least, (G,): mean over the patches. log(L - 1) if all tokens are equal; `contrast_floor` if images
        are orthogonal clusters, and somewhat less if they point away from each other.
    """
    unit = functional.normalize(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), dim=-1)
    with torch.autocast(tokens.device.type, enabled=False):
        logits = unit @ unit.transpose(1, 2) / temperature  # (G, L, L)
    itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    own = chosen[:, :, None] == chosen[:, None]  # pairs of patches of one image
    left_out = itself
    if index is not None:
        sample = index.gather(1, chosen)  # (G, L)
        left_out = itself | ((sample[:, :, None] == sample[:, None]) & ~own)
    log_p = logits - logits.masked_fill(left_out, -torch.inf).logsumexp(-1, keepdim=True)
    positive = own & ~itself
    return -((log_p * positive).sum(-1) / positive.sum(-1)).mean(-1)  # eq. 2: the sum over positives outside of the log


def contrast_floor(length: int, group: int, temperature: float) -> float:
    """What `contrast` comes down to: the tokens of an image all equal, those of different images orthogonal."""
    own = length // group
    return math.log((own - 1) + (length - own) * math.exp(-1 / temperature))


class MixedAE(PatchTask):
    """Mixed autoencoder.

    The batch must be a multiple of `group`; neighbours in it, which are at random, form a group.

    Args:
        encoder: a ViT with a class token; its number of patches must be a multiple of `group`.
        group: images mixed into one, 2 or more: the inverse of the paper's mixing ratio (0.25).
        compose: make one mixture of each group, so that the encoder sees as many patches as MAE's at a mask ratio of
            1 - 1/group; otherwise as many mixtures as images, in which every patch of every image is seen once.
        attention: of all blocks but the first: each patch to the L / group tokens most like it ("homologous"), to all
            ("full"), or, in all blocks, to those that really are of its image ("oracle", for comparison).
        segments: add a learned vector for each image of a group to all of its patches.
        contrast_weight: of the contrast between the mixed images' patches; 0 leaves it out.
        temperature: of the contrast.
        norm_pix: predict pixels normalised patch by patch instead of raw ones.
        decoder_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        crop_scale: area of the random crop, as a share of the image.
        position_order: half of the position table that comes first.

    Raises:
        UsageError: an encoder without a class token, or a grid that cannot be shared by `group` images.
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        *,
        group: int = 4,
        compose: bool = True,
        attention: Literal["homologous", "full", "oracle"] = "homologous",
        segments: bool = True,
        contrast_weight: float = 0.1,
        temperature: float = 0.25,
        norm_pix: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        position_order: Literal["xy", "yx"] = "xy",
    ):
        super().__init__(require_tokens(encoder, "vision/mixedae"), crop_scale)
        if group < 2 or self.length % group or self.length == group:
            fits = [n for n in range(2, self.length) if self.length % n == 0]
            raise UsageError(
                f"{group} images cannot share {self.length} patches equally, two or more each: use group={fits}"
            )
        self.group, self.compose, self.attention = group, compose, attention
        self.contrast_weight, self.temperature, self.norm_pix = contrast_weight, temperature, norm_pix
        self.encoder.fix_positions(position_order)
        self.decoder = masked_autoencoder.decoder(
            encoder, dim=decoder_dim, depth=decoder_depth, heads=decoder_heads, order=position_order
        )
        masked_autoencoder.initialise(self.encoder, self.decoder)
        self.segments = nn.Parameter(nn.init.normal_(torch.empty(group, encoder.dim), std=0.02)) if segments else None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss_reconstruction", "loss_contrast", ...}``: error where strangers stand, and the weighted contrast.

        Besides ``contrast_excess``, how far the contrast is above its floor, and ``homologous``, the share of
        attended patches that are of the same image, in the last block and by block; chance is (K - 1) / (L - 1).
        """
        images, key = views.to_float(batch["image"]), batch["key"]
        if len(images) % self.group:
            near = max(1, round(len(images) / self.group)) * self.group
            raise UsageError(
                f"{len(images)} images do not form groups of {self.group}: each process's micro-batch must be a "
                f"multiple of it; use --batch-size {near}, times processes and micro-batches"
            )
        chosen = sources(seeds.uniform(key[:: self.group], (self.length,)), self.group)
        return self.loss_of(images, chosen, batch["index"])

    def loss_of(self, images: Tensor, chosen: Tensor, index: Tensor | None = None) -> dict[str, Tensor]:
        """The losses for given mixtures.

        Args:
            images: float, (N, 3, S, S), normalised; the images of a group are neighbours.
            chosen: int64, (N / group, L): the image that each patch of a mixture comes from, of `sources`.
            index: int64, (N,): the sample of each image, see `contrast`.
        """
        groups = None if index is None else index.view(-1, self.group)
        if not self.compose:  # every image once more for each of the other assignments of its group
            chosen = torch.cat([(chosen + shift) % self.group for shift in range(self.group)])
            images = images.repeat(self.group, 1, 1, 1)
            groups = None if groups is None else groups.repeat(self.group, 1)
        encoded, shares = self.encode_mixed(images, chosen)
        own = owned(chosen, self.group)
        prediction = self.decode_unmixed(encoded, own)

        hidden = (~own).float()  # 1 where M_l is another image: what is reconstructed
        patch_size = self.encoder.patch_size
        terms = {
            "loss_reconstruction": masked_autoencoder.pixel_loss(images, prediction, hidden, patch_size, self.norm_pix)
        }
        if self.contrast_weight:
            value = contrast(encoded[:, 1:], chosen, self.temperature, groups).mean()
            # L = L_rec + lambda L_hc; lambda 0.1 and tau 0.25 as remembered: there is no code to check them against
            terms["loss_contrast"] = self.contrast_weight * value
            terms["contrast_excess"] = value.detach() - contrast_floor(self.length, self.group, self.temperature)
        if shares:
            terms["homologous"] = shares[-1]
            terms |= {f"homologous_{number}": share for number, share in enumerate(shares, start=1)}
        return terms

    def encode_mixed(self, images: Tensor, chosen: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mix and encode: (N, 3, S, S) -> (G, 1 + L, dim), and the share of homologous keys of blocks 1, 2, ..."""
        tokens = mix(self.encoder.embed(images), chosen) + self.encoder.positions
        if self.segments is not None:
            tokens = tokens + self.segments[chosen]

        shares: list[Tensor] = []
        same = chosen[:, :, None] == chosen[:, None]
        rest = self.layers - 1
        attend: list[Attend | None] | None = None
        if self.attention == "homologous":
            attend = [None] + [homologous(self.length // self.group, same, shares)] * rest  # block 0 is too raw
        elif self.attention == "oracle":
            attend = [oracle(same)] * self.layers
        return self.encoder.run(self.encoder.with_class(tokens), attend), shares

    def decode_unmixed(self, encoded: Tensor, own: Tensor) -> Tensor:
        """Take mixtures apart and decode each image by itself: (G, 1 + L, dim) -> (N, L, 3 p^2)."""
        tokens = self.decoder.embed(encoded)
        separate = unmix(tokens[:, 1:], own, self.decoder.mask_token)
        first = tokens[:, :1].repeat_interleave(self.group, dim=0)  # the mixture's class token, for each of its images
        prediction: Tensor = self.decoder.decode(torch.cat([first, separate], dim=1))
        return prediction

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """About eight images, whole groups: input, its mixture, its own patches, reconstruction; attention; tokens."""
        count = min(len(batch["image"]), max(8, self.group)) // self.group * self.group
        if not count:
            return {}
        images, key = views.to_float(batch["image"][:count]), batch["key"][:count]
        chosen = sources(seeds.uniform(key[:: self.group], (self.length,)), self.group)
        encoded, _ = self.encode_mixed(images, chosen)
        own = owned(chosen, self.group)
        prediction = self.decode_unmixed(encoded, own)

        size = self.encoder.patch_size
        mixed = patches.unpatchify(mix(patches.patchify(images, size), chosen), size, images.shape[-2:])
        shown = mixed.repeat_interleave(self.group, dim=0)
        found = masked_autoencoder.pictures(images, prediction, (~own).float(), size, self.norm_pix, shown)
        return {**found, **attention_pictures.pictures(self.encoder, images)}


def paper() -> Recipe:
    """ViT-B/16, 1600 epochs: the authors report 83.9 % fine-tuned on ImageNet-1K, 49.8 mIoU on ADE20K.

    300 epochs: 83.1 %, 800: 83.5 %; MAE 82.7 / 83.3 / 83.6 %. About 90 GPU-days (MAE the same but for 3 %). The batch
    counts clean images. Schedule and optimizer are MAE's. Not run by us.
    ``unlabel train vision/mixedae --recipe paper --data IMAGENET``
    """
    return Recipe(
        task=Ref("vision/mixedae"),
        encoder=Ref("vision/vit"),
        dataset=Ref("vision/folder"),
        stages=[masked_autoencoder.stage(epochs=1600)],
    )


def quick() -> Recipe:
    """A small ViT on 32-pixel images (8 x 8 patches), minutes on two CPU cores.

    ``unlabel train vision/mixedae --recipe quick``
    """
    return Recipe(
        task=Ref("vision/mixedae", decoder_dim=64, decoder_depth=1, decoder_heads=2),
        encoder=Ref("vision/vit", image_size=32, patch_size=4, dim=128, depth=4, heads=4),
        dataset=Ref("vision/photos", crop=32),
        stages=[Stage(epochs=14, batch_size=128, lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=1)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/mixedae --recipe tiny``"""
    return Recipe(
        task=Ref("vision/mixedae", decoder_dim=16, decoder_depth=1, decoder_heads=2),
        encoder=Ref("vision/vit", image_size=32, patch_size=4, dim=32, depth=3, heads=4),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=20, batch_size=32, lr=1e-3, betas=(0.9, 0.95), warmup_steps=2)],
    )
