"""UPerNet: the encoder under a head for segmentation, both trained on labelled masks.

UPerNet (Xiao, Liu, Zhou, Jiang, Sun 2018, arXiv 1807.10221) as masked autoencoders are judged with on ADE20K (Bao et
al. 2021, arXiv 2106.08254; He et al. 2021, arXiv 2111.06377, appendix A.4): the maps of four blocks of a plain vision
transformer are rescaled to 4, 2, 1 and 1/2 of their size, pooled into a pyramid and merged from top to bottom; an
auxiliary head reads the third. AdamW, lower rates for lower layers, linear warm-up, then linear decay; random scale,
crop and flip; a sliding window in testing. Crops are as large as the encoder's input, where the authors use 512 pixels
and interpolate the position table; their photometric distortions are left out. A convolutional network's stages are a
pyramid already, and are taken as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Task, seeds
from unlabel.errors import RunError, UsageError
from unlabel.evaluate import dense_probe, metrics, supervised
from unlabel.evaluate.features import Frozen
from unlabel.recipe import Stage
from unlabel_vision import views
from unlabel_vision.encoders.patch_encoder import Part, PatchEncoder
from unlabel_vision.evaluations import feature_maps

__all__ = ["Segmenter", "UPerNet", "random_crop", "upernet"]

_POOLS = (1, 2, 3, 6)
_AUXILIARY = 256  # channels of the auxiliary head
_WHO = "vision/upernet"


def _convolution(inputs: int, outputs: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _rescaling(width: int) -> nn.ModuleList:
    """One resolution becomes four: 4, 2, 1 and 1/2 of it."""
    double = nn.Sequential(
        nn.ConvTranspose2d(width, width, 2, 2),
        nn.BatchNorm2d(width),
        nn.GELU(),
        nn.ConvTranspose2d(width, width, 2, 2),
    )
    return nn.ModuleList([double, nn.ConvTranspose2d(width, width, 2, 2), nn.Identity(), nn.MaxPool2d(2)])


class UPerNet(nn.Module):
    """Four feature maps to scores of classes.

    Args:
        widths: channels of the maps, from the finest.
        classes: number of classes.
        channels: width of the head.
        one_scale: the maps come in one resolution, and are rescaled here.
    """

    def __init__(self, widths: Sequence[int], classes: int, channels: int, one_scale: bool):
        super().__init__()
        self.rescale = _rescaling(widths[0]) if one_scale else nn.ModuleList(nn.Identity() for _ in widths)
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), _convolution(widths[-1], channels, 1)) for size in _POOLS
        )
        self.top = _convolution(widths[-1] + len(_POOLS) * channels, channels, 3)
        self.lateral = nn.ModuleList(_convolution(width, channels, 1) for width in widths[:-1])
        self.smooth = nn.ModuleList(_convolution(channels, channels, 3) for _ in widths[:-1])
        self.fuse = _convolution(len(widths) * channels, channels, 3)
        self.classify = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(channels, classes, 1))
        self.auxiliary = nn.Sequential(
            _convolution(widths[2], _AUXILIARY, 3), nn.Dropout2d(0.1), nn.Conv2d(_AUXILIARY, classes, 1)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores at the finest resolution, and the auxiliary head's at the third: (N, classes, h, w) each."""
        maps = [rescale(one) for rescale, one in zip(self.rescale, maps, strict=True)]
        top = maps[-1]
        pooled = [_resized(pool(top), top.shape[2:]) for pool in self.pools]
        levels = [lateral(one) for lateral, one in zip(self.lateral, maps[:-1], strict=True)]
        levels.append(self.top(torch.cat([top, *pooled], dim=1)))
        for number in range(len(levels) - 1, 0, -1):  # from coarse to fine
            levels[number - 1] = levels[number - 1] + _resized(levels[number], levels[number - 1].shape[2:])
        smoothed = [smooth(one) for smooth, one in zip(self.smooth, levels[:-1], strict=True)]
        merged = [_resized(one, levels[0].shape[2:]) for one in [*smoothed, levels[-1]]]
        return self.classify(self.fuse(torch.cat(merged, dim=1))), self.auxiliary(maps[2])


class Segmenter(Task):
    """A copy of a task's encoder under a head; every parameter of the copy may learn.

    Args:
        encoder: copied, not changed.
        classes: number of classes.
        channels: width of the head.
        tune: whether the encoder learns too.
    """

    def __init__(self, encoder: Part, classes: int, channels: int, tune: bool = True):
        super().__init__()
        self.chosen = feature_maps.four_depths(feature_maps.depth(encoder))
        patches = isinstance(encoder, PatchEncoder)
        widths = [encoder.dim] * 4 if patches else [encoder.model.feature_info[i]["num_chs"] for i in self.chosen]
        self.encoder = copy.deepcopy(encoder)
        fixed = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(tune and name not in fixed)
        self.encoder.zero_grad(set_to_none=True)
        self.tune = tune
        self.head = UPerNet(widths, classes, channels, patches)
        self.layers = encoder.layers if patches else 0

    def layer_of(self, name: str) -> int:
        """Layer of a parameter, for `Stage.layer_decay`; the head comes last."""
        if self.layers and name.startswith("encoder."):
            return int(self.encoder.layer_of(name.removeprefix("encoder.")))
        return self.layers + 1

    def train(self, mode: bool = True) -> Segmenter:
        """As ever; an encoder that does not learn stays in evaluation mode."""
        super().train(mode)
        if not self.tune:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images, (N, 3, S, S), to the two scores of `UPerNet`."""
        with torch.set_grad_enabled(self.tune and torch.is_grad_enabled()):
            maps = feature_maps.maps(self.encoder, images, self.chosen, normalise=False)
        scores: tuple[Tensor, Tensor] = self.head(maps)
        return scores


def random_crop(
    image: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator, scale: tuple[float, float] = (0.5, 2.0)
) -> tuple[np.ndarray, np.ndarray]:
    """A square of an image resampled by a random factor, mirrored or not, with its labels.

    Args:
        image: uint8, (H, W, 3).
        labels: int64, (H, W).
        size: side of the square; where the image is smaller, black without labels is put below and to the right.
        rng: all randomness comes from here.
        scale: smallest and largest factor; at 1 the image's short side is `size`.

    Returns:
        uint8, (size, size, 3), and int64, (size, size).
    """
    height, width = labels.shape
    whole = feature_maps.enlarged(height, width, max(1, round(size * rng.uniform(*scale))))
    image = views.resize(image, (0, 0, height, width), whole)
    rows = ((np.arange(whole[0]) + 0.5) * height / whole[0]).astype(int)
    columns = ((np.arange(whole[1]) + 0.5) * width / whole[1]).astype(int)
    labels = labels[rows[:, None], columns]  # the nearest label: numbers of classes have no mean
    top, left = (int(rng.integers(max(1, side - size + 1))) for side in whole)
    image, labels = image[top : top + size, left : left + size], labels[top : top + size, left : left + size]
    short = [(0, size - side) for side in labels.shape]
    image, labels = np.pad(image, [*short, (0, 0)]), np.pad(labels, short, constant_values=-1)
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def _batches(frozen: Frozen, size: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random crops of the training images without end, each image once an epoch: uint8 and int64, on the device."""
    part = dense_probe.label_maps(frozen, "train", _WHO)
    indices, images, labels = frozen.indices("train"), [], []
    epoch = 0
    while True:
        order = indices[seeds.permutation(len(indices), frozen.seed, epoch)]
        read = False
        for index, sample in frozen.samples("train", order=order):
            read = True
            rng = seeds.generator(frozen.seed, epoch, index)
            crop = random_crop(sample["image"], part.label_map(index).astype(np.int64), size, rng)
            images.append(crop[0])
            labels.append(crop[1])
            if len(images) == batch_size:
                batch = {"image": torch.from_numpy(np.stack(images)), "label": torch.from_numpy(np.stack(labels))}
                moved = frozen.engine.to_device(batch)
                yield moved["image"], moved["label"]
                images, labels = [], []
        if not read:
            raise RunError(f"no sample of the train part could be read: {frozen.bad[-1]['reason']}")
        epoch += 1


def _train(model: Segmenter, frozen: Frozen, stage: Stage, auxiliary: float) -> float:
    """Train in place; the mean loss of the last tenth of the updates."""

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        with frozen.engine.autocast():
            scores = model(views.to_float(images))
        return sum(
            weight * F.cross_entropy(_resized(one.float(), labels.shape[1:]), labels, ignore_index=-1, reduction="sum")
            for weight, one in zip((1.0, auxiliary), scores, strict=True)
        ) / (labels >= 0).sum().clamp(min=1)  # crops may be without any label

    losses = supervised.fit(model, frozen, stage, _batches(frozen, views.input_size(model.encoder), stage.size), loss)
    return losses[-max(1, len(losses) // 10) :].mean().item()


def upernet(
    frozen: Frozen,
    *,
    steps: int = 160_000,
    batch_size: int = 16,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.05,
    layer_decay: float = 0.65,
    warmup_steps: int = 1500,
    channels: int = 512,
    auxiliary_weight: float = 0.4,
    stride: float = 2 / 3,
    tune: bool = True,
) -> dict[str, float]:
    """Mean intersection over union on the held-out images after training a copy of the encoder under a UPerNet head.

    Args:
        frozen: what to judge; stays frozen.
        steps: updates.
        batch_size: crops per update, at least 2.
        learning_rate: peak, of the head; lower layers of the encoder have less.
        weight_decay: of matrices; biases and other vectors have none.
        layer_decay: factor of the learning rate per block below the head.
        warmup_steps: updates of linear warm-up; then a line to 0.
        channels: width of the head.
        auxiliary_weight: of the auxiliary head's loss.
        stride: distance of the windows that cover a test image, in windows, in (0, 1].
        tune: whether the encoder learns too, or the head alone.

    Returns:
        ``mean_iou``, ``accuracy`` of the pixels, ``class_accuracy``, ``iou_NAME`` of each class, and the training
        ``loss`` at the end.

    Raises:
        UsageError: no masks, no held-out part, a mask that cannot be used, an encoder without feature maps, or a
            keyword out of range.
    """
    if steps < 1 or not 0 <= warmup_steps < steps:
        raise UsageError(f"{warmup_steps} updates of warm-up of {steps} in all: expected fewer, and at least 1 update")
    if batch_size < 2:
        raise UsageError(f"batch_size={batch_size}: batch normalisation needs at least 2 crops; 16 is usual")
    if not 0 < stride <= 1:
        raise UsageError(f"stride={stride:g} is outside (0, 1]: windows must cover the image; 0.667 is usual")
    dense_probe.label_maps(frozen, "test", _WHO)  # first: if it is missing, the user learns at once
    classes = dense_probe.label_maps(frozen, "train", _WHO).map_classes
    seeds.seed(frozen.seed)
    device = frozen.engine.device
    model = Segmenter(frozen.task.encoder, len(classes), channels, tune).to(device)
    stage = Stage(
        steps=steps,
        warmup_steps=warmup_steps,
        batch_size=batch_size,
        lr=learning_rate,
        schedule="polynomial",
        weight_decay=weight_decay,
        layer_decay=layer_decay if model.layers else None,
    ).resolved(len(frozen.indices("train")))
    loss = _train(model, frozen, stage, auxiliary_weight)

    model.eval()
    size = views.input_size(model.encoder)
    table = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    for image, labels in feature_maps.read(frozen, "test", _WHO):
        cut, places, resampled = feature_maps.windows(image, size, stride)
        pixels = views.to_float(frozen.engine.to_device({"image": cut})["image"])
        with torch.inference_mode(), frozen.engine.autocast():
            scores, _ = model(pixels)
        whole = dense_probe.stitched(scores.float(), places, (size, size), resampled, labels.shape)
        best, truth = whole.argmax(dim=0).flatten().cpu(), torch.from_numpy(labels).flatten()
        table += metrics.confusion(best[truth >= 0], truth[truth >= 0], len(classes))
    if not int(table.sum()):
        raise RunError("no test image has a labelled pixel")
    return {**dense_probe.summary(table, classes), "loss": loss}
