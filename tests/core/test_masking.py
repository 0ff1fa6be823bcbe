"""Masks: the published indices, exactly the ratio, nothing lost on the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unlabel.errors import UsageError
from unlabel.nn import masking


@pytest.mark.parametrize("ratio", [0.75, 0.6, 0.5, 0.9])
def test_masks_match_the_published_ones(shared, ratio):
    data = np.load(shared / "golden/vision-mae/masking.npz")
    mask = masking.from_noise(torch.from_numpy(data["in/noise"]), ratio)
    assert np.array_equal(mask.restore.numpy(), data[f"out/r{ratio}/ids_restore"])
    assert np.array_equal(mask.mask.numpy(), data[f"out/r{ratio}/mask"])
    taken = masking.take(torch.from_numpy(data["in/x"]), mask.keep)
    assert np.array_equal(taken.numpy(), data[f"out/r{ratio}/x_masked"])


@pytest.mark.parametrize("colour", ["white", "red_s2.0", "blue_s2.0", "green_s0.5_s2.0", "purple_s0.5_s2.0"])
@pytest.mark.parametrize("ratio", [0.75, 0.6])
def test_descending_masks_match_the_published_ones(shared, colour, ratio):
    data = np.load(shared / "golden/vision-colormae/masks_from_windows.npz")
    noise = torch.from_numpy(data[f"in/{colour}/window"]).flatten(1)
    mask = masking.from_noise(noise, ratio, descending=True)
    assert np.array_equal(mask.keep.numpy(), data[f"out/{colour}/r{ratio}/ids_keep"])
    assert np.array_equal(mask.restore.numpy(), data[f"out/{colour}/r{ratio}/ids_restore"])
    assert np.array_equal(mask.mask.numpy(), data[f"out/{colour}/r{ratio}/mask"])


@settings(max_examples=50, deadline=None)
@given(length=st.integers(2, 60), ratio=st.floats(0.02, 0.98), seed=st.integers(0, 99), descending=st.booleans())
def test_mask_hides_exactly_the_ratio_and_restores_the_rest(length, ratio, seed, descending):
    kept = int(length * (1 - ratio))
    assume(0 < kept < length)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, length, generator=generator)
    tokens = torch.randn(3, length, 5, generator=generator)
    mask = masking.from_noise(noise, ratio, descending)
    assert mask.keep.shape == (3, kept)
    assert torch.equal(mask.mask.sum(1), torch.full((3,), float(length - kept)))

    token = torch.full((1, 1, 5), 7.0)
    back = masking.restore(masking.take(tokens, mask.keep), token, mask.restore)
    hidden = mask.mask[:, :, None].bool()
    assert torch.equal(back, torch.where(hidden, token, tokens))
    visible, removed = noise[mask.mask == 0].reshape(3, -1), noise[mask.mask == 1].reshape(3, -1)
    if descending:
        assert (visible.amin(1) >= removed.amax(1)).all()
    else:
        assert (visible.amax(1) <= removed.amin(1)).all()


def test_every_position_is_visible_equally_often():
    generator = torch.Generator().manual_seed(0)
    mask = masking.from_noise(torch.rand(20000, 16, generator=generator), 0.75).mask
    # one standard error of a share of .25 over 20,000 draws is .0031; 16 positions: 4.5 of them
    assert (mask.mean(0) - 0.75).abs().max() < 0.014


def test_equal_noise_keeps_its_order():
    mask = masking.from_noise(torch.zeros(1, 8), 0.5)
    assert mask.keep.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("length", "ratio", "kept"), [(100, 0.9, 9), (196, 0.9, 19), (49, 0.6, 19), (196, 0.75, 49)])
def test_the_number_kept_is_truncated_as_published(length, ratio, kept):
    assert masking.kept_count(length, ratio) == kept


@pytest.mark.parametrize(("length", "ratio"), [(16, 0.0), (16, 1.0), (16, 1.2), (16, -0.1), (4, 0.9), (16, 1e-17)])
def test_ratios_that_hide_nothing_or_everything_are_refused(length, ratio):
    with pytest.raises(UsageError, match="mask ratio"):
        masking.from_noise(torch.rand(2, length), ratio)


def test_the_order_starts_with_what_stays_and_restore_undoes_it():
    noise = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    for kept in (0, 5, 12):
        mask = masking.split(noise, kept)
        assert mask.keep.shape == (3, kept)
        assert torch.equal(mask.order[:, :kept], mask.keep)
        assert torch.equal(mask.order.gather(1, mask.restore), torch.arange(12).expand(3, 12))
        assert torch.equal(mask.mask.sum(1), torch.full((3,), 12.0 - kept))


@pytest.mark.parametrize(("ratio", "counts"), [(0.0, (20, 15, 1)), (0.5, (10, 8, 1)), (0.3, (14, 11, 1))])
def test_context_is_what_a_truncated_share_leaves_of_each_length(ratio, counts):
    noise = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([20, 15, 1])
    valid = torch.arange(20) < lengths[:, None]
    found = masking.context(noise, ratio, valid)
    assert tuple(found.sum(1).tolist()) == counts == tuple(n - int(ratio * n) for n in lengths.tolist())
    assert not (found & ~valid).any()
    for sample in range(3):
        inside, outside = noise[sample][found[sample]], noise[sample][valid[sample] & ~found[sample]]
        assert len(outside) == 0 or inside.max() < outside.min()
    assert torch.equal(masking.context(noise[:1], ratio), found[:1])


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_a_context_without_tokens_is_refused(ratio):
    with pytest.raises(UsageError, match="at least one token must be context"):
        masking.context(torch.rand(1, 4), ratio)


def test_gradients_reach_visible_tokens_and_the_mask_token_only():
    tokens = torch.randn(2, 8, 3, requires_grad=True)
    token = torch.zeros(1, 1, 3, requires_grad=True)
    mask = masking.from_noise(torch.rand(2, 8), 0.75)
    masking.restore(masking.take(tokens, mask.keep), token, mask.restore).sum().backward()
    assert torch.equal(tokens.grad, (1 - mask.mask)[:, :, None].expand(-1, -1, 3))
    assert torch.equal(token.grad, torch.full((1, 1, 3), 12.0))


def test_restore_takes_the_precision_of_the_tokens():
    mask = masking.from_noise(torch.rand(2, 8), 0.75)
    kept = torch.randn(2, 2, 3, dtype=torch.bfloat16)
    assert masking.restore(kept, torch.zeros(1, 1, 3), mask.restore).dtype == torch.bfloat16
