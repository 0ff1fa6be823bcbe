"""Crops are torchvision's, colours are one matrix, blur is SciPy's, and chance depends on the sample's key alone."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy import ndimage, stats
from skimage import color
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import functional

from unlabel import UsageError, seeds
from unlabel.data import Draw
from unlabel_vision import views
from unlabel_vision.views import Photometric, RandomResizedCrop, ResizeCenterCrop, TwoViews

MEAN, STD = np.array(views.IMAGENET_MEAN), np.array(views.IMAGENET_STD)


def _photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some texture: uint8, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random((height, width, 3)), (height / 10, width / 10, 0), mode="wrap")
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.uint8(235 * smooth + 20 * rng.random((height, width, 3)))


def _batch(count: int, size: int) -> Tensor:
    return torch.from_numpy(np.stack([_photo(size, size, seed) for seed in range(count)]))


# --- crops


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), low=st.floats(0.05, 1), seed=st.integers(0, 999))
def test_a_random_box_lies_inside_the_image_and_has_the_area_and_ratio_asked_for(height, width, low, seed):
    top, left, h, w = views.random_box(height, width, np.random.default_rng(seed), (low, 1.0), (3 / 4, 4 / 3))
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    assert h > 0
    assert w > 0
    if 3 / 4 <= width / height <= 4 / 3 and min(height, width) > 20:
        # sides are rounded to whole pixels
        assert (h + 0.5) * (w + 0.5) >= low * height * width
        assert (w - 0.5) / (h + 0.5) <= 4 / 3
        assert (w + 0.5) / (h - 0.5) >= 3 / 4


def test_area_is_uniform_and_ratio_log_uniform_and_place_uniform():
    rng, side = np.random.default_rng(0), 1000
    boxes = np.array([views.random_box(side, side, rng, (0.1, 0.5), (3 / 4, 4 / 3)) for _ in range(2000)])
    top, left, height, width = boxes.T
    area, ratio = height * width / side**2, np.log(width / height)
    assert stats.kstest(area, stats.uniform(0.1, 0.4).cdf).pvalue > 0.01
    assert stats.kstest(ratio, stats.uniform(np.log(3 / 4), 2 * np.log(4 / 3)).cdf).pvalue > 0.01
    assert stats.kstest(top / (side - height), stats.uniform.cdf).pvalue > 0.01
    assert stats.kstest(left / (side - width), stats.uniform.cdf).pvalue > 0.01


@pytest.mark.parametrize("shape", [(10, 400), (400, 10), (3, 3)])
def test_where_no_draw_fits_the_answer_is_torchvisions_central_crop(shape):
    scale, ratio = (2.0, 2.5), (3 / 4, 4 / 3)  # more than the whole image: no draw can fit
    expected = transforms.RandomResizedCrop.get_params(torch.zeros(3, *shape), list(scale), list(ratio))
    assert views.random_box(*shape, np.random.default_rng(0), scale, ratio) == tuple(expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("box", "size"), [((10, 20, 120, 90), 64), ((3, 4, 20, 30), 64), ((0, 0, 150, 200), 32)])
def test_resampling_is_pils(interpolation, box, size):
    image = _photo(150, 200)
    top, left, height, width = box
    part = Image.fromarray(image).crop((left, top, left + width, top + height))
    expected = np.asarray(part.resize((size, size), Image.Resampling[interpolation.upper()])).astype(int)
    ours = views.resize(image, box, (size, size), interpolation)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    assert np.abs(ours - expected).max() <= 2  # both round to 8 bits after each axis, in different orders,
    assert np.abs(ours - expected).mean() < 0.3  # so about a quarter of the values differ by one,
    assert abs((ours - expected).mean()) < 0.02  # in both directions alike
    flipped = views.resize(image, box, (size, size), interpolation, flip=True)
    assert np.array_equal(flipped, ours[:, ::-1])


def test_an_unresized_crop_copies_pixels_and_never_the_readers_array():
    image = _photo(40, 50)
    part = views.resize(image, (5, 6, 32, 32), (32, 32))
    assert np.array_equal(part, image[5:37, 6:38])
    assert not np.shares_memory(part, image)
    flipped = views.resize(image, (5, 6, 32, 32), (32, 32), flip=True)
    assert np.array_equal(flipped, image[5:37, 37:5:-1])


def test_crops_accept_arrays_that_cannot_be_written_to():
    image = np.asarray(Image.fromarray(_photo(40, 50)))
    assert not image.flags.writeable
    assert views.resize(image, (0, 0, 40, 50), (32, 32)).shape == (32, 32, 3)  # warnings are errors here


def test_mirroring_happens_as_often_as_asked():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (64, 64, 3))
    for probability, low, high in [(0.0, 0, 0), (0.5, 160, 240), (1.0, 400, 400)]:
        crop = RandomResizedCrop(16, flip=probability)
        rng = np.random.default_rng(0)
        mirrored = sum(int(view[0, 0, 0]) > int(view[0, -1, 0]) for view in (crop.crop(ramp, rng) for _ in range(400)))
        assert low <= mirrored <= high


def test_two_views_replace_the_image_and_are_a_function_of_the_generator():
    transform = pickle.loads(pickle.dumps(TwoViews(RandomResizedCrop(24), RandomResizedCrop(16, scale=(0.05, 0.2)))))
    sample = {"image": _photo(60, 70), "label": 3}
    once = transform(sample, Draw(np.random.default_rng(5)))
    again = transform(sample, Draw(np.random.default_rng(5)))
    other = transform(sample, Draw(np.random.default_rng(6)))
    assert sorted(once) == ["label", "view1", "view2"]
    assert once["view1"].shape == (24, 24, 3)
    assert once["view2"].shape == (16, 16, 3)
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert not np.array_equal(once["view1"], other["view1"])
    assert np.array_equal(sample["image"], _photo(60, 70))


@pytest.mark.parametrize("shape", [(100, 140), (141, 97), (40, 40), (20, 33)])
def test_evaluation_is_torchvisions_resize_and_central_crop(shape):
    image, size = _photo(*shape), 56
    resized = functional.resize(Image.fromarray(image), 64, functional.InterpolationMode.BICUBIC)
    expected = np.asarray(functional.center_crop(resized, size)).astype(int)
    ours = ResizeCenterCrop(size)({"image": image}, Draw(np.random.default_rng(0)))["image"]
    assert ours.shape == (size, size, 3)
    assert np.abs(ours - expected).max() <= 2
    assert np.abs(ours - expected).mean() < 0.05


def test_evaluation_leaves_images_of_the_right_size_untouched():
    image = _photo(32, 32)
    assert ResizeCenterCrop(32)({"image": image}, Draw(np.random.default_rng(0)))["image"] is image
    assert ResizeCenterCrop(32)({"image": _photo(32, 33)}, Draw(np.random.default_rng(0)))["image"].shape == (32, 32, 3)


# --- to floats and back


def test_normalisation_has_its_formula_and_the_layout_convolutions_want():
    images = _batch(3, 20)
    floats = views.to_float(images)
    expected = (images.numpy() / 255 - MEAN) / STD
    assert floats.dtype == torch.float32
    assert floats.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(floats.permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=1e-6)  # float32 of values below 3
    assert np.array_equal(views.to_pixels(floats), images.numpy())


# --- colours


def _operations(image: np.ndarray, u: np.ndarray, strength: tuple[float, float, float, float]) -> np.ndarray:
    """Jitter one operation after the other, pixel by pixel, in float64: the definition."""
    factors = [max(0.0, 1 - s) + (1 + s - max(0.0, 1 - s)) * v for s, v in zip(strength[:3], u[:3], strict=True)]
    turn = strength[3] * (2 * u[3] - 1)

    def gray(x: np.ndarray) -> np.ndarray:
        return (0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2])[..., None]

    def hue(x: np.ndarray) -> np.ndarray:
        y, i, q = np.moveaxis(color.rgb2yiq(x), -1, 0)
        angle = -2 * np.pi * turn
        i, q = np.cos(angle) * i - np.sin(angle) * q, np.sin(angle) * i + np.cos(angle) * q
        return color.yiq2rgb(np.stack([y, i, q], axis=-1))

    steps = [
        lambda x: factors[0] * x,
        lambda x: factors[1] * x + (1 - factors[1]) * gray(x).mean(),
        lambda x: factors[2] * x + (1 - factors[2]) * gray(x),
        hue,
    ]
    for number in np.argsort(u[4:8]):
        image = steps[number](image)
    return image


def _apply(matrix: Tensor, image: np.ndarray) -> np.ndarray:
    return image @ matrix[:, :3].double().numpy().T + matrix[:, 3].double().numpy()


@settings(max_examples=60, deadline=None)
@given(height=st.integers(8, 300), width=st.integers(8, 300), low=st.floats(0.05, 1), seed=st.integers(0, 999))
def test_no_part_of_an_image_that_is_large_enough_is_enlarged(height, width, low, seed):
    crop = RandomResizedCrop(24, scale=(low, 1.0))
    side, pixels = crop.needs()
    grow = math.ceil(max(side / min(height, width), math.sqrt(pixels / (height * width)), 1))
    *_, h, w = views.random_box(height * grow, width * grow, np.random.default_rng(seed), crop.scale, crop.ratio)
    assert min(h, w) >= crop.size  # sides are rounded to the nearest whole pixel


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::3])
def test_one_matrix_equals_the_operations_one_after_the_other_in_any_order(order):
    strength = (0.8, 0.7, 0.6, 0.3)
    u = torch.rand(5, 8, generator=torch.Generator().manual_seed(1))
    u[:, 4:] = torch.tensor(order) / 4
    pictures = np.random.default_rng(0).random((5, 7, 9, 3))
    mean = torch.from_numpy(pictures.mean((1, 2))).float()
    matrices = views.jitter_matrix(
        u, mean, brightness=strength[0], contrast=strength[1], saturation=strength[2], hue=strength[3]
    )
    for matrix, row, picture in zip(matrices, u.double().numpy(), pictures, strict=True):
        expected = _operations(picture, row, strength)
        assert np.allclose(_apply(matrix, picture), expected, rtol=0, atol=3e-6)  # matrices are float32


def test_jitter_of_no_strength_is_the_identity():
    matrices = views.jitter_matrix(torch.rand(9, 8), torch.rand(9, 3), brightness=0, contrast=0, saturation=0, hue=0)
    assert torch.allclose(matrices, torch.eye(3, 4).expand(9, 3, 4), atol=1e-6)
    images = _batch(4, 24)
    still = Photometric(jitter_p=1.0)(images, torch.arange(4))
    assert torch.allclose(still, views.to_float(images), atol=1e-5)


@pytest.mark.parametrize(("place", "name"), [(0, "brightness"), (1, "contrast"), (2, "saturation")])
def test_each_operation_is_torchvisions_where_nothing_is_clipped(place, name):
    picture = np.random.default_rng(0).uniform(0.3, 0.6, (8, 9, 3))
    u = torch.full((1, 8), 0.5)
    u[0, place] = 0.9
    strength = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, name: 0.5}
    matrix = views.jitter_matrix(u, torch.from_numpy(picture.mean((0, 1)))[None].float(), **strength)[0]
    adjust = getattr(functional, f"adjust_{name}")
    expected = adjust(torch.from_numpy(picture).permute(2, 0, 1), 1.4).permute(1, 2, 0).numpy()
    assert np.allclose(_apply(matrix, picture), expected, rtol=0, atol=3e-4)  # torchvision's luma has 4 digits


def test_hue_turns_from_red_to_green_and_keeps_luma():
    u = torch.full((1, 8), 0.5)
    u[0, 3] = 1.0
    matrix = views.jitter_matrix(u, torch.rand(1, 3), brightness=0, contrast=0, saturation=0, hue=1 / 3)[0]
    red = _apply(matrix, np.array([1.0, 0.0, 0.0]))
    assert red.argmax() == 1
    assert red @ [0.299, 0.587, 0.114] == pytest.approx(0.299, abs=1e-6)


def test_probabilities_are_met():
    config = Photometric(0.8, 0.8, 0.8, 0.2, jitter_p=0.8, gray_p=0.2)
    u = seeds.uniform(torch.arange(4000), (10,))
    matrices = config.matrix(u, torch.rand(4000, 3))[:, :, :3]
    is_gray = (matrices - matrices[:, :1]).abs().amax((1, 2)) < 1e-6
    untouched = (matrices - torch.eye(3)).abs().amax((1, 2)) < 1e-6
    # three standard deviations of a binomial share of 4000 are below 0.02
    assert is_gray.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert untouched.float().mean().item() == pytest.approx(0.2 * 0.8, abs=0.02)

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3), dtype=np.uint8))
    images, keys = images.expand(1000, -1, -1, -1), torch.arange(1000)
    plain = views.to_float(images)
    for name, share in [("blur_p", 0.5), ("solarize_p", 0.2)]:
        changed = (Photometric(**{name: share}, sigma=(1.0, 2.0))(images, keys) - plain).abs().amax((1, 2, 3)) > 1e-2
        assert changed.float().mean().item() == pytest.approx(share, abs=0.05)


# --- blur, solarise


@pytest.mark.parametrize("radius", [1, 6])
def test_blur_is_scipys_gaussian_with_mirrored_borders(radius):
    images, sigma = torch.rand(4, 3, 15, 22), torch.tensor([0.1, 0.7, 1.3, 2.0])
    blurred = views.blur(images, sigma, radius)
    for image, width, ours in zip(images.double().numpy(), sigma.tolist(), blurred, strict=True):
        expected = ndimage.gaussian_filter(image, width, mode="mirror", radius=radius, axes=(1, 2))
        assert np.allclose(ours.numpy(), expected, rtol=0, atol=1e-6)


def test_blur_of_no_width_is_the_identity_and_weights_sum_to_one():
    images = torch.rand(2, 3, 9, 9)
    assert torch.equal(views.blur(images, torch.zeros(2), 3), images)
    weights = views.gaussian_kernel(torch.linspace(0, 5, 11, dtype=torch.float64), 8)
    assert torch.allclose(weights.sum(1), torch.ones(11, dtype=torch.float64))
    assert not ((weights > 0) & (weights < 1e-30)).any()  # denormal numbers are slow


def test_solarise_is_pils():
    image = _photo(20, 20)
    ours = views.solarize(torch.from_numpy(image).float(), threshold=128, total=255)
    assert np.array_equal(ours.numpy(), np.asarray(ImageOps.solarize(Image.fromarray(image), 128)))


# --- all of it


@pytest.mark.parametrize("stream", [0, 7])
def test_the_batch_gets_what_each_image_gets_step_by_step(stream):
    config = Photometric(0.8, 0.8, 0.8, 0.2, jitter_p=0.7, gray_p=0.3, blur_p=0.6, solarize_p=0.4)
    images, keys = _batch(24, 60), torch.arange(24) * 7919
    u = seeds.uniform(keys, (13,), stream).double().numpy()
    radius = 3  # a kernel of a tenth of 60 pixels, made odd
    ours = config(images, keys, stream).permute(0, 2, 3, 1).numpy()
    for image, row, result in zip(images.double().numpy() / 255, u, ours, strict=True):
        if row[8] < 0.7:
            image = _operations(image, row, (0.8, 0.8, 0.8, 0.2))
        if row[9] < 0.3:
            image = np.repeat((image @ [0.299, 0.587, 0.114])[..., None], 3, axis=-1)
        image = image.clip(0, 1)
        if row[10] < 0.6:
            sigma = 0.1 + 1.9 * row[11]
            image = ndimage.gaussian_filter(image, sigma, mode="mirror", radius=radius, axes=(0, 1))
        if row[12] < 0.4:
            near = np.abs(image - 0.5) < 1e-5  # the last bit decides which side of the threshold these are on
            image = np.where(image >= 0.5, 1 - image, image)
            result = np.where(near, (image - MEAN) / STD, result)
        assert np.allclose(result, (image - MEAN) / STD, rtol=0, atol=5e-5)


@pytest.mark.parametrize("config", [Photometric.simclr(), Photometric.moco(), *Photometric.byol()])
def test_an_image_is_augmented_the_same_in_whatever_batch_it_is(config):
    images, keys = _batch(20, 40), torch.arange(20) + 100
    whole = config(images, keys, stream=2)
    assert torch.equal(whole, config(images, keys, stream=2))
    assert not torch.allclose(whole, config(images, keys, stream=3))
    assert not torch.allclose(whole, config(images, keys + 1, stream=2))
    shuffled = torch.randperm(20)
    assert torch.allclose(config(images[shuffled], keys[shuffled], stream=2), whole[shuffled], atol=2e-6)
    single = torch.cat([config(images[i : i + 1], keys[i : i + 1], stream=2) for i in range(20)])
    assert torch.allclose(single, whole, atol=2e-6)


@pytest.mark.parametrize("config", [Photometric.simclr(), Photometric.byol()[1], Photometric(blur_p=1.0)])
def test_other_devices_get_what_a_cpu_gets(config):
    images, keys = _batch(20, 60), torch.arange(20)
    u = seeds.uniform(keys, (13,), 3)
    on_device = torch.empty(images.shape)
    matrices = config._normalising(config.matrix(u[:, :10], images.double().mean((1, 2)).float() / 255))
    config._on_device(images, matrices, u, out=on_device)
    far = (on_device - config(images, keys, stream=3).permute(0, 2, 3, 1)).abs() > 1e-5
    assert far.float().mean() <= (1e-3 if config.solarize_p else 0)  # the last bit decides who is above the threshold


def test_a_pair_is_its_two_views_whatever_their_sizes():
    config, keys = Photometric.simclr(), torch.arange(6)
    batch = {"view1": _batch(6, 60), "view2": _batch(6, 32), "key": keys}
    first, second = config.pair(batch)
    assert torch.allclose(first, config(batch["view1"], keys, stream=1), atol=2e-6)
    assert torch.allclose(second, config(batch["view2"], keys, stream=2), atol=2e-6)


def test_large_batches_are_split_without_a_trace():
    images, keys = _batch(20, 40).repeat(30, 1, 1, 1), torch.arange(600)  # more pixels than are worked on at once
    whole = Photometric.simclr()(images, keys)
    part = slice(490, 515)
    assert torch.allclose(Photometric.simclr()(images[part], keys[part]), whole[part], atol=2e-6)


def test_values_stay_between_black_and_white_and_channels_last():
    result = Photometric.byol()[1](_batch(16, 32), torch.arange(16))
    low, high = (torch.tensor((limit - MEAN) / STD).float()[:, None, None] for limit in (0.0, 1.0))
    assert (result >= low - 1e-5).all()
    assert (result <= high + 1e-5).all()
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_reduced_precision_of_training_does_not_reach_the_augmentation():
    images, keys = _batch(6, 32), torch.arange(6)
    config = Photometric.simclr()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = config(images, keys)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, config(images, keys))


def test_stronger_settings_change_images_more():
    images, keys = _batch(16, 32), torch.arange(16)
    plain = views.to_float(images)
    distance = [
        (Photometric.simclr(strength, blur=0.0)(images, keys) - plain).square().mean().item()
        for strength in (0.1, 0.5, 1.0)
    ]
    assert distance == sorted(distance)
    assert distance[0] > 0


# --- encoders


def test_an_encoder_that_is_none_for_images_is_refused_by_name():
    encoder = nn.Linear(3, 4)
    with pytest.raises(UsageError, match=r"Linear offers no `dim`.*unlabel list encoders"):
        views.input_size(encoder)
    encoder.dim = 4
    with pytest.raises(UsageError, match="Linear offers no `image_size`"):
        views.input_size(encoder)
    encoder.image_size = 32
    assert views.input_size(encoder) == 32


def test_presets_have_the_published_strengths():
    assert Photometric.simclr(0.5).saturation == pytest.approx(0.4)
    assert Photometric.simclr(0.5).hue == pytest.approx(0.1)
    assert Photometric.moco().hue == 0.1
    first, second = Photometric.byol()
    assert (first.blur_p, first.solarize_p, second.blur_p, second.solarize_p) == (1.0, 0.0, 0.1, 0.2)
    assert math.isclose(first.saturation, 0.2)
