"""Match: which text was written about which picture?

Nobody, "Towers", 2033, arXiv 3301.00002. Two encoders learn a common space from pairs, after CLIP (Radford et al.,
arXiv 2103.00020, 2021); one of a record's texts is drawn for each update, and a record without any is no pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toytowers.records import SIDE, VOCABULARY
from unlabel import Draw, Mark, Picture, Recipe, Ref, Rows, Sample, Stage, Task, Text, UsageError, engine, seeds
from unlabel.nn import losses
from unlabel.show.media import Media

_TEXT = 0x7E87  # stream of the samples' random numbers


class Brighter:
    """Makes a picture brighter or darker."""

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        image = sample["image"] * draw.rng.uniform(0.8, 1.2)
        return {**sample, "image": image.clip(0, 255).astype(np.uint8)}


class Normalised:
    """Passes samples on as they are; says how encoders get them."""

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        return sample

    def preprocessing(self) -> Mapping[str, Any]:
        return {"text": {"vocabulary": f"assets/dataset/{VOCABULARY}", "padding": 0, "first": 1}}


def pixels(image: Tensor) -> Tensor:
    """uint8, (N, 8, 8, 3), to normalised float32, (N, 3, 8, 8)."""
    return (image.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def drawn(tokens: Tensor, key: Tensor) -> Tensor:
    """One text of each sample at random, or padding where it has none: (N, T, L) to (N, L)."""
    count = (tokens[:, :, 0] > 0).sum(1)
    which = (seeds.uniform(key, (), _TEXT) * count).long()
    return tokens.take_along_dim(which[:, None, None], dim=1)[:, 0]


class Match(Task):
    """Contrast of pictures and texts.

    Args:
        image: encoder of pictures.
        text: encoder of texts, as wide.
        temperature: divides the cosines.
    """

    outputs = ("image", "text")
    evaluations = ("retrieval", "linear_probe")

    def __init__(self, image: nn.Module, text: nn.Module, *, temperature: float = 0.1):
        super().__init__()
        if image.dim != text.dim:
            raise UsageError(
                f"the image encoder gives {image.dim} numbers and the text encoder {text.dim}: expected as many, e.g. "
                f"--set encoders.text.dim={image.dim}"
            )
        self.image, self.text, self.temperature = image, text, temperature

    def transform(self) -> Brighter:
        return Brighter()

    def eval_transform(self) -> Normalised:
        return Normalised()

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        tokens = drawn(batch["tokens"], batch["key"])
        image, text = self.image(pixels(batch["image"])), self.texts(tokens)  # (N, D) each

        loss = losses.symmetric_info_nce(
            image,
            text,
            image,
            text,
            self.temperature,
            scale=0.5,
            gather=engine.gather,
            rank=engine.rank(),
            index=batch["index"],
            paired=tokens[:, 0] > 0,
        )
        return {"loss": loss}

    def texts(self, tokens: Tensor) -> Tensor:
        """Features of texts: int64, (M, L), to (M, D)."""
        features: Tensor = self.text(tokens=tokens, mask=(tokens > 0).long())
        return features

    def encode(self, batch: dict[str, Tensor], of: str = "image") -> Tensor | Rows:
        if of == "image":
            features: Tensor = self.image(pixels(batch["image"]))
            return features
        sample, place = (batch["tokens"][:, :, 0] > 0).nonzero(as_tuple=True)
        return Rows(self.texts(batch["tokens"][sample, place]), sample)

    def show(self, batch: dict[str, Any]) -> Mapping[str, Media]:
        """The first picture with a text, whose words are marked by how near each alone is to the picture."""
        at = next(at for at, texts in enumerate(batch["texts"]) if texts)
        words = batch["texts"][at][0].split()
        alone = self.texts(batch["tokens"][at, 0, : len(words), None])  # (L, D)
        near = torch.cosine_similarity(alone, self.image(pixels(batch["image"][at : at + 1]))).clamp(0.01, 1)
        marks = [Mark(word, strength=strength) for word, strength in zip(words, near.tolist(), strict=True)]
        line = [part for mark in marks for part in (mark, " ")]
        return {"picture": Picture(batch["image"][at].cpu().numpy(), f"{SIDE} pixels wide"), "text": Text([line])}


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train towers/match --recipe tiny``"""
    return Recipe(
        task=Ref("towers/match"),
        encoders={"image": Ref("towers/image"), "text": Ref("towers/text")},
        dataset=Ref("towers/records"),
        stages=[Stage(steps=60, batch_size=16, lr=1e-2)],
    )
