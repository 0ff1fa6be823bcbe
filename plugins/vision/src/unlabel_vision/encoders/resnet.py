"""Residual networks (He et al. 2015, arXiv 1512.03385), also in the small form used on 32-pixel images.

The network is timm's. With ``stem="small"`` the first convolution is 3x3 with stride 1 and there is no
max-pooling, as is usual for CIFAR-sized images.
"""

from __future__ import annotations

from typing import Any, Literal

import timm
from torch import nn

from unlabel.errors import UsageError
from unlabel_vision.encoders.timm import Snippet, TimmEncoder

__all__ = ["resnet"]

_LAYERS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def resnet(
    *,
    depth: Literal[10, 18, 34, 50] = 50,
    width: int = 64,
    stem: Literal["standard", "small"] = "standard",
    image_size: int = 224,
) -> TimmEncoder:
    """A residual network, ResNet-50 by default.

    Args:
        depth: 10, 18 and 34 have basic blocks, 50 bottlenecks.
        width: channels of the first stage; doubled at each of the three others. A multiple of 2.
        stem: ``standard`` (7x7, stride 2, max-pooling) or ``small`` (3x3, stride 1, none).
        image_size: side of the images that tasks make for it, in pixels; the network takes any.

    Raises:
        UsageError: a width it cannot have.
    """
    if width < 2 or width % 2:
        raise UsageError(f"encoder.width={width} must be a positive even number; 64 is the usual one")
    if stem == "standard" and width != 64:
        raise UsageError(
            f"encoder.width={width} with the standard stem: timm's has 64 channels; use encoder.stem=small"
        )
    name = "resnet50" if depth == 50 else "resnet18"
    options: dict[str, Any] = {"layers": _LAYERS[depth], "num_classes": 0}
    changes: tuple[str, ...] = ()
    if stem == "small":
        options |= {
            "channels": tuple(width * 2**stage for stage in range(4)),
            "stem_type": "deep",
            "stem_width": width // 2,
        }
        changes = (
            f"model.conv1 = torch.nn.Conv2d(3, {width}, 3, stride=1, padding=1, bias=False)",
            "model.maxpool = torch.nn.Identity()",
        )
    model = timm.create_model(name, **options)
    if stem == "small":  # the same two changes as the snippet's
        model.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return TimmEncoder(model, Snippet(name, options, changes), image_size)
