"""What tasks on images share: fine-tuning sees random crops, evaluation the whole image."""

from __future__ import annotations

from collections import defaultdict
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from unlabel.data import Dataset, Draw
from unlabel.engine import Engine
from unlabel.evaluate.features import Frozen
from unlabel.evaluate.finetune import finetune
from unlabel.task import Batch, Sample
from unlabel_vision import views
from unlabel_vision.image_task import ImageTask

SIZE = 16


class Images(Dataset):
    """Noise of two brightnesses, larger than the encoder sees, half of it held out."""

    labels = np.arange(32) % 2
    classes = ("dark", "light")

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.images = rng.integers(0, 128, (32, 24, 24, 3), dtype=np.uint8)
        self.images[1::2] += 128

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.images[index]}

    def split(self, name: str) -> Dataset | None:
        return {"train": self, "test": Images(1)}.get(name)


class Watching(ImageTask):
    """Mean colours through a linear layer, and what was seen of each image while its weights learn."""

    seen: ClassVar[defaultdict[int, list[Tensor]]] = defaultdict(list)

    def __init__(self) -> None:
        encoder = nn.Linear(3, 4)
        encoder.image_size, encoder.dim = SIZE, 4
        super().__init__(encoder)

    def encode(self, batch: Batch) -> Tensor:
        if self.training:
            for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
                self.seen[index].append(image)
        return self.encoder(views.to_float(batch["image"]).mean((2, 3)))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.encode(batch).square().mean()}


def test_fine_tuning_sees_another_crop_in_each_epoch_and_again_the_same_ones_in_another_run() -> None:
    def seen() -> dict[int, list[Tensor]]:
        Watching.seen.clear()
        torch.manual_seed(0)
        finetune(Frozen(Watching(), Images(), Engine("cpu", "fp32")), epochs=3, batch_size=16, warmup_epochs=0)
        return dict(Watching.seen)

    first, again = seen(), seen()

    assert len(first) == 32
    for index, crops in first.items():
        assert [tuple(crop.shape) for crop in crops] == [(SIZE, SIZE, 3)] * 3
        assert not torch.equal(crops[0], crops[1])
        assert not torch.equal(crops[1], crops[2])
        assert all(torch.equal(one, other) for one, other in zip(crops, again[index], strict=True))


def test_evaluation_sees_no_random_crop() -> None:
    task, rng = Watching(), np.random.default_rng(0)
    image = Images()[3]
    crops = [task.eval_transform()(image, Draw(rng))["image"] for _ in range(2)]
    assert np.array_equal(*crops)
    assert crops[0].shape == (SIZE, SIZE, 3)
