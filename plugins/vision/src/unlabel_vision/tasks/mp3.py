"""MP3: give a transformer the patches as a set, and let every patch tell where it was.

Zhai, Jaitly, Ramapuram, Busbridge, Likhomanenko, Cheng, Talbott, Huang, Goh, Susskind, "Position Prediction as an
Effective Pretraining Strategy", 2022, arXiv 2207.07611. Predicts each patch's index among all from its content and a
random share of the patches, the context: only those are keys and values, in every layer, while all are queries.
No code of the authors is public. Here the patches are sorted so that the context comes first, and keys and values are
computed for it alone: the same numbers as masking the rest, at less cost. A position table learnt in fine-tuning starts
at zero, so that the features are those of pretraining when it begins.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from unlabel import Recipe, Ref, Stage, seeds
from unlabel.errors import UsageError
from unlabel.nn import losses, masking, positions, transformer
from unlabel.show import drawing
from unlabel.task import Batch
from unlabel_vision import attention_pictures, views
from unlabel_vision.encoders.patch_encoder import Attend, PatchEncoder, merged, project, require_tokens
from unlabel_vision.image_task import PatchTask
from unlabel_vision.position_prediction import rearranged

__all__ = ["MP3", "biased", "looking_at", "paper", "quick", "relative_places", "tiny"]


def looking_at(context: int) -> Attend:
    """Attention in which all tokens look at the first `context` ones, and at no other, not even at themselves."""

    def attend(attention: nn.Module, tokens: Tensor) -> Tensor:
        query, key, value = project(attention, tokens, keys=context)  # q of all n, k and v of C alone
        return merged(attention, transformer.attend(query, key, value))

    return attend


def biased(bias: Tensor) -> Attend:
    """Attention whose scores get a bias, (heads, L, L): relative positions."""

    def attend(attention: nn.Module, tokens: Tensor) -> Tensor:
        query, key, value = project(attention, tokens)
        mask = bias.to(query.dtype)[None]
        return merged(attention, transformer.attend(query, key, value, mask))

    return attend


def relative_places(grid: int) -> Tensor:
    """Displacements from each patch of a square grid to each other, as numbers below (2 grid - 1)^2: int64, (L, L)."""
    row, column = torch.arange(grid**2).div(grid, rounding_mode="floor"), torch.arange(grid**2) % grid
    down = row[None] - row[:, None] + grid - 1
    right = column[None] - column[:, None] + grid - 1
    return down * (2 * grid - 1) + right


class MP3(PatchTask):
    """Masked position prediction.

    Args:
        encoder: a ViT without a class token.
        mask_ratio: share of the patches that are not context, in [0, 1); 0 is ordinary attention.
        only_masked: let only the patches that are not context enter the loss.
        sigma: width in patches within which a near miss counts; 0 counts the true position alone.
        finetune_positions: what fine-tuning learns about positions: a table ("absolute"), a bias of the attention
            for each displacement ("relative"), or nothing ("none"). All start at zero: until then features know none.
        crop_scale: area of the random crop, as a share of the image.

    Raises:
        UsageError: an encoder with a class token, or a ratio that leaves no context.
    """

    places: Tensor

    def __init__(
        self,
        encoder: PatchEncoder,
        *,
        mask_ratio: float = 0.75,
        only_masked: bool = False,
        sigma: float = 0.0,
        finetune_positions: Literal["absolute", "relative", "none"] = "absolute",
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        super().__init__(require_tokens(encoder, "vision/mp3", class_token=False), crop_scale)
        if not 0.0 <= mask_ratio < 1.0:
            raise UsageError(f"mask_ratio {mask_ratio} is outside [0, 1), so no patch is context; 0.75 is usual")
        self.context = self.length - int(mask_ratio * self.length)  # |C| = n - int(eta n)
        if only_masked and self.context == self.length:
            raise UsageError(f"only_masked=true, but mask_ratio {mask_ratio} makes all {self.length} patches context")
        self.only_masked, self.finetune_positions = only_masked, finetune_positions
        self.encoder.blind_to_positions()
        self.head = nn.Linear(encoder.dim, self.length)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        labels = positions.neighbourhood((encoder.grid, encoder.grid), sigma) if sigma else None
        self.labels: Tensor | None
        self.register_buffer("labels", labels, persistent=False)
        if finetune_positions == "relative":
            heads = encoder.heads
            table = torch.zeros(self.layers, heads, (2 * encoder.grid - 1) ** 2)
            self.relative = nn.Parameter(table, requires_grad=False)
            self.register_buffer("places", relative_places(encoder.grid), persistent=False)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss", "accuracy", ...}``: cross-entropy over the positions, mean over all patches; ln L by chance.

        Accuracy also of the context and of the masked patches by themselves: the latter see neither themselves
        nor each other.
        """
        noise = seeds.uniform(batch["key"], (self.length,))
        return self.loss_of(views.to_float(batch["image"]), noise)

    def loss_of(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The loss for given noise.

        Args:
            images: float, (N, 3, S, S), normalised.
            noise: float, (N, L); the smallest values are context.
        """
        logits, truth = self.predict(images, noise)

        counted = torch.ones_like(truth, dtype=torch.float32)
        if self.only_masked:
            counted[:, : self.context] = 0.0
        # mean of CE(y_i, i), over all tokens as in figure 1 unless asked
        loss = losses.masked_cross_entropy(logits, truth, counted, self.labels)
        right = (logits.detach().argmax(-1) == truth).float()
        scores = {"accuracy": right.mean(), "accuracy_context": right[:, : self.context].mean()}
        if self.context < self.length:
            scores["accuracy_masked"] = right[:, self.context :].mean()
        return {"loss": loss, **scores}

    def predict(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of every patch, the context first, and their true positions: (N, L, L) and int64, (N, L)."""
        mask = masking.split(noise, self.context)
        tokens = masking.take(self.encoder.embed(images), mask.order)  # no positions: a set
        encoded = self.encoder.run(tokens, [looking_at(self.context)] * self.layers)
        return self.head(encoded), mask.order

    def encode(self, batch: Batch) -> Tensor:
        """Mean over all patches of the whole image, full attention: (N, dim); knows positions once fine-tuned."""
        tokens = self.encoder.embed(views.to_float(batch["image"]))
        if self.finetune_positions == "absolute":
            tokens = tokens + self.encoder.positions
        attend = None
        if self.finetune_positions == "relative":
            attend = [biased(table[:, self.places]) for table in self.relative]
        return self.encoder.run(tokens, attend).mean(1)

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight images: whole; context, the rest pale; every patch where it believes it belongs.

        Besides, where the last block looks, and tokens by their colours; see `attention_pictures`.
        """
        images = views.to_float(batch["image"][:8])
        noise = seeds.uniform(batch["key"][:8], (self.length,))
        logits, truth = self.predict(images, noise)

        size, pale = self.encoder.patch_size, torch.full_like(noise, 0.4)
        pale[:, : self.context] = 1.0
        context = rearranged(images, truth, truth, size, pale)
        placed = rearranged(images, truth, logits.argmax(-1), size)
        triples = torch.stack([images, context, placed], dim=1).flatten(0, 1)
        shown = drawing.contact_sheet(views.to_pixels(triples), columns=3)
        return {"positions": shown, **attention_pictures.pictures(self.encoder, images)}


def paper() -> Recipe:
    """ViT-S/4, CIFAR-100, 2000 epochs: the authors report 84.0 % fine-tuned with a position table (82.6 % without any).

    From scratch they report 73.4 % and 64.6 %. On ImageNet they train a ViT-B/16 (``--set encoder.image_size=224`` and
    so on). Optimizer and crops are DeiT's, as the paper says no more. Not run by us.
    ``unlabel train vision/mp3 --recipe paper --data CIFAR100``
    """
    return Recipe(
        task=Ref("vision/mp3"),
        encoder=Ref(
            "vision/vit", image_size=32, patch_size=4, dim=384, depth=12, heads=6, class_token=False, pool="avg"
        ),
        dataset=Ref("vision/folder"),
        stages=[
            Stage(
                epochs=2000,
                batch_size=1024,
                lr=5e-4,
                lr_batch_size=512,
                weight_decay=0.05,
                warmup_epochs=20,
                clip_norm=1.0,
            )
        ],
    )


def quick() -> Recipe:
    """A small ViT on handwritten digits (8 x 8 patches), minutes on two CPU cores.

    Digits stand where digits stand; crops of photographs, which the other quick recipes train on, could be from
    anywhere in them, and teach no position in so short a time.
    ``unlabel train vision/mp3 --recipe quick``
    """
    return Recipe(
        task=Ref("vision/mp3"),
        encoder=Ref(
            "vision/vit", image_size=32, patch_size=4, dim=128, depth=4, heads=4, class_token=False, pool="avg"
        ),
        dataset=Ref("vision/digits"),
        stages=[Stage(epochs=30, batch_size=64, lr=1.5e-3, weight_decay=0.05, warmup_epochs=2, clip_norm=1.0)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/mp3 --recipe tiny``"""
    return Recipe(
        task=Ref("vision/mp3"),
        encoder=Ref("vision/vit", image_size=32, patch_size=4, dim=32, depth=3, heads=4, class_token=False, pool="avg"),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=20, batch_size=32, lr=1e-3, warmup_steps=2)],
    )
