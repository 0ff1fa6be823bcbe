"""The pure functions of SelfTask's pretext tasks against vectors made with the authors' code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlabel_graph import hops, pairs, propagation
from unlabel_graph.encoders.gcn import Convolution
from unlabel_graph.sparse import Sparse
from unlabel_graph.tasks import attribute_mask, edge_mask, node_property


def _case(shared: Path, name: str) -> dict[str, Any]:
    with np.load(shared / "golden/graph-selftask" / f"{name}.npz", allow_pickle=False) as case:
        return {
            key: torch.from_numpy(value).long() if value.dtype.kind == "i" else torch.from_numpy(np.asarray(value))
            for key, value in case.items()
        }


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight, "bias": bias})
    return head


def test_gcn_forward(shared: Path) -> None:
    case = _case(shared, "gcn_forward")
    matrix = propagation.symmetric(case["edge_index"], 24)
    torch.testing.assert_close(matrix.dense(), case["adj_norm_dense"], atol=1e-6, rtol=0)

    layers = []
    for number in (1, 2):
        weight = case[f"W{number}"]  # stored (in, out)
        layer = Convolution(*weight.shape)
        layer.load_state_dict({"lin.weight": weight.T, "bias": case[f"b{number}"]})
        layers.append(layer)
    x = case["features"]
    entries = x.nonzero(as_tuple=True)
    for given in (x, Sparse.of(*entries, x[entries], x.shape)):
        hidden = layers[0](given, matrix).relu()
        torch.testing.assert_close(hidden, case["hidden"], atol=1e-6, rtol=0)
        scores = layers[1](hidden, matrix).log_softmax(dim=1)
        torch.testing.assert_close(scores, case["log_probs"], atol=1e-5, rtol=0)


def test_node_property(shared: Path) -> None:
    case = _case(shared, "node_property")
    degree = node_property.degrees(case["edge_index"], 24)
    assert torch.equal(degree, case["degree"].long())
    assert torch.equal(node_property.degree_classes(degree), case["degree_class"])
    star = torch.cat([case["star_edges"], case["star_edges"].flip(0)], dim=1)
    degree = node_property.degrees(star, 10)
    assert torch.equal(degree, case["star_degree"].long())
    assert torch.equal(node_property.degree_classes(degree), case["star_class"])


def test_pairwise_distance(shared: Path) -> None:
    case = _case(shared, "pairwise_distance")
    distance = torch.full((24, 24), 4)
    for hop, keys in enumerate(hops.pairs_within(case["edge_index"], 24), start=1):
        distance[tuple(pairs.unkeyed(keys, 24))] = hop
    assert torch.equal(distance.triu(1), case["distance_upper"])

    by_search = hops.from_sources(case["edge_index"], 24, torch.arange(24))
    by_search = torch.where(by_search < 0, 4, by_search.clamp_max(4))
    assert torch.equal(by_search.triu(1), case["distance_upper"])

    logits = _linear(case["W"], case["b"])(pairs.difference(case["emb"], case["pairs"]))
    torch.testing.assert_close(logits, case["logits"], atol=1e-5, rtol=0)
    truth = case["label"][tuple(case["pairs"])]
    loss = nn.functional.cross_entropy(logits, truth)
    torch.testing.assert_close(loss, case["loss"], atol=1e-5, rtol=0)


def test_edge_and_attribute_mask_losses(shared: Path) -> None:
    case = _case(shared, "edge_and_attribute_mask_loss")
    head = _linear(case["W_edge"], case["b_edge"])
    loss, _ = edge_mask.edge_loss(head, case["emb"], case["pos"], case["neg"])
    torch.testing.assert_close(loss, case["edge_loss"], atol=1e-5, rtol=0)

    rows = case["masked_nodes"]
    loss = attribute_mask.attribute_loss(
        _linear(case["W_attr"], case["b_attr"]), case["emb"], rows, case["features"][rows]
    )
    torch.testing.assert_close(loss, case["attr_loss"], atol=1e-5, rtol=0)
