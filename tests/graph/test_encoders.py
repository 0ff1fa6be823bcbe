"""Encoders: the layers are torch-geometric's, with its parameter names, on dense and on sparse attributes."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from networks import FEATURES, batch_of, blocks, both
from torch import Tensor, nn

from unlabel.errors import UsageError
from unlabel_graph import attributes, propagation
from unlabel_graph.encoders import gat, gcn, gin, sage
from unlabel_graph.encoders.layers import Encoder, dropout
from unlabel_graph.sparse import Sparse, Standardised, cache_last

FACTORIES: dict[str, Callable[..., Encoder]] = {"gcn": gcn.gcn, "sage": sage.sage, "gat": gat.gat, "gin": gin.gin}


def _geometric(kind: str, width: int, out: int) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):
        from torch_geometric import nn as geometric
    if kind == "gin":
        perceptron = geometric.MLP([width, out, out], norm=None, act="relu")
        return geometric.GINConv(perceptron)
    return {
        "gcn": lambda: geometric.GCNConv(width, out),
        "sage": lambda: geometric.SAGEConv(width, out),
        "gat": lambda: geometric.GATConv(width, out // 4, heads=4),
    }[kind]()


def _graph(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Attributes of which most are 0, and edges without self-loops; node 29 is isolated."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(30, FEATURES, generator=draw) * (torch.rand(30, FEATURES, generator=draw) < 0.2)
    first, second = torch.randint(29, (2, 60), generator=draw)
    edges = both(first, second)[:, (first != second).repeat(2)].unique(dim=1)
    return x, propagation.in_order(edges, 30)


def _sparse(x: Tensor) -> Sparse:
    entries = x.nonzero(as_tuple=True)
    return Sparse.of(*entries, x[entries], x.shape)


def _made(kind: str, **options: object) -> Encoder:
    torch.manual_seed(3)
    more = {"heads": 4} if kind == "gat" else {}
    return FACTORIES[kind](**{"features": FEATURES, "widths": (8,), "norm": "none", **more, **options})


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACTORIES)
def test_a_layer_is_that_of_torch_geometric(kind: str) -> None:
    x, edges = _graph()
    ours, theirs = _made(kind).convs[0], _geometric(kind, FEATURES, 8)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    theirs.load_state_dict(ours.state_dict())  # strict: the same names and shapes

    structure = _made(kind)._make(edges, 30)
    expected = theirs(x, edges)
    for given in (x, _sparse(x)):
        found = ours(given, structure)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    weights = torch.randn(30, 8, generator=torch.Generator().manual_seed(2))
    gradients = []
    for output, module in ((ours(_sparse(x), structure), ours), (expected, theirs)):
        (output * weights).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in module.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", FACTORIES)
def test_two_layers_of_different_widths_run_on_a_graph_with_an_isolated_node(kind: str) -> None:
    x, edges = _graph()
    encoder = _made(kind, widths=(12, 8), norm="layer", activation="prelu", dropout=0.3).eval()
    assert encoder.dim == 8
    found = encoder(_sparse(x), edges)
    assert found.shape == (30, 8)
    assert found.isfinite().all()
    torch.testing.assert_close(found, encoder(x, edges), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", FACTORIES)
def test_a_node_hears_from_as_many_hops_as_there_are_layers(kind: str) -> None:
    line = both(torch.arange(5), torch.arange(1, 6))
    x = torch.rand(6, FEATURES, requires_grad=True)
    encoder = _made(kind, widths=(8, 8), activation="elu")
    encoder(x, propagation.in_order(line, 6))[0].sum().backward()
    heard = x.grad.abs().sum(dim=1) > 0
    assert heard.tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize("scaling", ["row", "raw", "standard"])
def test_scaled_sparse_attributes_are_the_scaled_dense_ones(scaling: attributes.Scaling) -> None:
    x, _ = _graph()
    x[:, 3] = 0  # a constant column, and a row of zeros
    x[7] = 0
    dense, sparse = attributes.scaled(x, scaling), attributes.scaled(_sparse(x), scaling)
    torch.testing.assert_close(sparse.dense(), dense, atol=1e-5, rtol=1e-5)
    weights = torch.randn(FEATURES, 4, requires_grad=True)
    torch.testing.assert_close(sparse @ weights, dense @ weights, atol=1e-4, rtol=1e-4)
    rows = torch.tensor([4, 7, 4])
    torch.testing.assert_close(sparse.rows(rows).dense(), dense[rows], atol=1e-5, rtol=1e-5)
    if scaling == "row":
        torch.testing.assert_close(dense.sum(dim=1), (x.sum(dim=1) > 0).float())
    if scaling == "standard":
        assert isinstance(sparse, Standardised)
        torch.testing.assert_close(dense.std(dim=0, unbiased=False)[:3], torch.ones(3), atol=1e-4, rtol=0)


def test_encoder_inputs_are_computed_once_for_a_graph() -> None:
    batch = batch_of(blocks())
    encoder = _made("gcn")
    assert encoder.inputs(batch) is encoder.inputs(dict(batch))
    other = batch_of(blocks(seed=1))
    assert encoder.inputs(other) is not encoder.inputs(batch)


def test_a_function_remembers_only_the_very_same_arguments() -> None:
    calls = []
    remembered = cache_last(lambda tensor, number: calls.append(number))
    one, same = torch.zeros(3), torch.zeros(3)
    for tensor, number in ((one, 1000), (one, 500 + 500), (same, 1000), (same, 1001)):
        remembered(tensor, number)
    assert calls == [1000, 1000, 1001]


def test_symmetric_normalisation_counts_a_self_loop_of_the_graph_twice() -> None:
    """Once in the degree and, with the added one, twice on the diagonal."""
    edges = torch.tensor([[0, 1, 0], [1, 0, 0]])  # 0 - 1, and a loop at 0
    found = propagation.symmetric(edges, 2).dense()
    expected = torch.tensor([[2 / 3, 1 / 6**0.5], [1 / 6**0.5, 1 / 2]])
    torch.testing.assert_close(found, expected)


def test_degrees_of_the_given_edges_normalise_and_no_loop_is_added() -> None:
    edges = torch.tensor([[0, 1, 2, 0], [1, 2, 2, 2]])
    found = propagation.directed(edges, 4).dense()
    assert not found[0].any()
    assert not found[3].any()
    torch.testing.assert_close(found[2], torch.tensor([1 / (2 * 3) ** 0.5, 1 / 3**0.5, 1 / 3**0.5, 0]))


def test_wide_sparse_products_in_blocks_are_the_product() -> None:
    draw = torch.Generator().manual_seed(0)
    wide = torch.rand(3, 9000, generator=draw) * (torch.rand(3, 9000, generator=draw) < 0.3)
    sparse = _sparse(wide)
    assert len(sparse._blocks) == 5
    dense = torch.randn(9000, 2, generator=draw)
    torch.testing.assert_close(sparse.times(dense), wide @ dense, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(sparse.transposed.dense(), wide.T)


def test_dropout_drops_the_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    ones = torch.ones(300, 301)  # no multiple of four
    for probability in (0.5, 0.3):
        dropped = dropout(ones, probability, True)
        share = float((dropped == 0).float().mean())
        assert abs(share - probability) < 5 * (0.25 / ones.numel()) ** 0.5
        torch.testing.assert_close(dropped[dropped > 0].unique(), torch.tensor([1 / (1 - probability)]))
    assert dropout(ones, 0.5, False) is ones
    first = dropout(ones, 0.5, True)
    torch.manual_seed(0)
    assert not torch.equal(first, dropout(ones, 0.5, True))
    leaf = ones.clone().requires_grad_()
    torch.manual_seed(1)
    found = dropout(leaf, 0.5, True)
    found.sum().backward()
    assert torch.equal(leaf.grad, found.detach())


def test_what_cannot_be_built_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"give --set encoder\.features=NUMBER"):
        gcn.gcn()
    with pytest.raises(UsageError, match="12 is no multiple of the 8 heads"):
        gat.gat(features=3, widths=(12,))
