"""ColorMAE: MAE's loss to the last bit, with masks that come from noise tiles and nothing else."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabel import optim
from unlabel.errors import UsageError
from unlabel.nn import masking
from unlabel_vision import views
from unlabel_vision.encoders.resnet import resnet
from unlabel_vision.encoders.vit import vit
from unlabel_vision.tasks import colormae
from unlabel_vision.tasks.colormae import ColorMAE, color_noise
from unlabel_vision.tasks.mae import MAE

DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
COLORS = ("white", "red", "blue", "green", "purple")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """A cache of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def encoder(patch_size: int = 4):
    return vit(image_size=32, patch_size=patch_size, dim=32, depth=1, heads=4)


def task(patch_size: int = 4, **options) -> ColorMAE:
    torch.manual_seed(0)
    return ColorMAE(encoder(patch_size), **{**DECODER, "tiles": 8, "tile_size": 32, **options})


def batch(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return {"image": torch.from_numpy(pixels), "key": torch.arange(count) * 977}


def masks(made: ColorMAE, keys: Tensor) -> Tensor:
    return masking.from_noise(made.noise(keys), made.mask_ratio, descending=True).mask


# --- where masks come from


@pytest.mark.parametrize("color", COLORS)
def test_exactly_k_patches_of_every_color_reach_the_encoder(color):
    for ratio, kept in ((0.75, 16), (0.6, 25)):
        made = task(color=color, mask_ratio=ratio)
        seen = []
        made.encoder.model.blocks[0].register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0].shape)
        )
        made.loss(batch())
        assert seen == [(6, 1 + kept, 32)]


@pytest.mark.parametrize("shared_crop", [False, True])
def test_masks_do_not_depend_on_the_images(shared_crop):
    made = task(shared_crop=shared_crop)
    keys = batch()["key"]
    for seed in range(2):
        given = batch(seed=seed)
        expected = made.loss_of(views.to_float(given["image"]), made.noise(keys))["loss"]
        assert torch.equal(made.loss(given)["loss"], expected)


def test_masks_differ_between_images_and_steps():
    shown = masks(task(tiles=64), torch.arange(500))
    assert len({row.numpy().tobytes() for row in shown}) == 500


def test_masks_do_not_depend_on_how_batches_are_packed():
    made, given = task(), batch()
    loss = made.loss(given)["loss"].item()
    halves = [{name: values[part] for name, values in given.items()} for part in (slice(3), slice(3, 6))]
    assert np.mean([made.loss(half)["loss"].item() for half in halves]) == pytest.approx(loss, rel=1e-6)
    assert made.gathers


def test_shared_crops_are_one_window_of_the_first_tiles():
    made = task(shared_crop=True, tile_size=8)  # as large as the grid: a window is a whole tile, shifted
    assert not made.gathers
    noise = made.noise(torch.arange(100, 111)).view(11, 8, 8)
    crops = [
        torch.roll(flipped, (top, left), (1, 2))
        for flipped in (made.tiles, made.tiles.flip(1), made.tiles.flip(2), made.tiles.flip(1, 2))
        for top in range(8)
        for left in range(8)
    ]
    assert sum(torch.equal(noise[:8], crop) for crop in crops) == 1
    assert sum(torch.equal(noise[8:], crop[:3]) for crop in crops) == 1  # eight tiles for eleven images: another crop
    assert not torch.equal(noise[8:], noise[:3])


@pytest.mark.parametrize("color", COLORS)
def test_noise_is_a_window_of_the_bank_of_its_color(color):
    made = task(color=color)
    assert torch.equal(made.tiles, color_noise.bank(color, 8, 32))
    once = task(color=color, iterations=1)
    assert torch.equal(once.tiles, made.tiles) == (color == "white")
    places = color_noise.random_places(torch.arange(9), 8, 32)
    assert torch.equal(made.noise(torch.arange(9)), color_noise.windows(made.tiles, places, 8).flatten(1))


def test_masks_never_wait_for_the_device():
    made = task().to("meta")  # where a value that is looked at raises
    for shared_crop in (False, True):
        made.places = color_noise.shared_places if shared_crop else color_noise.random_places
        noise = made.noise(torch.zeros(20, dtype=torch.int64, device="meta"))
        assert masking.from_noise(noise, 0.75, descending=True).mask.shape == (20, 64)


@pytest.mark.slow
def test_masks_cost_less_than_a_hundredth_of_a_step():
    torch.manual_seed(0)
    made = ColorMAE(
        vit(dim=192, heads=3), decoder_dim=192, decoder_depth=2, decoder_heads=3, tiles=64, iterations=1
    )  # ViT-Tiny with a decoder smaller than usual
    keys, pixels = torch.arange(256), torch.randint(0, 256, (8, 224, 224, 3), dtype=torch.uint8)
    masks(made, keys)

    def seconds(work) -> float:
        start = time.process_time()  # the processor's: others may use the machine
        work()
        return time.process_time() - start

    mask = min(seconds(lambda: masks(made, keys)) for _ in range(5))
    step = min(seconds(lambda: made.loss({"image": pixels, "key": keys[:8]})["loss"].backward()) for _ in range(2))
    assert mask < 0.01 * 32 * step  # 256 images are 32 times 8


# --- the loss is MAE's


def test_the_largest_values_stay_visible_and_the_rest_is_mae():
    made = task(position_order="xy")
    torch.manual_seed(0)
    plain = MAE(encoder(), **DECODER)
    kept = {name: value for name, value in made.state_dict().items() if name != "tiles"}
    plain.load_state_dict(kept)
    pixels, noise = torch.randn(4, 3, 32, 32), made.noise(torch.arange(4))
    ours, expected = made.loss_of(pixels, noise)["loss"], plain.loss_of(pixels, 1 - noise)["loss"]
    assert torch.equal(ours, expected)
    ours.backward()
    expected.backward()
    for name, parameter in plain.named_parameters():
        gradient = made.get_parameter(name).grad
        assert (gradient is None and parameter.grad is None) or torch.equal(gradient, parameter.grad), name
    assert not torch.equal(ours, plain.loss_of(pixels, noise)["loss"])


def test_the_rows_come_first_in_position_tables_unless_asked():
    swapped = task(position_order="xy").encoder.model.pos_embed
    swapped = torch.cat(swapped.chunk(2, dim=-1)[::-1], dim=-1)
    assert torch.equal(task().encoder.model.pos_embed, swapped)
    column = task().encoder.model.pos_embed[0, 1:].view(8, 8, 32)[:, :, :16]
    assert torch.equal(column, column[:, :1].expand_as(column))  # the first half is the row's


# --- resuming


def test_the_bank_is_made_again_and_not_saved():
    first = task(color="purple")
    state = first.state_dict()
    assert "tiles" not in state
    assert sum(value.numel() for value in state.values()) == sum(p.numel() for p in first.parameters())
    torch.manual_seed(7)
    second = ColorMAE(encoder(), **{**DECODER, "color": "purple", "tiles": 8, "tile_size": 32})
    assert not torch.equal(second.loss(batch())["loss"], first.loss(batch())["loss"])
    second.load_state_dict(state)
    assert torch.equal(second.loss(batch())["loss"], first.loss(batch())["loss"])


# --- recipes


def test_paper_recipe_spares_tokens_and_peaks_where_published():
    stage = colormae.paper().stages[0]
    made = task()
    groups = optim.groups(made, stage)
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.05 for p in group["params"]}
    spared = {name for name, p in made.named_parameters() if p.requires_grad and id(p) not in decayed}
    assert {"encoder.model.cls_token", "decoder.mask_token"} <= spared
    assert all(made.get_parameter(name).ndim == 1 for name in spared if not name.endswith("_token"))

    resolved = stage.resolved(313 * 4096)  # the log has 313 updates an epoch
    assert resolved.steps == 300 * 313
    rates = [optim.learning_rate(resolved, epoch * 313) for epoch in (0, 40, 170, 300)]
    assert rates == pytest.approx([2.4e-7, 2.4e-3, 1.2e-3, 0], rel=1e-6, abs=1e-12)


def smooth_images(count: int) -> Tensor:
    """Grey shades that change slowly over the image, so that a removed patch resembles its neighbours."""
    generator = torch.Generator().manual_seed(0)
    shades = torch.full((count, 1, 32, 32), 0.5)
    for cells, contrast in ((1, 1.0), (2, 1.0), (3, 0.8)):
        coarse = contrast * (torch.rand(count, 1, cells, cells, generator=generator) - 0.5)
        shades += torch.nn.functional.interpolate(coarse, 32, mode="bicubic")
    return (shades.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).repeat(1, 1, 1, 3)


@pytest.mark.slow
def test_masks_that_are_easier_to_fill_in_are_learnt_faster():
    pixels = smooth_images(256)
    losses = {}
    for color in ("blue", "white", "green", "red"):
        made = task(color=color, tiles=64, tile_size=64, norm_pix=False, decoder_dim=32)
        optimizer = torch.optim.AdamW(made.parameters(), lr=4e-3, betas=(0.9, 0.95))
        values = []
        for step in range(160):
            chosen = torch.arange(32) + 32 * (step % 8)
            loss = made.loss({"image": pixels[chosen], "key": chosen + 1000 * step})["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        losses[color] = np.mean(values[-40:])
    assert losses["blue"] < losses["white"] < losses["green"] < losses["red"], losses


# --- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_size": 7}, "tile_size=7 is smaller than the encoder's grid of 8 x 8"),
        ({"color": "gren"}, "did you mean green"),
        ({"mask_ratio": 0.99}, "leaves none of 64"),
        ({"iterations": 0}, "1 is the paper's formula"),
        ({"tiles": 0}, "0 tiles"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        task(**options)


def test_encoders_that_need_all_patches_are_refused():
    with pytest.raises(UsageError, match="vision/colormae shows the encoder only some of the patches"):
        ColorMAE(resnet(depth=10, width=8, stem="small", image_size=32), tiles=8)


def test_pictures_show_the_masks_that_are_trained_on():
    made, given = task(), batch(10)
    picture = made.show(given)["reconstruction"]
    assert picture.shape == (8 * 34 - 2, 3 * 34 - 2, 3)
    for row, mask in enumerate(masks(made, given["key"])[:8]):
        shown, hidden = (picture[34 * row : 34 * row + 32, 34 * k : 34 * k + 32] for k in range(2))
        same = (shown == hidden).reshape(8, 4, 8, 4, 3).all(axis=(1, 3, 4))
        assert np.array_equal(same.ravel(), mask.numpy() == 0)
