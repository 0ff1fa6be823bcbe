"""The encoder: what sees what, which rows of the table are used, its start, and dropout."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel_trajectory.dropout import dropout
from unlabel_trajectory.encoders.gpt import TrackGPT, _spelt_out, require_gpt


def encoder(**options: float) -> TrackGPT:
    seeds.seed(0)
    return TrackGPT(**{"dim": 16, "depth": 2, "heads": 4, "hidden": 24, **options})


def tracks(count: int = 5, length: int = 19) -> torch.Tensor:
    return torch.randn(count, length, 2, generator=torch.Generator().manual_seed(1))


def features(model: TrackGPT, track: torch.Tensor, causal: bool, wanted: slice | None = None) -> torch.Tensor:
    return model.transform(model.tokens(track), range(1, track.shape[1] + 1), causal=causal, wanted=wanted)


def test_looking_back_a_later_step_changes_nothing_before_it() -> None:
    model, track = encoder().eval(), tracks()
    before = features(model, track, causal=True)
    for step in range(19):
        changed = track.clone()
        changed[:, step] += 1
        after = features(model, changed, causal=True)
        assert torch.equal(after[:, :step], before[:, :step])
        assert not torch.isclose(after[:, step], before[:, step]).all(-1).any()


def test_looking_around_every_step_changes_every_feature() -> None:
    model, track = encoder().eval(), tracks()
    before = features(model, track, causal=False)
    for step in (0, 7, 18):
        changed = track.clone()
        changed[:, step] += 1
        assert ((features(model, changed, causal=False) - before).abs().amax(-1) > 0).all()


def test_one_network_looks_back_after_it_looked_around() -> None:
    """What may be seen is given with each call; nothing is left behind in the network."""
    model, track = encoder().eval(), tracks()
    before = features(model, track, causal=True)
    features(model, track, causal=False)
    assert torch.equal(features(model, track, causal=True), before)
    assert not dict(model.named_buffers())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("wanted", [slice(-1, None), slice(7, None)])
@pytest.mark.parametrize("training", [False, True])
def test_features_not_wanted_are_left_out_and_the_others_stay(causal: bool, wanted: slice, training: bool) -> None:
    model = encoder(dropout=0.0).train(training)
    whole = features(model, tracks(), causal)
    assert torch.allclose(features(model, tracks(), causal, wanted), whole[:, wanted], atol=1e-6)


def test_a_part_in_the_middle_may_be_wanted_when_looking_around() -> None:
    model = encoder().eval()
    whole = features(model, tracks(length=20), causal=False)
    part = features(model, tracks(length=20), causal=False, wanted=slice(7, 19))
    assert torch.allclose(part, whole[:, 7:19], atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_many_ends_at_once_are_each_end_by_itself(depth: int) -> None:
    """Also where attention is sharp: weights far from their start, in float64."""
    model = encoder(depth=depth).eval().double()
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    tokens, ends = torch.randn(3, 9, 16).double(), torch.randn(3, 4, 16).double()
    found = model.of_many_ends(tokens, ends, wanted=slice(2, 9))
    assert found.shape == (12, 7, 16)
    for track in range(3):
        for end in range(4):
            whole = torch.cat([tokens[track], ends[track, end : end + 1]])[None]
            alone = model.transform(whole, range(1, 11), causal=False, wanted=slice(2, 9))
            assert torch.allclose(found[4 * track + end], alone[0], rtol=1e-9, atol=1e-9)


def test_the_feature_of_a_track_is_that_of_its_last_position() -> None:
    model = encoder().eval()
    assert torch.allclose(model(tracks()), features(model, tracks(), causal=True)[:, -1], atol=1e-6)


def test_only_the_rows_of_the_steps_are_used() -> None:
    model = encoder()
    model.transform(model.tokens(tracks(length=9)), [*range(1, 9), 19], causal=True).sum().backward()
    used = model.positions.grad.abs().sum(1).nonzero().flatten().tolist()
    assert used == [*range(1, 9), 19]


@pytest.mark.parametrize("masked", [False, True])
def test_attention_spelt_out_is_the_fused_one(masked: bool) -> None:
    query, key, value = torch.randn(3, 2, 4, 7, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    mask = torch.ones(7, 7, dtype=torch.bool).tril() if masked else None
    fused = functional.scaled_dot_product_attention(query, key, value, mask)
    assert torch.allclose(_spelt_out(query, key, value, mask, 0.0), fused, atol=1e-6)


def test_dropout_drops_its_share_and_keeps_the_expectation() -> None:
    seeds.seed(3)
    values = torch.ones(1001, 1003, requires_grad=True)
    dropped = dropout(values, 0.1, True)
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(0.1, abs=4 * (0.09 / dropped.numel()) ** 0.5)  # four standard errors
    assert dropped.mean().item() == pytest.approx(1, abs=2e-3)
    assert dropped.max().item() == pytest.approx(1 / 0.9, rel=1e-4)  # the probability is a multiple of 2^-16
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())
    assert (torch.corrcoef((dropped.detach()[:, :4] == 0).double().T) - torch.eye(4)).abs().max() < 0.15


def test_dropout_is_a_function_of_the_seed_and_absent_in_evaluation() -> None:
    values = torch.randn(7, 9)
    seeds.seed(5)
    first = dropout(values, 0.5, True)
    seeds.seed(5)
    assert torch.equal(dropout(values, 0.5, True), first)
    assert not torch.equal(dropout(values, 0.5, True), first)
    assert dropout(values, 0.5, False) is values
    assert dropout(values, 0.0, True) is values


def test_the_start_is_the_published_one() -> None:
    model = encoder(dim=128, depth=3, hidden=None)
    deviation = {name: parameter.std().item() for name, parameter in model.named_parameters()}
    assert deviation["positions"] == pytest.approx(0.02, rel=0.02)
    assert deviation["blocks.1.attn.qkv.weight"] == pytest.approx(0.02, rel=0.02)
    assert deviation["blocks.1.attn.proj.weight"] == pytest.approx(0.02 / 6**0.5, rel=0.02)
    assert deviation["blocks.1.fc2.weight"] == pytest.approx(0.02, rel=0.02)
    assert all(not parameter.any() for name, parameter in model.named_parameters() if name.endswith("fc1.bias"))
    assert deviation["input.weight"] > 0.2  # torch's own start, uniform within 1 / sqrt(2)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == pytest.approx(0.61e6, rel=0.01)


def test_positions_are_never_rounded_to_bfloat16() -> None:
    model = encoder().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = model.tokens(tracks())
    assert torch.equal(tokens, model.tokens(tracks()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 18}, "encoder.dim=18 must be a multiple of heads=4"),
        ({"depth": 0}, "encoder.depth=0 is too small"),
        ({"dropout": 1.0}, "encoder.dropout=1.0 is outside"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder(**options)


def test_another_encoder_is_refused_with_what_fits() -> None:
    with pytest.raises(UsageError, match=r"which Linear cannot take; what fits: --encoder trajectory/gpt"):
        require_gpt(torch.nn.Linear(2, 2), "trajectory/ppt")
