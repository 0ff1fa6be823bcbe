"""Hue: what is the mean colour of a picture whose middle is hidden?

Nobody, "Hues", 2033, arXiv 3301.00003. It needs one of the two encoders of towers, and is trained alone or beside them.
"""

from __future__ import annotations

from torch import Tensor, nn

from toytowers.match import pixels
from unlabel import Recipe, Ref, Stage, Task


class Hue(Task):
    """Mean colours.

    Args:
        image: encoder of pictures.
    """

    evaluations = ("knn",)

    def __init__(self, image: nn.Module):
        super().__init__()
        self.image = image
        self.head = nn.Linear(image.dim, 3)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        whole = pixels(batch["image"])
        hidden = whole.clone()
        hidden[:, :, 2:6, 2:6] = 0
        return {"loss": (self.head(self.image(hidden)) - whole.mean((2, 3))).square().mean()}

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.image(pixels(batch["image"]))
        return features


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train towers/hue --recipe tiny``"""
    return Recipe(
        task=Ref("towers/hue"),
        encoders={"image": Ref("towers/deep")},
        dataset=Ref("towers/labelled"),
        stages=[Stage(steps=20, batch_size=16, lr=1e-2)],
    )
