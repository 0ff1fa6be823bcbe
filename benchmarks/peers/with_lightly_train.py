"""SimCLR with lightly-train: its one function."""

from __future__ import annotations

import works

chosen = works.options(__doc__)
begun = works.processor()

import lightly_train  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

imported = works.processor() - begun


class Wrapper(nn.Module):
    """A backbone with the four methods that lightly-train asks for."""

    def __init__(self, network: nn.Module, dim: int):
        super().__init__()
        self.network, self.dim = network, dim

    def get_model(self) -> nn.Module:
        return self.network

    def feature_dim(self) -> int:
        return self.dim

    def forward_features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": self.network.forward_features(x)}

    def forward_pool(self, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"pooled_features": x["features"].mean((2, 3), keepdim=True)}


class Null(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, 8, 1)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(x[:, :, :1, :1])


def main() -> None:
    work, null = chosen.work, chosen.model == "null"
    precision = {"fp32": "32-true", "bf16": "bf16-mixed"}[chosen.precision]
    if chosen.defaults:
        precision = "auto"
    brightness, contrast, saturation, hue = work.jitter
    augmentation = {
        "image_size": (work.size, work.size),
        "random_resize": {"min_scale": work.scale, "max_scale": 1.0},
        "color_jitter": {
            "prob": works.JITTER_P,
            "strength": 1.0,
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
        },
        "random_gray_scale": works.GRAY_P,
        "gaussian_blur": {"prob": work.blur, "sigmas": works.SIGMA, "blur_limit": 0} if work.blur else None,
    }
    works.Clock(chosen, imported, precision=precision, augmentation=repr(augmentation))
    head = {"hidden_dim": 8, "output_dim": 8} if null else {"hidden_dim": work.hidden, "output_dim": work.out}
    lightly_train.pretrain(
        out=chosen.out / "run",
        data=chosen.data,
        model=Wrapper(Null(), 8) if null else Wrapper(works.backbone(work), works.FEATURES),
        method="simclr",
        method_args={**head, "temperature": work.temperature},
        epochs=100,
        batch_size=chosen.batch,
        num_workers=0,
        precision=precision,
        accelerator="cpu",
        devices=1,
        optim="sgd",
        optim_args=works.SGD,
        transform_args=augmentation,
    )


main()
