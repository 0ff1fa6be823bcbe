"""Dense evaluations of image encoders: where places lie, which encoders fit, what a probe can and cannot read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlabel import Catalog, Dataset, Frozen, Recipe, Ref, launch
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.task import Batch, Sample, Task
from unlabel_vision import views
from unlabel_vision.datasets.digits import Digits
from unlabel_vision.datasets.shapes import Shapes
from unlabel_vision.encoders.crate import crate
from unlabel_vision.encoders.resnet import resnet
from unlabel_vision.encoders.timm import timm_encoder
from unlabel_vision.encoders.vit import vit
from unlabel_vision.evaluations import feature_maps
from unlabel_vision.evaluations.dense_probe import dense_probe

SMALL = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 3, "heads": 2}


class Fields(Dataset):
    """Coloured squares of 4 pixels, 16 x 24 in all; the class of a pixel is its colour. Every fifth is held out."""

    map_classes = ("red", "green", "blue")
    colours = np.array([[200, 20, 20], [20, 200, 20], [20, 20, 200]], dtype=np.uint8)

    def __init__(self, rows: np.ndarray | None = None, unlabelled: bool = False):
        self.rows, self.unlabelled = np.arange(10) if rows is None else rows, unlabelled

    def __len__(self) -> int:
        return len(self.rows)

    def label_map(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(int(self.rows[index]))
        found = rng.integers(0, 3, (4, 6)).repeat(4, 0).repeat(4, 1)
        return np.where(np.arange(24) < 4, -1, found) if self.unlabelled else found

    def __getitem__(self, index: int) -> Sample:
        image = self.colours[Fields(self.rows).label_map(index)]
        return {"image": np.where(np.arange(24)[:, None] < 4, 0, image).astype(np.uint8) if self.unlabelled else image}

    def split(self, name: str) -> Dataset | None:
        held_out = self.rows % 5 == 4
        return Fields(self.rows[held_out if name == "test" else ~held_out], self.unlabelled)


class Plain(Task):
    """An encoder and nothing else."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def encode(self, batch: Batch) -> Tensor:
        features: Tensor = self.encoder(views.to_float(batch["image"]))
        return features


def frozen(encoder: nn.Module, dataset: Dataset, **options: object) -> Frozen:
    return Frozen(Plain(encoder), dataset, Engine("cpu", "fp32"), **options)  # type: ignore[arg-type]


def looking() -> nn.Module:
    """A vision transformer whose blocks add nothing: each patch's features are of its own pixels."""
    torch.manual_seed(0)
    encoder = vit(**SMALL)
    with torch.no_grad():
        for block in encoder.model.blocks:
            block.attn.proj.weight.zero_()
            block.mlp.fc2.weight.zero_()
    return encoder


def test_a_probe_of_patches_that_show_their_class_recovers_every_pixel() -> None:
    """Short side 16 is the input size: two windows of 16 x 16 that overlap; squares are patches."""
    found = dense_probe(frozen(looking(), Fields()), resampling="nearest")
    assert found["mean_iou"] == found["accuracy"] == 1.0
    assert set(found) == {"mean_iou", "accuracy", "class_accuracy", "C", "iou_red", "iou_green", "iou_blue"}


def test_linear_resampling_is_wrong_at_corners_of_patches_only() -> None:
    assert 0.9 < dense_probe(frozen(looking(), Fields()))["mean_iou"] < 1.0


def test_unlabelled_pixels_count_nowhere() -> None:
    """The left column is black and without labels: were it counted, as any class, the score would fall."""
    assert dense_probe(frozen(looking(), Fields(unlabelled=True)), resampling="nearest")["mean_iou"] == 1.0


def test_the_raw_control_reads_the_pixels_of_each_patch() -> None:
    blind = looking()
    nn.init.zeros_(blind.model.patch_embed.proj.weight)
    assert dense_probe(frozen(blind, Fields()), resampling="nearest")["mean_iou"] < 0.5
    assert dense_probe(frozen(blind, Fields()), resampling="nearest", inputs="raw")["mean_iou"] == 1.0


def test_windows_show_the_image_where_they_say() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 41, 3), dtype=np.uint8)
    cut, places, resampled = feature_maps.windows(image, 24, 2 / 3)
    assert resampled == (24, 41)  # the short side fits: nothing is resampled
    assert places == [(0, 0), (0, 16), (0, 17)]
    for window, (top, left) in zip(cut.numpy(), places, strict=True):
        assert np.array_equal(window, image[top : top + 24, left : left + 24])


@pytest.mark.parametrize(("size", "expected"), [((30, 90), (16, 48)), ((90, 31), (46, 16)), ((7, 7), (16, 16))])
def test_the_short_side_becomes_the_input_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert feature_maps.enlarged(*size, 16) == expected


ENCODERS = {
    "vit": lambda: vit(**SMALL),
    "vit without class token": lambda: vit(**SMALL, class_token=False, pool="avg"),
    "crate": lambda: crate(**SMALL),
    "resnet": lambda: resnet(depth=10, width=8, stem="small", image_size=16),
    "timm vit": lambda: timm_encoder(name="vit_tiny_patch16_224", image_size=32),
    "timm convnet": lambda: timm_encoder(name="convnext_atto", image_size=32),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_of_images_has_feature_maps(name: str) -> None:
    encoder = ENCODERS[name]().eval()
    count, images = feature_maps.depth(encoder), torch.randn(2, 3, encoder.image_size, encoder.image_size)
    with torch.no_grad():
        found = feature_maps.maps(encoder, images, [count - 1, 0])
    assert all(layer.ndim == 4 and len(layer) == 2 and layer.shape[2] == layer.shape[3] for layer in found)
    assert found[1].shape[2] >= found[0].shape[2] >= 1
    result = dense_probe(frozen(encoder, Fields()), places=200, grid=(0.1,))
    assert 0 <= result["mean_iou"] <= 1


def test_maps_are_the_tokens_in_their_places() -> None:
    torch.manual_seed(0)
    encoder = vit(**SMALL).eval()
    images = torch.randn(2, 3, 16, 16)
    (found,) = feature_maps.maps(encoder, images, [2])
    tokens = encoder.tokens(images)[:, 1:]
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(found[:, :, row, column], tokens[:, 4 * row + column])


@pytest.mark.parametrize(
    ("count", "layers"), [(12, (3, 5, 7, 11)), (24, (7, 11, 15, 23)), (4, (0, 1, 2, 3)), (2, (0, 0, 0, 1))]
)
def test_four_depths_are_the_published_ones(count: int, layers: tuple[int, ...]) -> None:
    assert feature_maps.four_depths(count) == layers


def test_an_encoder_without_feature_maps_is_told_which_fit() -> None:
    flat = nn.Sequential(nn.Flatten(1), nn.Linear(768, 4))
    flat.image_size = 16  # type: ignore[assignment]
    with pytest.raises(UsageError, match=r"Sequential has none.*vision/vit"):
        dense_probe(frozen(flat, Fields()))


def test_data_without_masks_and_options_out_of_range_are_told() -> None:
    with pytest.raises(UsageError, match=r"vision/dense_probe needs a class for every place, and Digits has none"):
        dense_probe(frozen(vit(**SMALL), Digits(), limit={"train": 4, "test": 4}))
    with pytest.raises(UsageError, match=r"stride=1.5 is outside \(0, 1\]"):
        dense_probe(frozen(vit(**SMALL), Fields()), stride=1.5)
    with pytest.raises(UsageError, match="layers=4: the encoder has 3"):
        dense_probe(frozen(vit(**SMALL), Fields()), layers=4)


def test_the_encoder_is_not_changed_and_the_result_is_the_same_again() -> None:
    torch.manual_seed(0)
    judged = frozen(resnet(depth=10, width=8, stem="small", image_size=16), Fields())
    judged.task.train()
    before = {name: value.clone() for name, value in judged._task.state_dict().items()}
    first = dense_probe(judged)
    assert first == dense_probe(judged)
    assert all(torch.equal(before[name], value) for name, value in judged._task.state_dict().items())


def test_test_images_are_never_learnt_from() -> None:
    """Whatever is done to the held-out masks, what was chosen on the training images stays the same."""
    judged = frozen(looking(), Fields(), limit={"test": 1})
    whole = frozen(looking(), Fields())
    assert dense_probe(judged)["C"] == dense_probe(whole)["C"]

    class Wrong(Fields):
        def label_map(self, index: int) -> np.ndarray:
            there = super().label_map(index)
            return (there + 1) % 3 if (self.rows % 5 == 4).all() else there

        def split(self, name: str) -> Dataset | None:
            part = super().split(name)
            assert isinstance(part, Fields)
            return Wrong(part.rows)

    assert dense_probe(frozen(looking(), Wrong()), resampling="nearest")["accuracy"] == 0.0


class Silhouettes(Shapes):
    """Which pixels are the silhouette's, whichever it is: a patch's own pixels hardly say."""

    map_classes = ("background", "silhouette")

    def label_map(self, index: int) -> np.ndarray:
        return super().label_map(index).clip(max=1)

    def split(self, name: str) -> Dataset | None:
        part = super().split(name)
        if isinstance(part, Shapes):
            part.__class__ = type(self)
        return part


@pytest.mark.slow
def test_a_learnt_encoder_beats_raw_pixels_and_an_untrained_one_on_shapes() -> None:
    torch.manual_seed(0)
    encoder = vit(image_size=32, patch_size=4, dim=32, depth=2, heads=4, pool="avg")
    data = Silhouettes(count=400)
    judged = frozen(encoder, data, limit={"train": 100, "test": 80})
    settings = {"places": 2000, "grid": (0.1,)}
    scores = {"untrained": dense_probe(judged, **settings)["mean_iou"]}
    scores["raw"] = dense_probe(judged, **settings, inputs="raw")["mean_iou"]

    head = nn.Conv2d(32, 2, 1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    images = views.to_float(torch.from_numpy(np.stack([data[i]["image"] for i in range(400)])))
    truth = torch.from_numpy(np.stack([data.label_map(i)[2::4, 2::4] for i in range(400)]))
    for step in range(120):
        rows = torch.randint(0, 400, (16,), generator=torch.Generator().manual_seed(step))
        (maps,) = feature_maps.maps(encoder, images[rows], [1])
        loss = nn.functional.cross_entropy(head(maps), truth[rows], ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores["learnt"] = dense_probe(frozen(encoder, data, limit={"train": 100, "test": 80}), **settings)["mean_iou"]
    assert scores["learnt"] > max(scores["raw"], scores["untrained"]) + 0.05, scores


@pytest.mark.slow
def test_the_command_line_has_it(tmp_path: Path) -> None:
    encoder = Ref("vision/vit", **SMALL)
    recipe = Recipe(
        task=Ref("vision/mae", decoder_dim=16, decoder_depth=1, decoder_heads=2),
        encoder=encoder,
        dataset=Ref("vision/shapes", count=100),
        stages=[{"steps": 1, "batch_size": 8}],
    )
    done = launch.train(recipe, out=tmp_path / "run", evaluate=False, quiet=True)
    found = done.evaluate("vision/dense_probe", options=["vision/dense_probe.places=500"])
    assert "iou_background" in found["vision/dense_probe"]
    assert "vision/dense_probe" in Catalog.installed().names("evaluations")
