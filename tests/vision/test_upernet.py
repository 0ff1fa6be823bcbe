"""The UPerNet head: shapes, rates of layers, crops that keep labels with their pixels, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlabel import Dataset, Frozen, optim
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.recipe import Stage
from unlabel.task import Batch, Sample, Task
from unlabel_vision.encoders.crate import crate
from unlabel_vision.encoders.resnet import resnet
from unlabel_vision.encoders.vit import vit
from unlabel_vision.evaluations.upernet import Segmenter, UPerNet, random_crop, upernet

SMALL = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 4, "heads": 2}
QUICK = {"steps": 40, "warmup_steps": 4, "batch_size": 4, "channels": 8, "learning_rate": 1e-2}


class Halves(Dataset):
    """A dark and a bright part, divided at a random column; the class is which part. Every third is held out."""

    map_classes = ("dark", "bright")

    def __init__(self, rows: np.ndarray | None = None):
        self.rows = np.arange(12) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def label_map(self, index: int) -> np.ndarray:
        column = 6 + int(self.rows[index] * 5 % 13)
        found = np.tile(np.arange(24) >= column, (16, 1)).astype(np.int64)
        found[0] = -1
        return found

    def __getitem__(self, index: int) -> Sample:
        bright = self.label_map(index) == 1
        bright[0] = bright[1]
        return {"image": np.where(bright, 220, 30).astype(np.uint8)[..., None].repeat(3, 2)}

    def split(self, name: str) -> Dataset | None:
        held_out = self.rows % 3 == 2
        return Halves(self.rows[held_out if name == "test" else ~held_out])


class Plain(Task):
    """An encoder and nothing else."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def encode(self, batch: Batch) -> Tensor:
        features: Tensor = self.encoder(batch["image"])
        return features


def frozen(encoder: nn.Module) -> Frozen:
    return Frozen(Plain(encoder), Halves(), Engine("cpu", "fp32"))


def test_maps_of_one_resolution_become_a_pyramid() -> None:
    head = UPerNet([12] * 4, 5, 8, one_scale=True).eval()
    maps = [torch.randn(2, 12, 8, 8) for _ in range(4)]
    assert [tuple(scale(one).shape[2:]) for scale, one in zip(head.rescale, maps, strict=True)] == [
        (32, 32),
        (16, 16),
        (8, 8),
        (4, 4),
    ]
    scores, auxiliary = head(maps)
    assert scores.shape == (2, 5, 32, 32)
    assert auxiliary.shape == (2, 5, 8, 8)


def test_a_shifted_input_gives_shifted_scores() -> None:
    """Nothing in the head may move places; the pyramid pooling sees the whole, so it is made blind here."""
    torch.manual_seed(0)
    head = UPerNet([4] * 4, 3, 6, one_scale=True).eval()
    for pool in head.pools:
        nn.init.zeros_(pool[1][0].weight)
    maps = [torch.zeros(1, 4, 24, 24) for _ in range(4)]
    for one in maps:
        one[..., 10:12, 10:12] = torch.randn(1, 4, 1, 1)
    moved = [torch.roll(one, (2, 4), (2, 3)) for one in maps]  # even: the coarsest map has half the resolution
    first, second = head(maps)[0], head(moved)[0]
    inside = (..., slice(32, -24), slice(40, -24))  # away from the padding, and from what was rolled around
    torch.testing.assert_close(torch.roll(first, (8, 16), (2, 3))[inside], second[inside], atol=1e-5, rtol=0)
    assert first[inside].std() > 1e-3


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: vit(**SMALL),
        lambda: crate(**SMALL),
        lambda: resnet(depth=10, width=8, stem="small", image_size=32),
    ],
)
def test_every_part_that_may_learn_gets_a_gradient(encoder: object) -> None:
    torch.manual_seed(0)
    judged = encoder()  # type: ignore[operator]
    model = Segmenter(judged, 3, 8).train()
    sum(one.square().mean() for one in model(torch.randn(2, 3, judged.image_size, judged.image_size))).backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert {name.removeprefix("encoder.model.") for name in without} <= {"norm.weight", "norm.bias"}
    fixed = Segmenter(judged, 3, 8, tune=False).train()
    assert not fixed.encoder.training
    fixed(torch.randn(2, 3, judged.image_size, judged.image_size))[0].sum().backward()
    assert all(parameter.grad is None for parameter in fixed.encoder.parameters())
    assert fixed.head.fuse[0].weight.grad is not None


def test_lower_layers_learn_at_lower_rates_and_the_head_at_the_full_one() -> None:
    model = Segmenter(vit(**SMALL), 3, 8)
    stage = Stage(steps=10, batch_size=4, lr=1e-3, layer_decay=0.5, schedule="polynomial").resolved(8)
    optimizer = optim.build(model, stage)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scale[id(model.head.fuse[0].weight)] == 1.0
    assert scale[id(model.encoder.model.blocks[3].mlp.fc1.weight)] == 0.5
    assert scale[id(model.encoder.model.blocks[0].mlp.fc1.weight)] == 0.5**4
    assert scale[id(model.encoder.model.patch_embed.proj.weight)] == 0.5**5


def test_crops_keep_labels_with_their_pixels_and_pad_without_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (5, 7)).repeat(8, 0).repeat(8, 1)
    image = np.where(labels, 255, 0).astype(np.uint8)[..., None].repeat(3, 2)
    padded = 0
    for seed in range(30):
        cut, truth = random_crop(image, labels, 32, np.random.default_rng(seed))
        assert cut.shape == (32, 32, 3)
        assert truth.shape == (32, 32)
        inside = truth >= 0
        padded += not inside.all()
        assert (cut[~inside] == 0).all()
        agree = (cut[..., 0] > 127) == (truth == 1)
        assert agree[inside].mean() > 0.9  # edges are blurred by resampling; a shift or a flip would be far below
    assert padded > 3


def test_mirrored_crops_are_mirrored_with_their_labels() -> None:
    labels = np.arange(8)[None].repeat(8, 0)
    image = (labels * 30).astype(np.uint8)[..., None].repeat(3, 2)
    kinds = set()
    for seed in range(10):
        cut, truth = random_crop(image, labels, 8, np.random.default_rng(seed), scale=(1.0, 1.0))
        assert np.array_equal(cut[..., 0], truth * 30)
        kinds.add(int(truth[0, 0]))
    assert kinds == {0, 7}


@pytest.mark.slow
def test_it_learns_and_leaves_what_it_judges_alone() -> None:
    torch.manual_seed(0)
    judged = frozen(vit(**SMALL))
    before = {name: value.clone() for name, value in judged._task.state_dict().items()}
    found = upernet(judged, **QUICK)
    assert found["mean_iou"] > 0.85
    assert found["iou_dark"] > 0.85
    assert all(torch.equal(before[name], value) for name, value in judged._task.state_dict().items())
    assert upernet(judged, **{**QUICK, "steps": 6}) == upernet(judged, **{**QUICK, "steps": 6})


def test_options_out_of_range_are_told() -> None:
    judged = frozen(vit(**SMALL))
    with pytest.raises(UsageError, match="1500 updates of warm-up of 10"):
        upernet(judged, steps=10)
    with pytest.raises(UsageError, match="at least 2 crops"):
        upernet(judged, batch_size=1)
    with pytest.raises(UsageError, match="stride=0 is outside"):
        upernet(judged, stride=0.0)
