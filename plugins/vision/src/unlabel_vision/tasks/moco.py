"""MoCo: recognise an image's other view, encoded by a slowly moving copy of the network, among many others.

Version 2: Chen, Fan, Girshick, He, "Improved Baselines with Momentum Contrastive Learning", 2020, arXiv 2003.04297
(and He et al. 2019, arXiv 1911.05722): the others are a queue of the keys of past batches.
Version 3: Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", 2021, arXiv 2104.02057:
the others are the keys of this batch, queries pass a predictor, and both views serve as query and as key.

The papers move the copy just before it encodes the keys. Here it moves right after each update, which gives the same
keys in every step and also works when an update takes several micro-batches.
Differences to the authors' code: on one device, keys are encoded in random groups of `key_group` samples with batch
statistics of their own, which is what shuffling between the paper's 8 GPUs of 32 samples achieves; hue jitter has
another colour space (see `unlabel_vision.views`); in version 3 both views pass the encoder together, so that a
convolutional encoder's batch normalisation sees them together (a transformer has none).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import Progress, Recipe, Ref, Stage, UsageError, engine, momentum, seeds
from unlabel.nn import batchnorm, heads, losses
from unlabel.task import Batch, Transform
from unlabel_vision import views
from unlabel_vision.encoders.patch_encoder import PatchEncoder
from unlabel_vision.image_task import ImageTask

__all__ = ["MoCo", "grouped", "paper", "quick", "stabilised", "tiny"]


def grouped(network: nn.Module, images: Tensor, order: Tensor, size: int) -> Tensor:
    """Apply a network to groups of the batch, so that each has batch statistics of its own.

    Args:
        network: (n, ...) -> (n, D).
        images: (N, ...).
        order: int64, (N,): a permutation; neighbours in it share a group.
        size: samples per group, or up to twice as many where N is no multiple; 0 or N and more: one group.

    Returns:
        (N, D), row i for image i.
    """
    if not 0 < size < len(images):
        rows: Tensor = network(images)
        return rows
    parts = [network(images[part]) for part in order.tensor_split(max(1, len(images) // size))]
    return torch.cat(parts)[order.argsort()]


def stabilised(encoder: nn.Module) -> bool:
    """Prepare a vision transformer as version 3 has it, in place: frozen random patch projection, fixed positions.

    The projection is where training of version 3 becomes unstable (arXiv 2104.02057, section 4). Positions become
    the fixed sine-cosine ones where the encoder offers them.

    Returns:
        Whether the encoder is a transformer: has a module called ``patch_embed``.
    """
    found = [module for name, module in encoder.named_modules() if name.rpartition(".")[2] == "patch_embed"]
    for module in found:
        module.requires_grad_(False)
    if isinstance(encoder, PatchEncoder):
        encoder.fix_positions()
    return bool(found)


class MoCo(ImageTask):
    """Momentum contrast.

    Args:
        encoder: any image encoder.
        version: 2 (queue; for convolutional networks) or 3 (no queue; for transformers too).
        temperature: divides the cosines.
        queue: keys kept as negatives, in version 2; 16,384 to 32,768 suit small data.
        decay: how slowly the copy follows, at the start; default 0.999 in version 2, where it is constant,
            and 0.99 in version 3, where it rises to 1 along a cosine.
        hidden: width of the heads' hidden layers; default 2048 in version 2, 4096 in version 3.
        out: width of the vectors that are compared; default 128 in version 2, 256 in version 3.
        key_group: samples that share batch statistics when version 2 encodes keys; 0 takes the whole batch,
            which lets batch normalisation give the partner away.
        skip_own: in version 2: leave keys that the queue holds of the query's own image out; the paper does not. In
            version 3 the keys are of one batch, and an image that is there twice is no negative of itself.
        blur: probability of blurring a view; 0 for 32-pixel images.
        crop_scale: area of the random crops, as a share of the image.

    Raises:
        UsageError: another version, or a decay outside [0, 1).
    """

    # Version 2 draws key groups within a process, and batch statistics are each process's own. Version 3 is equal.
    gathers: ClassVar[bool] = False

    # The loss rises at first, while keys replace the queue's random rows; chance is ln(65537).
    expected: ClassVar[Mapping[str, tuple[float, float]]] = {"loss": (0.0, 11.1)}

    def __init__(
        self,
        encoder: nn.Module,
        *,
        version: Literal[2, 3] = 2,
        temperature: float = 0.2,
        queue: int = 65536,
        decay: float | None = None,
        hidden: int | None = None,
        out: int | None = None,
        key_group: int = 32,
        skip_own: bool = False,
        blur: float = 0.5,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        super().__init__(encoder)
        if version not in (2, 3):
            raise UsageError(f"MoCo version {version!r} is unknown: expected 2 or 3")
        self.version, self.temperature, self.key_group, self.crop_scale = version, temperature, key_group, crop_scale
        self.skip_own = skip_own
        self.decay = (0.999 if version == 2 else 0.99) if decay is None else decay
        if not 0.0 <= self.decay < 1.0:
            raise UsageError(f"decay {decay} is outside [0, 1): 1 would never move the copy; 0.99 to 0.9999 is usual")
        hidden = hidden or (2048 if version == 2 else 4096)
        out = out or (128 if version == 2 else 256)
        self.photometric = views.Photometric.moco(blur)

        width: Any = encoder.dim
        if version == 2:
            self.projector = heads.mlp(width, hidden, out, norm="none")
            self.queue = momentum.Queue(queue, out, indexed=skip_own)
        else:
            layers = 3 if stabilised(encoder) else 2
            self.projector = heads.mlp(width, hidden, out, layers=layers, last_norm="plain")
            self.predictor = heads.mlp(out, hidden, out, last_norm="plain")
        self.teacher = momentum.teacher(nn.Sequential(self.encoder, self.projector))
        if version == 3:
            batchnorm.convert(self)  # the authors' code does; version 2's statistics are each process's own

    def transform(self) -> Transform:
        crop = views.RandomResizedCrop(self.image_size, scale=self.crop_scale, interpolation="bilinear")
        return views.TwoViews(crop, crop)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``: of version 2 or 3; see `queue_loss` and `symmetric_loss`."""
        first, second = self.photometric.pair(batch)
        if self.version == 3:
            return {"loss": self.symmetric_loss(first, second, batch["index"])}
        order = seeds.uniform(batch["key"], (), stream=3).argsort()
        return {"loss": self.queue_loss(first, second, order, batch["index"] if self.skip_own else None)}

    def queue_loss(self, query_view: Tensor, key_view: Tensor, order: Tensor, index: Tensor | None = None) -> Tensor:
        """Version 2, in the order of the paper's algorithm 1; in training the keys join the queue afterwards.

        Args:
            query_view, key_view: float, (N, 3, S, S), normalised.
            order: int64, (N,): a random permutation, for `grouped`.
            index: int64, (N,): which image each is of, with `skip_own`; None leaves no key out.
        """
        query = self.projector(self.encoder(query_view))  # q, (N, out)
        with torch.no_grad():
            key = grouped(self.teacher, key_view, order, self.key_group)  # k, no gradient: (N, out)

        # clone: the backward pass needs the queue as it was, and below it changes
        own = None if index is None else index[:, None] == self.queue.index
        loss = losses.info_nce_queue(query, key, self.queue.rows.clone(), self.temperature, own)  # 1911.05722, eq. 1

        if self.training:
            # alg. 1, last lines: enqueue this batch's keys, dequeue the oldest
            samples = None if index is None else engine.gather(index)
            self.queue.enqueue(engine.gather(functional.normalize(key.float(), dim=1)), samples)
        return loss

    def symmetric_loss(self, first: Tensor, second: Tensor, index: Tensor | None = None) -> Tensor:
        """Version 3 (algorithm 1): each view's query among the keys of the other view.

        Args:
            first, second: float, (N, 3, S, S), normalised.
            index: int64, (N,): which image each is of; see `unlabel.nn.losses`.
        """
        features = self.encoder(torch.cat([first, second]))
        query1, query2 = (self.predictor(self.projector(part)) for part in features.chunk(2))
        with torch.no_grad():
            teacher: Any = self.teacher  # encoder and projector, in a row
            key1, key2 = (teacher[1](part) for part in teacher[0](torch.cat([first, second])).chunk(2))

        # 2104.02057, alg. 1: ctr(q1, k2) + ctr(q2, k1), each eq. 1 times 2 tau
        return losses.symmetric_info_nce(
            query1, query2, key1, key2, self.temperature, gather=engine.gather, rank=engine.rank(), index=index
        )

    def after_update(self, progress: Progress) -> None:
        """Move the copy; running statistics are its own, from the keys it encodes."""
        decay = self.decay if self.version == 2 else momentum.cosine(progress.step, progress.steps, self.decay)
        # 1911.05722, eq. 2: theta_k <- m theta_k + (1 - m) theta_q
        momentum.update(self.teacher, nn.Sequential(self.encoder, self.projector), decay, buffers=False)

    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight pairs of views, one below the other."""
        return self.photometric.pictures(batch)


def paper() -> Recipe:
    """Version 2, ResNet-50, 100 epochs: 61.5 % linear probe and 41.8 % k-NN on ImageNet-1K as lightly reports it.

    The authors train for 200 and 800 epochs (``--epochs 200``). Not run by us.
    ``unlabel train vision/moco --recipe paper --data IMAGENET``
    """
    return Recipe(
        task=Ref("vision/moco"),
        encoder=Ref("vision/resnet"),
        dataset=Ref("vision/folder"),
        stages=[
            Stage(
                epochs=100,
                batch_size=256,
                optimizer="sgd",
                lr=0.03,
                lr_batch_size=256,
                weight_decay=1e-4,
                decay_vectors=True,
            )
        ],
    )


def quick() -> Recipe:
    """A small ResNet on 32-pixel images, minutes on two CPU cores.

    ``unlabel train vision/moco --recipe quick``
    """
    return Recipe(
        task=Ref("vision/moco", queue=4096, decay=0.99, hidden=256, out=64, blur=0.0),
        encoder=Ref("vision/resnet", depth=10, width=16, stem="small", image_size=32),
        dataset=Ref("vision/shapes"),
        stages=[Stage(epochs=20, batch_size=128, lr=1e-3, weight_decay=1e-4, warmup_epochs=1)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/moco --recipe tiny``"""
    return Recipe(
        task=Ref("vision/moco", queue=64, decay=0.9, hidden=32, out=16, key_group=8, blur=0.0),
        encoder=Ref("vision/resnet", depth=10, width=8, stem="small", image_size=32),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=4, batch_size=16, lr=1e-3, weight_decay=1e-4)],
    )
