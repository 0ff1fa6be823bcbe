"""Patches: the published order, exact inverses, unbiased normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabel.errors import UsageError
from unlabel.nn import patches


def test_order_matches_the_published_one(shared):
    data = np.load(shared / "golden/vision-mae/patchify.npz")
    ours = patches.patchify(torch.from_numpy(data["in/imgs"]), 8)
    assert np.array_equal(ours.numpy(), data["out/patches_p8"])


def test_values_are_ordered_row_then_column_then_channel():
    values = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    cut = patches.patchify(values, (2, 3))
    for sample in range(2):
        for place in range(4):
            top, left = 2 * (place // 2), 3 * (place % 2)
            expected = [
                int(values[sample, channel, top + row, left + column])
                for row in range(2)
                for column in range(3)
                for channel in range(3)
            ]
            assert cut[sample, place].tolist() == expected


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    lengths=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    channels=st.integers(1, 3),
)
def test_unpatchify_is_the_inverse_for_any_number_of_axes(steps, lengths, channels):
    patch = lengths[: len(steps)]
    size = [step * length for step, length in zip(steps, patch, strict=True)]
    values = torch.rand(2, channels, *size)
    cut = patches.patchify(values, patch)
    assert cut.shape == (2, int(np.prod(steps)), int(np.prod(patch)) * channels)
    assert torch.equal(patches.unpatchify(cut, patch, size), values)


@pytest.mark.parametrize(("size", "patch"), [((32, 30), 8), ((8, 8), 0), ((8, 8), (2, 2, 2)), ((8, 8), 16)])
def test_patches_that_do_not_tile_are_refused(size, patch):
    with pytest.raises(UsageError):
        patches.patchify(torch.zeros(1, 3, *size), patch)


def test_a_wrong_number_of_patches_is_refused():
    with pytest.raises(UsageError, match="expected 16 patches"):
        patches.unpatchify(torch.zeros(2, 15, 192), 8, (32, 32))


def test_normalisation_uses_the_unbiased_variance_and_can_be_undone():
    cut = torch.rand(4, 9, 48, dtype=torch.float64) * 7 - 2
    normal = patches.normalize_patches(cut)
    assert torch.allclose((normal.values**2).mean(), torch.tensor(47 / 48, dtype=torch.float64), rtol=1e-5)
    expected = (cut.numpy() - cut.numpy().mean(-1, keepdims=True)) / np.sqrt(
        cut.numpy().var(-1, ddof=1, keepdims=True) + 1e-6
    )
    assert np.allclose(normal.values.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(normal.values * normal.std + normal.mean, cut, rtol=1e-12)


def test_a_constant_patch_becomes_zeros():
    normal = patches.normalize_patches(torch.full((1, 1, 48), 0.3))
    assert torch.isfinite(normal.values).all()
    assert normal.values.abs().max() < 1e-3  # float32 rounding of the mean, divided by sqrt(1e-6)


def test_loss_on_normalised_and_raw_patches_matches_golden(shared):
    data = np.load(shared / "golden/vision-mae/loss.npz")
    target = patches.patchify(torch.from_numpy(data["in/imgs"]), 8)
    prediction, mask = torch.from_numpy(data["in/pred"]), torch.from_numpy(data["in/mask"])
    for name, goal in (("norm_pix", patches.normalize_patches(target).values), ("raw", target)):
        error = ((prediction - goal) ** 2).mean(-1)
        ratio = (error * mask).sum() / mask.sum()
        assert np.allclose(ratio, data[f"out/loss_{name}"], rtol=1e-4, atol=2e-5)
