"""SelfTask's targets and losses against their formulas, written out in float64 with loops.

On a graph with what formulas stumble over: two components, a node without edges, parts with equally connected nodes.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from networks import both
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor, nn

from unlabel_graph import partitions, propagation, pseudo_labels
from unlabel_graph.tasks import (
    context_label,
    corrected_label,
    distance2clusters,
    distance2labeled,
    pairwise_attr_sim,
)

NODES, CLASSES = 24, 3


def graph() -> Tensor:
    """18 nodes in a ring with chords, 5 in a ring of their own, and one alone."""
    ring = torch.arange(18)
    chords = torch.tensor([[0, 3, 5, 2, 8, 11], [7, 14, 9, 16, 15, 17]])
    small = torch.arange(18, 23)
    first = torch.cat([ring, chords[0], small])
    second = torch.cat([(ring + 1) % 18, chords[1], 18 + (small - 18 + 1) % 5])
    return both(first, second)


def neighbours(edges: Tensor) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(NODES)]
    for sender, receiver in edges.T.tolist():
        found[receiver].append(sender)
    return found


def hops_from(source: int, near: list[list[int]]) -> dict[int, int]:
    """Hops from one node to every node it reaches."""
    found, waiting = {source: 0}, deque([source])
    while waiting:
        node = waiting.popleft()
        for other in near[node]:
            if other not in found:
                found[other] = found[node] + 1
                waiting.append(other)
    return found


def rows(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_distances_to_the_centres_of_parts() -> None:
    edges = graph()
    near = neighbours(edges)
    partition = torch.tensor([0] * 9 + [1] * 9 + [2] * 6)
    expected_centres = []
    for part in range(3):
        inside = [sum(int(partition[other]) == part for other in near[node]) for node in range(NODES)]
        members = [node for node in range(NODES) if int(partition[node]) == part]
        expected_centres.append(max(members, key=lambda node: (inside[node], -node)))
    assert partitions.centres(edges, partition).tolist() == expected_centres

    reached = [hops_from(centre, near) for centre in expected_centres]
    far = max(max(found.values()) for found in reached) + 2
    inverse, steps = np.zeros((NODES, 3)), np.full((NODES, 3), float(far))
    for part, found in enumerate(reached):
        for node, hop in found.items():
            inverse[node, part], steps[node, part] = 1 / hop if hop else 0, hop
    np.testing.assert_allclose(distance2clusters.cluster_targets(edges, partition), inverse, rtol=1e-6)
    np.testing.assert_array_equal(distance2clusters.cluster_targets(edges, partition, "hops"), steps)


@pytest.mark.parametrize("kind", ["inverse", "hops"])
def test_distances_to_the_labelled_nodes_of_each_class(kind: distance2clusters.Target) -> None:
    edges = graph()
    near = neighbours(edges)
    labels = torch.full((NODES,), -1)
    labels[[0, 4, 19, 9, 12, 20, 1, 23]] = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    known = (labels >= 0).nonzero()[:, 0].tolist()
    reached = {node: hops_from(node, near) for node in known}
    far = max(max(found.values()) for found in reached.values()) + 2

    def distance(node: int, source: int) -> float:
        hop = reached[source].get(node)
        if kind == "hops":
            return far if hop is None else hop
        return 1 / hop if hop else 0

    expected = []
    for node in range(NODES):
        of_class = [[distance(node, s) for s in known if int(labels[s]) == c] for c in range(CLASSES)]
        expected.append([f(values) for f in (np.mean, min, max) for values in of_class])
    found = distance2labeled.label_targets(edges, labels, CLASSES, kind, ("mean", "min", "max"))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(found[:, :CLASSES], distance2labeled.label_targets(edges, labels, CLASSES, kind))


def test_similarity_loss_is_the_mean_over_pairs() -> None:
    x, hidden = rows(1, NODES, 12), rows(2, NODES, 8)
    chosen, similar = pairwise_attr_sim.ranked_pairs(x.float(), 3, (5, 11, 17))
    np.testing.assert_allclose(similar, cosine_similarity(x.numpy())[tuple(chosen.numpy())], atol=1e-6)
    weight, bias = rows(3, 1, 8), rows(4, 1)
    head = nn.Linear(8, 1).double()
    head.load_state_dict({"weight": weight, "bias": bias})
    errors = [
        float(weight[0] @ (hidden[i] - hidden[j]).abs() + bias - truth) ** 2
        for i, j, truth in zip(*chosen.tolist(), similar.tolist(), strict=True)
    ]
    loss = pairwise_attr_sim.similarity_loss(head, hidden, chosen, similar.double())
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-12)


def test_label_propagation_is_thirty_products() -> None:
    edges = graph()
    labels = torch.full((NODES,), -1)
    labels[[0, 6, 13, 18]] = torch.tensor([0, 1, 2, 1])
    matrix, given = np.zeros((NODES, NODES)), np.zeros((NODES, CLASSES))
    for node, near in enumerate(neighbours(edges)):
        if labels[node] >= 0:
            given[node, labels[node]] = 1
        else:
            for other in near:
                matrix[node, other] = 1 / len(near)
    expected = np.zeros((NODES, CLASSES))
    for _ in range(30):
        expected = matrix @ expected + given
    found = pseudo_labels.label_propagation(edges, labels, CLASSES)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert not found[23].any()
    x = torch.zeros(NODES, 1)
    classes = pseudo_labels.pseudo_classes("lp", edges, x, labels, CLASSES)
    assert classes.tolist() == expected.argmax(axis=1).tolist()
    assert classes[23] == 0, "nothing reaches it: the first of equals"


def test_contexts_of_one_hop_and_of_two_and_their_loss() -> None:
    edges = graph()
    near = [set(found) for found in neighbours(edges)]
    labels = torch.from_numpy(np.random.default_rng(5).integers(0, CLASSES, NODES))
    one, both_hops = np.zeros((NODES, CLASSES)), np.zeros((NODES, CLASSES))
    for node in range(NODES - 1):  # the last one has no neighbour
        second = set().union(*(near[other] for other in near[node])) - {node}
        first_classes = [int(labels[other]) for other in near[node]]
        one[node] = np.bincount(first_classes, minlength=CLASSES) / len(first_classes)
        counted = first_classes + [int(labels[other]) for other in second]
        both_hops[node] = np.bincount(counted, minlength=CLASSES) / len(counted)
    around = context_label.neighbourhoods(edges, NODES)
    found = context_label.contexts(around.to(torch.float64), labels, CLASSES)
    np.testing.assert_allclose(found, both_hops, atol=1e-12)
    adjacent = propagation.ones(edges, NODES).to(torch.float64)
    np.testing.assert_allclose(context_label.contexts(adjacent, labels, CLASSES), one, atol=1e-12)

    logits, used = rows(6, NODES, CLASSES), torch.arange(NODES) % 2 == 1
    errors = []
    for node in range(1, NODES - 1, 2):
        shares = np.exp(logits[node].numpy()) / np.exp(logits[node].numpy()).sum()
        errors += list((shares - both_hops[node]) ** 2)
    counted = context_label.with_context(around, used)
    assert float(context_label.context_loss(logits, found, counted)) == pytest.approx(np.mean(errors), rel=1e-12)


def test_correction_votes_with_the_prototypes_of_every_class() -> None:
    """The whole of it from the raw vectors: cosines, densities, prototypes, mean similarity, largest."""
    draw = np.random.default_rng(7)
    truth = np.arange(120) % CLASSES
    points = np.eye(CLASSES, 6)[truth] + 0.4 * draw.normal(size=(120, 6))
    noisy = np.where(draw.random(120) < 0.2, (truth + 1) % CLASSES, truth)
    members = [draw.permutation(np.flatnonzero(noisy == c)) for c in range(CLASSES)]
    chosen = draw.permutation(120)[:60]

    scores = np.zeros((60, CLASSES))
    for c, own in enumerate(members):
        similar = cosine_similarity(points[own])
        threshold = np.percentile(similar, 40)
        rho = [sum(np.sign(s - threshold) for s in row) for row in similar]
        left = []
        for i, row in enumerate(similar):
            denser = [row[j] for j in range(len(own)) if rho[j] > rho[i]]
            left.append(0 if (max(denser) if denser else min(row)) >= 0.95 else rho[i])
        best = sorted(range(len(own)), key=lambda i: (-left[i], i))[:8]
        found = corrected_label.prototypes(torch.from_numpy(points[own]))
        assert found.tolist() == best
        scores[:, c] = cosine_similarity(points[chosen], points[own[best]]).mean(axis=1)
    expected = noisy.copy()
    expected[chosen] = scores.argmax(axis=1)
    result = corrected_label.corrected(
        torch.from_numpy(points),
        torch.from_numpy(noisy),
        [torch.from_numpy(own) for own in members],
        torch.from_numpy(chosen),
    )
    assert result.tolist() == expected.tolist()
    assert (expected == truth)[chosen].mean() > (noisy == truth)[chosen].mean()
