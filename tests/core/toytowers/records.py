"""Made-up records: a picture of four coloured quarters each, and up to three texts that say some of them.

A text is written in words for a colour at a place, among words that mean nothing; texts differ in length, and one
record in twelve has none. Records of one identity were made in one place: two of their quarters are alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from unlabel import Dataset, Picture, seeds
from unlabel.data import Buckets, Groups, Subset, collate, holdout
from unlabel.data.order import Order
from unlabel.storage import cache

SIDE = 8
PLACES = ("north", "east", "south", "west")
COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200), "grey": (130, 130, 130)}
FILLERS = ("a", "the", "and", "with", "some", "of", "it")
EACH = 3
"""Records of an identity."""

VOCABULARY = "vocabulary.json"
"""Name of the asset: the words, a token each from 1 on; 0 is padding, and the last token stands for unknown words."""


class Records(Dataset):
    """Pictures with texts.

    Args:
        count: how many records.
        seed: of what they show and say.
        order: of training: ``groups``, batches of `identities` with `each` records of each; ``buckets``, texts of
            similar length together; ``shuffled``, neither, and records without text among them.
        identities: in a batch of groups.
        each: records of an identity in a batch of groups, at most 3.
    """

    def __init__(
        self,
        *,
        count: int = 192,
        seed: int = 0,
        order: Literal["groups", "buckets", "shuffled"] = "groups",
        identities: int = 8,
        each: int = 2,
    ):
        self.count, self.seed, self.kind, self.identities, self.each = count, seed, order, identities, each
        self.vocabulary: dict[str, int] = {}
        self.file: Path | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        colours = self._colours(index)
        noise = seeds.generator(self.seed, index, 1).normal(0, 25, (SIDE, SIDE, 3))
        quarters = np.array(list(COLOURS.values()))[colours].reshape(2, 2, 3)
        picture = np.kron(quarters, np.ones((SIDE // 2, SIDE // 2, 1))) + noise
        return {"image": picture.clip(0, 255).astype(np.uint8), "texts": self.texts(index)}

    def _colours(self, index: int) -> np.ndarray:
        """The colour of each quarter: int64, (4,)."""
        own = seeds.generator(self.seed, index).integers(0, 4, 4)
        own[:2] = seeds.generator(self.seed, index // EACH, 2).integers(0, 4, 2)  # those of its identity
        return own

    def texts(self, index: int) -> list[str]:
        """What is said of a record, without looking at its picture."""
        draw, colours, names = seeds.generator(self.seed, index, 3), self._colours(index), list(COLOURS)
        texts = []
        for _ in range(0 if index % 12 == 5 else int(draw.integers(1, 4))):
            said = draw.permutation(4)[: draw.integers(3, 5)]
            words = [f"{names[colours[place]]}{PLACES[place]}" for place in said]
            words += list(draw.choice(FILLERS, draw.integers(0, 5)))
            texts.append(" ".join(draw.permutation(words)))
        return texts

    def name_of(self, index: int) -> str:
        return f"record {index}"

    def split(self, name: str) -> Dataset | None:
        train, test = holdout(None, self.count, 0.25)
        return Subset(self, train, self._order(train)) if name == "train" else Subset(self, test)

    def _order(self, indices: np.ndarray) -> Order | None:
        """Of the records at `indices`: records without text never come where they have a place in a batch."""
        if self.kind == "shuffled":
            return None
        lengths = np.array([max((len(text.split()) for text in self.texts(i)), default=0) for i in indices.tolist()])
        if self.kind == "groups":
            return Groups(np.where(lengths > 0, indices // EACH, -1), self.identities, self.each, repeat=True)
        return _Among(np.flatnonzero(lengths), Buckets(lengths[lengths > 0]))

    def show(self, sample: dict[str, Any]) -> Picture:
        return Picture(sample["image"], "; ".join(sample["texts"]))

    # words and tokens

    def prepare(self) -> None:
        """Build the vocabulary of the texts that are trained on, unless it was given."""
        if self.vocabulary:
            return
        entry = cache.entry("toytowers", cache.key("1", str(self.count), str(self.seed)), ".json")
        self._use(cache.file(entry, read=_words, write=self._write))

    def _write(self, path: Path) -> None:
        train = self.split("train")
        assert isinstance(train, Subset)
        words = {word for index in train.indices.tolist() for text in self.texts(index) for word in text.split()}
        path.write_text(json.dumps(sorted(words)))

    def _use(self, file: Path) -> None:
        self.file = file
        self.vocabulary = {word: number for number, word in enumerate(_words(file), 1)}

    def assets(self) -> Mapping[str, Path]:
        return {} if self.file is None else {VOCABULARY: self.file}

    def use_assets(self, assets: Mapping[str, Path]) -> None:
        self._use(assets[VOCABULARY])

    def implies(self) -> dict[str, Any]:
        return {"tokens": len(self.vocabulary) + 2}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """``image``, uint8, (N, 8, 8, 3); ``texts``; ``tokens``, int64, (N, T, L): of up to T texts, padded with 0.

        A record with fewer texts has rows of padding alone, one without has nothing else.
        """
        assert self.vocabulary, "prepare() comes first"
        unknown = len(self.vocabulary) + 1
        texts = [[[self.vocabulary.get(w, unknown) for w in text.split()] for text in s["texts"]] for s in samples]
        most = max(1, *(len(own) for own in texts))
        longest = max((len(text) for own in texts for text in own), default=1)
        tokens = torch.zeros(len(samples), most, longest, dtype=torch.int64)
        for own, rows in zip(texts, tokens, strict=True):
            for text, row in zip(own, rows, strict=False):
                row[: len(text)] = torch.tensor(text)
        images = collate([{"image": sample["image"]} for sample in samples])
        return {**images, "texts": [sample["texts"] for sample in samples], "tokens": tokens}


class Labelled(Records):
    """The same records with labels: the colour of the northern quarter.

    Args:
        count: how many records.
        seed: of what they show and say.
        order: of training, see `Records`.
        identities: in a batch of groups.
        each: records of an identity in a batch of groups, at most 3.
    """

    classes = tuple(COLOURS)

    def __init__(
        self,
        *,
        count: int = 192,
        seed: int = 0,
        order: Literal["groups", "buckets", "shuffled"] = "groups",
        identities: int = 8,
        each: int = 2,
    ):
        super().__init__(count=count, seed=seed, order=order, identities=identities, each=each)
        self.labels = np.array([self._colours(index)[0] for index in range(count)], dtype=np.int64)


def _words(file: Path) -> list[str]:
    words: list[str] = json.loads(file.read_text())
    return words


class _Among:
    """An order of some samples only."""

    def __init__(self, indices: np.ndarray, order: Order):
        self.indices, self.order = indices, order

    def __call__(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        epochs, places = self.order(number, size, seed)
        return epochs, self.indices[places]
