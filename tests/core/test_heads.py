"""Projectors and predictors: the published shapes, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabel.errors import UsageError
from unlabel.nn import heads


def _layout(head: nn.Sequential) -> list[str]:
    """Each layer in a word: l = linear, L = linear with bias, b = batch norm, B = with scale and shift, r = ReLU."""
    words = []
    for layer in head:
        match layer:
            case nn.Linear():
                words.append("l" if layer.bias is None else "L")
            case nn.BatchNorm1d():
                words.append("B" if layer.affine else "b")
            case nn.ReLU():
                words.append("r")
    return words


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        ({}, "lBrL"),
        ({"norm": "none"}, "LrL"),
        ({"bias": True}, "LBrL"),
        ({"layers": 3, "last_norm": "plain"}, "lBrlBrlb"),
        ({"layers": 3, "last_norm": "affine"}, "lBrlBrlB"),
        ({"bias": False, "last_norm": "plain"}, "lBrlb"),
        ({"layers": 1}, "L"),
        ({"layers": 1, "bias": False}, "l"),
    ],
)
def test_layers_come_in_the_published_order(options, layout):
    head = heads.mlp(12, 32, 8, **options)
    assert "".join(_layout(head)) == layout
    assert head(torch.randn(4, 12)).shape == (4, 8)


def test_widths_are_input_hidden_output():
    linear = [layer for layer in heads.mlp(12, 32, 8, layers=4) if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(12, 32), (32, 32), (32, 32), (32, 8)]


def test_a_last_norm_without_scale_gives_standardised_outputs():
    out = heads.mlp(12, 32, 8, layers=3, last_norm="plain")(torch.randn(256, 12) * 5 + 3)
    assert torch.allclose(out.mean(0), torch.zeros(8), atol=1e-5)
    assert torch.allclose(out.var(0, unbiased=False), torch.ones(8), atol=1e-2)  # batch norm's eps of 1e-5


def test_every_parameter_gets_a_gradient():
    head = heads.mlp(12, 32, 8, layers=3, last_norm="affine", bias=False)
    (head(torch.randn(16, 12)) ** 3).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("options", [{"layers": 0}, {"norm": "layer"}, {"last_norm": "batch"}])
def test_unknown_shapes_are_refused(options):
    with pytest.raises(UsageError):
        heads.mlp(12, 32, 8, **options)
