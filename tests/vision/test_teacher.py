"""Teachers: where they come from, what they are known by, and features that are computed once and never mistaken."""

from __future__ import annotations

import importlib.util
import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from skimage.feature import hog
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from unlabel import RunError, UsageError, export
from unlabel.data import Draw
from unlabel.frozen import features
from unlabel_vision import views
from unlabel_vision.encoders.resnet import resnet
from unlabel_vision.encoders.vit import vit
from unlabel_vision.tasks.eva import EVA, PairedCrop, teacher
from unlabel_vision.tasks.eva.teacher import GradientsAndColors, Teacher

OPEN_CLIP = importlib.util.find_spec("open_clip") is not None


def student(size: int = 32, patch: int = 8):
    return vit(image_size=size, patch_size=patch, dim=32, depth=1, heads=4)


def pixels(count: int = 5, size: int = 32, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


class Counting(nn.Module):
    """A network that remembers how many images it saw."""

    def __init__(self, width: int = 6):
        super().__init__()
        torch.manual_seed(width)
        self.conv = nn.Conv2d(3, width, 8, stride=8)
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        return self.conv(images).flatten(2).transpose(1, 2)


def counting(width: int = 6, **options) -> Teacher:
    made = Teacher("counting", "counting", Counting(width), 32, **options)
    made.network.seen.clear()
    return made


# --- CLIP's tokens


class ClipBlock(nn.Module):
    """A block of CLIP's image tower as its authors wrote it: torch's attention, and x sigmoid(1.702 x)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        normal = self.ln_1(tokens)
        tokens = tokens + self.attn(normal, normal, normal, need_weights=False)[0]
        hidden = self.c_fc(self.ln_2(tokens))
        return tokens + self.c_proj(hidden * torch.sigmoid(1.702 * hidden))


@torch.no_grad()
def test_clip_tokens_are_normalised_and_projected_one_by_one():
    torch.manual_seed(0)
    blocks = nn.ModuleList([ClipBlock(24, 4) for _ in range(2)])
    conv = nn.Conv2d(3, 24, 8, stride=8, bias=False)
    before, after = nn.LayerNorm(24), nn.LayerNorm(24)
    first, table, projection = torch.randn(24), torch.randn(17, 24), torch.randn(24, 12)
    for part in (*blocks.parameters(), *before.parameters(), *after.parameters()):
        part.copy_(torch.randn(part.shape) * 0.3 + 0.5 * (part.ndim == 1))

    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=4, num_classes=12, pre_norm=True,
        norm_layer=partial(timm.layers.LayerNorm, eps=1e-5), act_layer=timm.layers.get_act_layer("quick_gelu"),
    )  # fmt: skip
    given = {"cls_token": first[None, None], "pos_embed": table[None], "patch_embed.proj.weight": conv.weight}
    given |= {"head.weight": projection.T.contiguous(), "head.bias": torch.zeros(12)}
    for ours, theirs in (("norm_pre", before), ("norm", after)):
        given |= {f"{ours}.weight": theirs.weight, f"{ours}.bias": theirs.bias}
    for number, block in enumerate(blocks):
        names = {"norm1": block.ln_1, "norm2": block.ln_2, "mlp.fc1": block.c_fc, "mlp.fc2": block.c_proj}
        names |= {"attn.proj": block.attn.out_proj}
        for ours, theirs in names.items():
            given |= {f"blocks.{number}.{ours}.weight": theirs.weight, f"blocks.{number}.{ours}.bias": theirs.bias}
        given[f"blocks.{number}.attn.qkv.weight"] = block.attn.in_proj_weight
        given[f"blocks.{number}.attn.qkv.bias"] = block.attn.in_proj_bias
    model.load_state_dict(given)

    made = Teacher("clip", "clip", teacher._Timm(model, model.get_classifier()), 32, views.CLIP_MEAN, views.CLIP_STD)
    assert (made.grid, made.dim) == (4, 12)
    one = pixels()
    images = views.to_float(one, views.CLIP_MEAN, views.CLIP_STD)
    tokens = conv(images).flatten(2).transpose(1, 2)
    tokens = before(torch.cat([first.expand(5, 1, 24), tokens], dim=1) + table)
    for block in blocks:
        tokens = block(tokens)
    expected = after(tokens[:, 1:]) @ projection  # the class token goes before the norm
    torch.testing.assert_close(made.tokens(one), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.skipif(not OPEN_CLIP, reason="open_clip is not installed")
@torch.no_grad()
def test_open_clip_tokens_are_normalised_and_projected_one_by_one():
    from open_clip.transformer import VisionTransformer as Tower

    torch.manual_seed(0)
    tower = Tower(image_size=32, patch_size=8, width=24, layers=2, heads=4, mlp_ratio=4.0, output_dim=12).eval()
    for part in tower.parameters():
        part.copy_(torch.randn(part.shape) * 0.3)
    images = torch.randn(2, 3, 32, 32)
    inside = tower.transformer(tower._embeds(images))
    expected = tower.ln_post(inside[:, 1:]) @ tower.proj
    torch.testing.assert_close(teacher._OpenClip(tower, "x")(images), expected, atol=1e-5, rtol=1e-5)
    # of the class token, this is CLIP's own image feature
    torch.testing.assert_close(tower.ln_post(inside[:, 0]) @ tower.proj, tower(images), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(OPEN_CLIP, reason="open_clip is installed")
def test_open_clip_says_what_to_install():
    with pytest.raises(UsageError, match="pip install open-clip-torch"):
        teacher.find("open_clip:ViT-B-16/openai", student=student())


# --- where teachers come from


@pytest.mark.parametrize(
    ("name", "grid", "width"), [("test_vit", 10, 64), ("test_resnet", 5, 96), ("test_efficientnet", 5, 256)]
)
def test_any_model_of_timm_is_a_teacher(name, grid, width, tmp_path, no_network):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    made = teacher.find(f"timm:{name}", str(tmp_path / "weights.safetensors"), student=student())
    assert (made.grid, made.dim, made.image_size) == (grid, width, 160)
    assert made.mean == tuple(model.pretrained_cfg["mean"])
    images = views.to_float(pixels(2, 160), made.mean, made.std)
    with torch.no_grad():
        own = model.forward_features(images)
    own = own[:, 1:] if own.ndim == 3 else own.flatten(2).transpose(1, 2)
    torch.testing.assert_close(made.tokens(pixels(2, 160)), own, atol=1e-5, rtol=1e-4)
    assert not any(p.requires_grad for p in made.network.parameters())

    if name == "test_vit":
        larger = teacher.find(f"timm:{name}", str(tmp_path / "weights.safetensors"), 192, student=student())
        assert (larger.grid, larger.image_size) == (12, 192)
        assert larger.hash != made.hash


def test_a_trained_encoder_is_a_teacher_however_it_is_given(tmp_run, tmp_path):
    done = tmp_run("vision/mae", steps=2)
    made = teacher.find(str(done.folder), student=student())
    tokens = done.encoder.tokens(views.to_float(pixels()))[:, 1:]
    torch.testing.assert_close(made.tokens(pixels()), tokens, atol=1e-6, rtol=0)
    assert (made.grid, made.dim, made.image_size) == (4, 32, 32)

    export.export(done, tmp_path / "export", check=False)
    for place in ("export", "export/encoder.safetensors"):
        assert teacher.find(str(tmp_path / place), student=student()).hash == made.hash


def test_a_convolutional_encoder_is_a_teacher_too(tmp_path):
    options = {"depth": 10, "width": 8, "stem": "small", "image_size": 32}
    encoder = resnet(**options).eval()
    save_file(encoder.exported(), tmp_path / "encoder.safetensors")
    text = json.dumps({"encoder": {"name": "vision/resnet", **options}})
    (tmp_path / "encoder.json").write_text(text)
    made = teacher.find(str(tmp_path), student=student())
    places = encoder.model.forward_features(views.to_float(pixels()))
    torch.testing.assert_close(made.tokens(pixels()), places.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4)
    assert (made.grid, made.dim) == (4, 64)


@pytest.mark.parametrize(
    ("spec", "weights", "error", "message"),
    [
        ("runs/none", None, UsageError, "expected timm:NAME"),
        ("timm:vit_bas_patch16_224", None, UsageError, "no such model; did you mean"),
        ("timm:test_vit", "nowhere.safetensors", UsageError, "there is no such file"),
        ("timm:test_vit2.r160_in1k", "LICENSE", RunError, "weights cannot be had"),
    ],
)
def test_what_is_no_teacher_is_said(spec, weights, error, message, tmp_path, no_network):
    if weights == "LICENSE":
        weights = tmp_path / "LICENSE.safetensors"
        weights.write_text("no weights")
    with pytest.raises(error, match=message):
        teacher.find(spec, None if weights is None else str(weights), student=student())


def test_grids_must_match_or_be_resampled(tmp_path):
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "weights.safetensors")
    options = {"teacher": "timm:test_vit", "teacher_weights": str(tmp_path / "weights.safetensors"), "min_block": 1}
    with pytest.raises(UsageError, match=r"10 x 10 patches, the student 4 x 4.*teacher_size=64.*interpolate=true"):
        EVA(student(), **options)
    made = EVA(student(), **options, interpolate=True)
    found = made.transform()({"image": pixels(1, 60)[0].numpy()}, Draw(np.random.default_rng(0)))
    assert found["teacher_image"].shape == (160, 160, 3)
    one = {name: torch.from_numpy(value)[None] for name, value in found.items()}
    assert made.provenance()["teacher_weights"] == str(tmp_path / "weights.safetensors")
    assert made.targets(one).shape == (1, 16, 64)
    assert torch.isfinite(made.loss(one)["loss"])


def test_resampling_keeps_what_is_linear():
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    tokens = torch.stack([rows, columns, torch.ones(8, 8)], dim=-1).view(1, 64, 3)
    halved = teacher.resampled(tokens, 4).view(4, 4, 3)
    assert torch.allclose(halved[..., 0], (2 * torch.arange(4.0) + 0.5)[:, None].expand(4, 4))
    assert torch.allclose(halved[..., 1], (2 * torch.arange(4.0) + 0.5).expand(4, 4))
    assert torch.allclose(halved[..., 2], torch.ones(4, 4))
    assert teacher.resampled(tokens, 8) is tokens


# --- what they are known by


def test_the_hash_is_of_weights_and_of_what_is_done_to_pixels():
    first = counting()
    assert counting().hash == first.hash
    assert counting(mean=views.CLIP_MEAN).hash != first.hash
    changed = Counting()
    with torch.no_grad():
        changed.conv.bias[3] += 1e-6
    assert Teacher("counting", "counting", changed, 32).hash != first.hash
    assert Teacher("another name", "counting", Counting(), 32).hash == first.hash
    assert Teacher("counting", "another architecture", Counting(), 32).hash != first.hash


def test_encoders_with_as_many_weights_and_other_heads_are_told_apart(tmp_path):
    torch.manual_seed(0)
    found = []
    for heads in (2, 4):
        encoder = {"name": "vision/vit", "image_size": 32, "patch_size": 8, "dim": 32, "depth": 1, "heads": heads}
        folder = tmp_path / str(heads)
        folder.mkdir()
        save_file(dict(student().exported()) if heads == 2 else load_file(tmp_path / "2/encoder.safetensors"),
                  folder / "encoder.safetensors")  # fmt: skip
        (folder / "encoder.json").write_text(json.dumps({"encoder": encoder}))
        found.append(teacher.find(str(folder), student=student()))
    assert not torch.allclose(found[0].tokens(pixels()), found[1].tokens(pixels()), atol=1e-4)
    assert found[0].hash != found[1].hash


def test_patches_on_no_square_grid_are_refused():
    class Line(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), 6, 2)

    with pytest.raises(UsageError, match="6 patches of an image, which are no square grid"):
        Teacher("line", "line", Line(), 32)


# --- gradients and colours


def test_histograms_are_those_of_a_library():
    images = np.random.default_rng(0).random((3, 32, 32, 3))
    ours = teacher.histograms(torch.from_numpy(images).permute(0, 3, 1, 2).float(), 4)
    for image, found in zip(images, ours, strict=True):
        options = {"orientations": 9, "pixels_per_cell": (4, 4), "cells_per_block": (1, 1), "channel_axis": -1}
        theirs = hog(image, **options, block_norm="L2", feature_vector=False)[:, :, 0, 0]
        normal = functional.normalize(found, dim=0).permute(1, 2, 0).numpy()
        assert np.allclose(normal, theirs, atol=1e-3)


def test_gradients_and_colours_are_patch_by_patch():
    made = GradientsAndColors(8)
    image = torch.zeros(1, 3, 32, 32)
    image[:, 0, 8:16, 24:] = 1.0  # one red patch, in row 1 and column 3
    found = made(image).view(4, 4, 12, 4)  # 9 orientations and 3 colours, of 4 cells
    assert torch.equal(found[1, 3, 9], torch.full((4,), 0.25))
    assert torch.equal(found[0, 0, 9:], torch.full((3, 4), -0.25))
    assert (found[..., :9, :].sum((2, 3)) > 0).nonzero().tolist() == [[0, 3], [1, 2], [1, 3], [2, 3]]
    upright = found[1, 2, :9].sum(1)  # its only edge is upright: the gradient points right, orientation 0
    assert upright.argmax() == 0
    assert upright[1:].sum() == 0
    assert GradientsAndColors(7)(torch.rand(1, 3, 28, 28)).shape == (1, 16, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made(image).view(4, 4, 12, 4), found)


# --- crops that come again (see tests/core/test_frozen.py)


def test_kept_features_are_the_teachers_own_of_each_teacher_apart(tmp_path):
    one = pixels(3)
    digests = torch.stack([torch.from_numpy(features.digest(image.numpy())) for image in one])
    for made in (counting(), counting(mean=views.CLIP_MEAN)):
        kept = teacher.cached(made, tmp_path)
        first = kept.features(one, digests)
        torch.testing.assert_close(first, made.tokens(one), atol=1e-6, rtol=1e-6)
        made.network.seen.clear()
        assert torch.equal(kept.features(one, digests), first)
        assert made.network.seen == []


def test_crops_that_come_again_are_looked_up(tmp_path):
    made = EVA(student(), teacher="hog", min_block=1, crops=2, cache=str(tmp_path))
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    crop = made.transform()
    assert isinstance(crop, PairedCrop)
    for seed in range(12):
        found = crop({"image": image}, Draw(np.random.default_rng(seed)))
        one = {name: torch.from_numpy(value)[None] for name, value in found.items()}
        torch.testing.assert_close(made.targets(one), made.teacher.tokens(one["image"]), atol=1e-6, rtol=1e-6)
        assert torch.isfinite(made.loss(one)["loss"])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
