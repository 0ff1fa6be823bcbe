"""Views of an image: crops in the loader's worker, colours and blur on the device, a whole batch at a time.

Where an augmentation runs decides its price. Crops read pixels of every position once, so they stay in
the worker, on uint8. Everything photometric is the same arithmetic for every pixel of an image, so it
runs on the batch: colour jitter, grayscale and normalisation are each a 3x4 affine map of (r, g, b, 1),
and maps compose into one matrix per image before any pixel is touched.

A worker's crop draws from the generator it is given, a batch's colours from the samples' keys: neither
depends on how samples are packed into batches or spread over processes.

Differences to torchvision's transforms of the same names, which most published recipes used:

- values are limited to [0, 1] once, after all of the jitter, and not after each of its operations;
- hue is a rotation of the chroma plane of YIQ, which leaves luma as it is, and not of the HSV hexagon;
- nothing is rounded to 8 bits in between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import seeds
from unlabel.data import Draw
from unlabel.errors import UsageError
from unlabel.show import drawing
from unlabel.task import Batch, Sample

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Box",
    "Photometric",
    "RandomResizedCrop",
    "ResizeCenterCrop",
    "TwoViews",
    "blur",
    "gaussian_kernel",
    "input_size",
    "jitter_matrix",
    "random_box",
    "resize",
    "solarize",
    "to_float",
    "to_pixels",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_CACHED = 224 * 224
"""Pixels that are augmented together on a CPU: what fits into its cache takes half the time."""

_TOGETHER = 8
"""Pixels that one product of matrices maps at once: three columns alone would leave a processor idle."""

_LUMA = (0.299, 0.587, 0.114)
_YIQ = (_LUMA, (0.59590059, -0.27455667, -0.32134392), (0.21153661, -0.52273617, 0.31119955))


def _turning() -> tuple[list[list[float]], ...]:
    """Parts of the map that turns the chroma plane of YIQ: what stays, what the cosine multiplies, and the sine."""
    yiq = np.array(_YIQ)
    planes = np.diag([1.0, 0, 0]), np.diag([0, 1.0, 1]), np.array([[0, 0, 0], [0, 0, -1.0], [0, 1, 0]])
    return tuple((np.linalg.inv(yiq) @ plane @ yiq).tolist() for plane in planes)


_TURNING = _turning()

Interpolation = Literal["bilinear", "bicubic"]

Box = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, in pixels."""


def input_size(encoder: nn.Module) -> int:
    """The side of the square images an encoder is meant for, after checking that it is one for images.

    Raises:
        UsageError: the encoder offers no `dim` or no `image_size`.
    """
    for name, meaning in (("dim", "width of its features"), ("image_size", "side of its input images in pixels")):
        if not hasattr(encoder, name):
            raise UsageError(
                f"encoder {type(encoder).__name__} offers no `{name}` ({meaning}), which image tasks need:"
                f" give it one, or choose an encoder of `unlabel list encoders`"
            )
    return int(encoder.image_size)  # type: ignore[arg-type]  # nn.Module's attributes are typed Tensor | Module


# Crops: one sample, in the worker -----------------------------------------------------------------------------


def random_box(
    height: int, width: int, rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """Draw a part of an image: its area uniform, its aspect ratio log-uniform (torchvision's procedure).

    Ten draws are tried; if none fits, the answer is the largest central part whose ratio is allowed.

    Args:
        height, width: of the image.
        rng: source of randomness.
        scale: smallest and largest area, as a share of the image's.
        ratio: smallest and largest width / height.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area, aspect, vertical, horizontal = rng.random(4).tolist()
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(low + (high - low) * aspect)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(vertical * (height - h + 1)), int(horizontal * (width - w + 1)), h, w
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(
    image: np.ndarray, box: Box, size: tuple[int, int], interpolation: Interpolation = "bicubic", flip: bool = False
) -> np.ndarray:
    """Cut a part out of an image and resample it with antialiasing; enlarging is fine.

    The arithmetic is PIL's (fixed-point filters on uint8) to two grey levels at worst, in a fifth of the time.

    Args:
        image: uint8, (H, W, 3).
        box: the part.
        size: height and width wanted.
        interpolation: filter.
        flip: whether to mirror left and right.

    Returns:
        uint8, (*size, 3), contiguous.
    """
    top, left, height, width = box
    part = np.require(image[top : top + height, left : left + width], requirements="W")  # torch wants it writable
    pixels = torch.from_numpy(part)[None].permute(0, 3, 1, 2)  # channels last, which has the fast kernel
    if (height, width) == size:
        pixels = pixels.clone(memory_format=torch.channels_last)
    else:
        pixels = functional.interpolate(pixels, size, mode=interpolation, antialias=True)
    return (pixels.flip(3) if flip else pixels)[0].permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class RandomResizedCrop:
    """Replace ``"image"`` by a random part of it, resized to a square and mirrored with probability `flip`.

    Attributes:
        size: side of the result in pixels.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height of the part.
        interpolation: filter.
        flip: probability of mirroring left and right.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bicubic"
    flip: float = 0.5

    def crop(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 (H, W, 3) -> uint8 (size, size, 3)."""
        box = random_box(image.shape[0], image.shape[1], rng, self.scale, self.ratio)
        return resize(image, box, (self.size, self.size), self.interpolation, bool(rng.random() < self.flip))

    def needs(self) -> tuple[int, int]:
        """Short side and number of pixels of an image none of whose parts will be enlarged."""
        return self.size, math.ceil(self.size**2 / (self.scale[0] * min(self.ratio[0], 1 / self.ratio[1])))

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        return {**sample, "image": self.crop(sample["image"], draw.rng)}


@dataclass(frozen=True)
class TwoViews:
    """Replace ``"image"`` by two crops of it, ``"view1"`` and ``"view2"``.

    Attributes:
        first, second: how each is cropped.
    """

    first: RandomResizedCrop
    second: RandomResizedCrop

    def needs(self) -> tuple[int, int]:
        """As `RandomResizedCrop.needs`, for both."""
        (side, pixels), (other_side, other_pixels) = self.first.needs(), self.second.needs()
        return max(side, other_side), max(pixels, other_pixels)

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        rest = {name: value for name, value in sample.items() if name != "image"}
        image = sample["image"]
        return {**rest, "view1": self.first.crop(image, draw.rng), "view2": self.second.crop(image, draw.rng)}


@dataclass(frozen=True)
class ResizeCenterCrop:
    """For evaluation: resize the shorter side to ``ratio * size``, then cut the central square of `size` pixels.

    An image that has exactly this size already is left alone, so that small images are never resampled.

    Attributes:
        size: side of the result in pixels.
        ratio: shorter side before cutting / `size`; 256 / 224 is usual.
        interpolation: filter.
    """

    size: int
    ratio: float = 256 / 224
    interpolation: Interpolation = "bicubic"

    def preprocessing(self) -> dict[str, Any]:
        """The same in timm's words, for an export."""
        share = math.nextafter(self.size / round(self.size * self.ratio), 0)  # timm divides by it and rounds down
        return {"interpolation": self.interpolation, "crop_pct": share, "crop_mode": "center"}

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        image = sample["image"]
        height, width = image.shape[:2]
        if (height, width) == (self.size, self.size):
            return sample
        short, shortest = round(self.size * self.ratio), min(height, width)
        size = (int(short * height / shortest), int(short * width / shortest))
        image = resize(image, (0, 0, height, width), size, self.interpolation)
        top, left = (round((side - self.size) / 2) for side in size)
        return {**sample, "image": image[top : top + self.size, left : left + self.size]}


# Colours: a batch, on the device ------------------------------------------------------------------------------


def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[list[float], list[float]]:
    """What multiplies a value in [0, 1], and what is added to it, per channel."""
    return [1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def to_float(images: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> Tensor:
    """Normalise a batch of images and put channels where networks expect them.

    Args:
        images: uint8, (N, H, W, 3).
        mean, std: per channel, of values in [0, 1].

    Returns:
        float32, (N, 3, H, W), stored channels last.
    """
    (views,) = _room([images])
    width = images.shape[2]
    scale, shift = (views.new_tensor(values).repeat(width) for values in _scale_and_shift(mean, std))
    for chosen in _slices(images):
        rows = _rows(views[chosen].copy_(images[chosen]))
        torch.addcmul(shift, rows, scale / 255, out=rows)
    return views.permute(0, 3, 1, 2)


def _room(parts: list[Tensor]) -> list[Tensor]:
    """Memory for several uint8 tensors as float32, on the same device.

    On a CPU it is NumPy's, and one piece: for that it asks Linux for large pages, while the handing over of ordinary
    ones would take the system longer than all the arithmetic.
    """
    if parts[0].device.type != "cpu":
        return [torch.empty(images.shape, device=images.device) for images in parts]
    whole = torch.from_numpy(np.empty(sum(images.numel() for images in parts), np.float32))
    pieces = whole.split([images.numel() for images in parts])
    return [piece.view(images.shape) for piece, images in zip(pieces, parts, strict=True)]


def _slices(images: Tensor) -> list[slice]:
    """A batch, (N, H, W, 3), in parts that stay in a CPU's cache from one operation to the next."""
    count, height, width, _ = images.shape
    part = max(1, _CACHED // (height * width)) if images.device.type == "cpu" else max(1, count)
    return [slice(start, min(start + part, count)) for start in range(0, count, part)]


def _rows(views: Tensor) -> Tensor:
    """(N, H, W, 3) as (N, H, W * 3): broadcasting over an innermost axis of three costs ten times as much on a CPU."""
    return views.view(*views.shape[:2], -1)


def to_pixels(
    images: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> np.ndarray:
    """Undo `to_float`, for pictures: float (N, 3, H, W) -> uint8 (N, H, W, 3), limited to [0, 255]."""
    values = images.detach().to("cpu", torch.float32).permute(0, 2, 3, 1)
    values = values * torch.tensor(std) + torch.tensor(mean)
    return (values * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def jitter_matrix(
    u: Tensor, mean: Tensor, *, brightness: float, contrast: float, saturation: float, hue: float
) -> Tensor:
    """Brightness, contrast, saturation and hue in a random order, as one affine map of colours per image.

    With factors b, c, s drawn uniformly from [max(0, 1 - strength), 1 + strength] and a turn h from
    [-hue, hue]: brightness multiplies by b; contrast mixes c parts of the image with 1 - c parts of its
    mean grey; saturation mixes s parts with 1 - s parts of its grey version; hue rotates the chroma plane
    of YIQ by h turns, in the direction red, green, blue. Each acts on the result of those before it.

    Args:
        u: uniform in [0, 1), (N, 8): one number per factor (b, c, s, h), and four whose order is the
            order of the operations.
        mean: (N, 3): mean colour of each image, in [0, 1].
        brightness, contrast, saturation: strengths, 0 or more; 0 changes nothing.
        hue: largest turn, in [0, 0.5].

    Returns:
        (N, 3, 4): maps (r, g, b, 1), all in [0, 1], to (r, g, b); nothing is limited.
    """
    strength = u.new_tensor([brightness, contrast, saturation])
    low = (1 - strength).clamp(min=0)
    b, c, s = (low + (1 + strength - low) * u[:, :3]).unbind(1)
    turn = hue * (1 - 2 * u[:, 3])

    identity, luma = torch.eye(3, device=u.device), u.new_tensor(_LUMA)
    gray = luma.expand(3, 3)
    still, even, odd = u.new_tensor(_TURNING)
    angle = (2 * math.pi * turn)[:, None, None]
    linear = torch.stack(
        [
            b[:, None, None] * identity,
            c[:, None, None] * identity,
            s[:, None, None] * identity + (1 - s)[:, None, None] * gray,
            still + torch.cos(angle) * even + torch.sin(angle) * odd,
        ],
        dim=1,
    )  # (N, 4, 3, 3)
    toward_mean = torch.stack([torch.zeros_like(c), 1 - c, torch.zeros_like(c), torch.zeros_like(c)], dim=1)  # (N, 4)

    order = u[:, 4:8].argsort(dim=1)
    linear = linear.gather(1, order[:, :, None, None].expand(-1, -1, 3, 3))
    toward_mean = toward_mean.gather(1, order)
    color = torch.cat([mean, torch.ones_like(mean[:, :1])], dim=1)[:, :, None]  # (N, 4, 1)
    total = torch.eye(3, 4, device=u.device).expand(len(u), 3, 4)
    for step in range(4):
        mean_gray = luma @ (total @ color)  # (N, 1): of the image as the operations so far leave it
        total = linear[:, step] @ total
        total[:, :, 3] += toward_mean[:, step, None] * mean_gray
    return total


def gaussian_kernel(sigma: Tensor, radius: int) -> Tensor:
    """Gaussian weights at -radius ... radius, each row summing to one; sigma 0 gives the identity.

    Args:
        sigma: (N,), in pixels.
        radius: taps on either side.

    Returns:
        (N, 2 * radius + 1), dtype of `sigma`.
    """
    offset = torch.arange(-radius, radius + 1, device=sigma.device, dtype=sigma.dtype)
    exponent = -0.5 * (offset / sigma.clamp(min=1e-3)[:, None]) ** 2
    weights = torch.where(exponent > -20, exponent.exp(), 0.0)  # numbers near 1e-38 make a CPU ten times slower
    return weights / weights.sum(1, keepdim=True)


def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each image with its own Gaussian, one axis after the other; borders are mirrored without repeating the edge.

    Args:
        images: float, (N, C, H, W), H and W larger than `radius`.
        sigma: (N,), in pixels.
        radius: taps on either side.

    Returns:
        Like `images`, stored channels last; nothing can be differentiated through it.
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)
    return _smoothed(pixels, gaussian_kernel(sigma, radius)).permute(0, 3, 1, 2)


def _smoothed(pixels: Tensor, weights: Tensor) -> Tensor:
    """Correlate along both axes: float (N, H, W, C), (N, taps) weights that are the same from both ends."""
    count, height, width, channels = pixels.shape
    radius = weights.shape[1] // 2
    top, bottom = pixels[:, 1 : radius + 1].flip(1), pixels[:, -radius - 1 : -1].flip(1)
    pixels = _correlate(torch.cat([top, pixels, bottom], 1).view(count, -1, width * channels), weights, 1, 1)
    pixels = pixels.view(count, height, width, channels)
    left, right = pixels[:, :, 1 : radius + 1].flip(2), pixels[:, :, -radius - 1 : -1].flip(2)
    pixels = _correlate(torch.cat([left, pixels, right], 2).view(count, height, -1), weights, 2, channels)
    return pixels.view(count, height, width, channels)


def _correlate(padded: Tensor, weights: Tensor, dim: int, step: int) -> Tensor:
    """Weigh and sum copies shifted by multiples of `step` along one of the axes of (N, rows, columns).

    A grouped convolution is up to twice as fast on a CPU, or four times slower, as the number of images goes.
    """
    radius = weights.shape[1] // 2
    length = padded.shape[dim] - 2 * radius * step
    weights = weights[:, :, None, None]
    total = padded.narrow(dim, radius * step, length) * weights[:, radius]
    pair = torch.empty_like(total)  # one buffer for all taps: fresh memory would cost more than the sum
    for tap in range(radius):
        first, last = tap * step, (2 * radius - tap) * step
        torch.add(padded.narrow(dim, first, length), padded.narrow(dim, last, length), out=pair)
        total.addcmul_(pair, weights[:, tap])
    return total


def solarize(images: Tensor, threshold: float | Tensor = 0.5, total: float | Tensor = 1.0) -> Tensor:
    """Invert what is at or above `threshold`: x becomes `total` - x; for values in [0, 1], total is 1."""
    return torch.where(images >= threshold, total - images, images)


def _by_opencv(device: torch.device) -> bool:
    """Whether OpenCV works on the pixels: it does so on processors alone, and a compiled graph cannot hold it."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def _mean(images: Tensor) -> Tensor:
    """Mean colours: uint8 (N, H, W, 3) -> (N, 3) in [0, 1]."""
    count, height, width, channels = images.shape
    if _by_opencv(images.device):
        import cv2

        return torch.tensor([cv2.mean(image)[:channels] for image in images.numpy()]).view(count, channels) / 255
    rows = images.reshape(count, height, width * channels).to(torch.float32).sum(1)
    return rows.view(count, width, channels).sum(1) / (255 * height * width)


def _blocks(matrix: Tensor, together: int) -> tuple[Tensor, Tensor]:
    """Affine maps of one pixel, (N, 3, 4), as maps of several pixels at once.

    Returns:
        (N, 3 * together, 3 * together), to multiply rows of pixels with, and (N, 1, 3 * together), to add.
    """
    blocks = matrix.new_zeros((len(matrix), together, 3, together, 3))
    blocks.diagonal(dim1=1, dim2=3).copy_(matrix[:, :, :3].transpose(1, 2)[..., None])
    return blocks.view(len(matrix), 3 * together, -1), matrix[:, None, :, 3].repeat(1, 1, together)


@dataclass(frozen=True)
class Photometric:
    """Random colours, blur and solarisation of a batch, and its normalisation; the default only normalises.

    Each image: jitter with `jitter_p`, then grey with `gray_p`, then blur with `blur_p`, then solarise with
    `solarize_p`. The blur's kernel spans a tenth of the image, and at most three `sigma` on either side; images
    below 20 pixels are not blurred.

    Attributes:
        brightness, contrast, saturation, hue: strengths, as in `jitter_matrix`.
        jitter_p, gray_p, blur_p, solarize_p: probabilities.
        sigma: smallest and largest width of the blur in pixels.
        mean, std: of the normalisation.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_p: float = 0.0
    gray_p: float = 0.0
    blur_p: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @classmethod
    def simclr(cls, strength: float = 1.0, blur: float = 0.5) -> Photometric:
        """SimCLR (Chen et al. 2020, arXiv 2002.05709, appendix A): `strength` 1 for large images, 0.5 for 32 pixels."""
        side = 0.8 * strength
        return cls(side, side, side, 0.2 * strength, jitter_p=0.8, gray_p=0.2, blur_p=blur)

    @classmethod
    def moco(cls, blur: float = 0.5) -> Photometric:
        """MoCo v2 (Chen et al. 2020, arXiv 2003.04297)."""
        return cls(0.4, 0.4, 0.4, 0.1, jitter_p=0.8, gray_p=0.2, blur_p=blur)

    @classmethod
    def byol(cls) -> tuple[Photometric, Photometric]:
        """The two unlike views of BYOL (Grill et al. 2020, arXiv 2006.07733, appendix B)."""
        first = cls(0.4, 0.4, 0.2, 0.1, jitter_p=0.8, gray_p=0.2, blur_p=1.0)
        second = cls(0.4, 0.4, 0.2, 0.1, jitter_p=0.8, gray_p=0.2, blur_p=0.1, solarize_p=0.2)
        return first, second

    def matrix(self, u: Tensor, mean: Tensor) -> Tensor:
        """Jitter and grey as one affine map per image.

        Args:
            u: uniform in [0, 1), (N, 10): eight for `jitter_matrix`, then whether to jitter, and to make grey.
            mean: (N, 3): mean colour of each image, in [0, 1].

        Returns:
            (N, 3, 4), as `jitter_matrix`.
        """
        jitter = jitter_matrix(
            u[:, :8],
            mean,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
        )
        jitter = torch.where((u[:, 8] < self.jitter_p)[:, None, None], jitter, torch.eye(3, 4, device=u.device))
        gray = u.new_tensor(_LUMA).expand(3, 3) @ jitter
        return torch.where((u[:, 9] < self.gray_p)[:, None, None], gray, jitter)

    def __call__(self, images: Tensor, keys: Tensor, stream: int = 0) -> Tensor:
        """Augment and normalise a batch, in float32 whatever the precision of training.

        Args:
            images: uint8, (N, H, W, 3).
            keys: int64, (N,): the batch's ``"key"``; an image's fate depends on its key and `stream` alone.
            stream: another number for another view of the same samples.

        Returns:
            float32, (N, 3, H, W), stored channels last.
        """
        if not (self.jitter_p or self.gray_p or self.blur_p or self.solarize_p):
            return to_float(images, self.mean, self.std)
        return self._augmented([images], keys, [stream])[0]

    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The two views that `TwoViews` cut, each with colours of its own: float32, (N, 3, S, S) each."""
        first, second = self._augmented([batch["view1"], batch["view2"]], batch["key"], [1, 2])
        return first, second

    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight pairs of views, one below the other, for a task's `show`."""
        pairs = self.pair({name: batch[name][:8] for name in ("view1", "view2", "key")})
        return {"views": drawing.contact_sheet(to_pixels(torch.cat(pairs), self.mean, self.std), columns=len(pairs[0]))}

    def _augmented(self, parts: list[Tensor], keys: Tensor, streams: list[int]) -> list[Tensor]:
        """Several views of the same samples: what is small is done for all at once, and memory is asked for once."""
        device = parts[0].device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            u = torch.cat([seeds.uniform(keys, (13,), stream) for stream in streams])
            mean = torch.cat([_mean(images) for images in parts])
            matrices = self._normalising(self.matrix(u[:, :10], mean))
            work = self._on_cpu if _by_opencv(device) else self._on_device
            rooms = _room(parts)
            for number, (images, views) in enumerate(zip(parts, rooms, strict=True)):
                own = slice(number * len(keys), (number + 1) * len(keys))
                work(images, matrices[own], u[own], views)
            return [views.permute(0, 3, 1, 2) for views in rooms]

    def _on_cpu(self, images: Tensor, matrices: Tensor, u: Tensor, out: Tensor) -> None:
        """One view, with OpenCV's vector instructions, on as many images as stay in a processor's cache."""
        import cv2  # here: an accelerator does without

        limits, sigma, radius = self._limits(images.shape[2], u.device), self._sigma(u), self._radius(images)
        weights, blurred = gaussian_kernel(sigma, radius).numpy(), (sigma > 0).tolist()
        slices = _slices(images)
        buffer = torch.empty(images[slices[0]].shape)
        for chosen in slices:
            views = out[chosen]
            pixels = buffer[: len(views)].copy_(images[chosen]).numpy()
            for before, matrix, after in zip(pixels, matrices[chosen].numpy(), views.numpy(), strict=True):
                cv2.transform(before, matrix, dst=after)
            _rows(views).clamp_(*limits)
            for index in range(chosen.start, chosen.stop):
                if blurred[index] and radius:
                    reach = int((weights[index] > 0).sum()) // 2  # taps of no weight are left out
                    taps = weights[index, radius - reach : radius + reach + 1]
                    view, before = views[index - chosen.start].numpy(), pixels[index - chosen.start]
                    before[:] = view
                    cv2.sepFilter2D(before, -1, taps, taps, dst=view, borderType=cv2.BORDER_REFLECT_101)
            self._solarize(views, u[chosen, 12], limits)

    def _on_device(self, images: Tensor, matrices: Tensor, u: Tensor, out: Tensor) -> None:
        """One view of the whole batch, without waiting for the device."""
        count, height, width, _ = images.shape
        blocks, shift = _blocks(matrices, math.gcd(_TOGETHER, height * width))
        limits, radius = self._limits(width, u.device), self._radius(images)
        pixels = images.reshape(count, -1, blocks.shape[1]).to(torch.float32)
        torch.baddbmm(shift, pixels, blocks, out=out.view(pixels.shape))
        _rows(out).clamp_(*limits)
        if self.blur_p and radius:
            out.copy_(_smoothed(out, gaussian_kernel(self._sigma(u), radius)))
        self._solarize(out, u[:, 12], limits)

    def _normalising(self, matrix: Tensor) -> Tensor:
        """Maps within [0, 1], (N, 3, 4), as maps from [0, 255] to normalised values."""
        scale, shift = (matrix.new_tensor(values) for values in _scale_and_shift(self.mean, self.std))
        matrix = matrix * scale[:, None]
        return torch.cat([matrix[:, :, :3] / 255, (matrix[:, :, 3] + shift)[:, :, None]], dim=2)

    def _limits(self, width: int, device: torch.device) -> Tensor:
        """Black and white after normalisation, each as a row of `width` pixels: (2, 3 * width)."""
        scale, shift = (torch.tensor(values, device=device) for values in _scale_and_shift(self.mean, self.std))
        return torch.stack([shift, scale + shift]).repeat(1, width)

    def _sigma(self, u: Tensor) -> Tensor:
        """Width of each image's blur; 0 for those that are not blurred."""
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * u[:, 11]
        return torch.where(u[:, 10] < self.blur_p, sigma, 0.0)

    def _radius(self, images: Tensor) -> int:
        """Of the blur's kernel, for (N, H, W, 3); blur commutes with normalisation, as its weights sum to one."""
        return min(min(images.shape[1:3]) // 20, math.ceil(3 * self.sigma[1]))

    def _solarize(self, views: Tensor, chance: Tensor, limits: Tensor) -> None:
        """In place."""
        if not self.solarize_p:
            return
        rows, (black, white) = _rows(views), limits
        chosen = (chance < self.solarize_p)[:, None, None]
        rows.copy_(solarize(rows, torch.where(chosen, (black + white) / 2, math.inf), black + white))
