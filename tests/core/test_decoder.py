"""The decoder of masked autoencoders: it sees what was encoded and where, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabel.nn import masking, positions
from unlabel.nn.decoder import Decoder

GRIDS = [(12,), (3, 4), (2, 2, 3)]


def decoder(grid=(3, 4), class_token: bool = True) -> Decoder:
    torch.manual_seed(0)
    made = Decoder(10, grid, 5, 12, 2, 3, class_token=class_token)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made


def noise() -> torch.Tensor:
    return torch.rand(2, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("grid", GRIDS)
def test_every_token_is_predicted_from_its_place_in_the_sequence(grid, class_token):
    made, mask = decoder(grid, class_token), masking.from_noise(noise(), 0.75)
    encoded = torch.randn(2, class_token + 3, 10)
    prediction = made(encoded, mask.restore)
    assert prediction.shape == (2, 12, 5)

    # by hand: a sequence of mask tokens in which the visible ones are put where they came from
    sequence = made.mask_token.expand(2, 12, 12).clone()
    embedded = made.embed(encoded)
    for sample in range(2):
        for number, place in enumerate(mask.keep[sample].tolist()):
            sequence[sample, place] = embedded[sample, class_token + number]
    sequence = torch.cat([embedded[:, :class_token], sequence], dim=1)
    assert torch.allclose(made.decode(sequence), prediction, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("class_token", [True, False])
def test_wanted_tokens_are_predicted_as_among_all(class_token):
    made, mask = decoder(class_token=class_token), masking.from_noise(noise(), 0.75)
    encoded, hidden = torch.randn(2, class_token + 3, 10), mask.order[:, 3:]
    whole, part = made(encoded, mask.restore), made(encoded, mask.restore, hidden)
    assert torch.allclose(masking.take(whole, hidden), part, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_positions_are_the_fixed_table_and_are_not_saved(grid):
    made = decoder(grid)
    assert torch.equal(made.positions, positions.sincos(12, grid, class_row=True))
    assert not any("positions" in name for name in made.state_dict())
    assert torch.equal(decoder(grid, class_token=False).positions, made.positions[1:])


def test_without_positions_hidden_tokens_would_be_alike():
    made, mask = decoder(), masking.from_noise(noise(), 0.75)
    encoded = torch.randn(2, 4, 10)
    hidden = made(encoded, mask.restore)[mask.mask == 1]
    assert (hidden - hidden[0]).abs().amax(1)[1:].min() > 1e-4
    made.positions.zero_()
    hidden = made(encoded, mask.restore)[0][mask.mask[0] == 1]
    assert torch.allclose(hidden, hidden[:1].expand_as(hidden), rtol=0, atol=1e-6)


def test_gradients_reach_every_weight():
    made, mask = decoder(), masking.from_noise(noise(), 0.75)
    made(torch.randn(2, 4, 10), mask.restore).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters())
