"""SelfTask's targets: what they are on graphs one can draw, what they may not depend on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import CLASSES, FEATURES, batch_of, blocks, both, encoder, path, relabelled
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor, nn

from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import attributes, hops, pairs, partitions, propagation, pseudo_labels
from unlabel_graph.graph import Nodes
from unlabel_graph.sparse import Sparse
from unlabel_graph.tasks import (
    attribute_mask,
    context_label,
    corrected_label,
    distance2clusters,
    distance2labeled,
    edge_mask,
    node_property,
    pairwise_attr_sim,
    pairwise_distance,
    random_target,
)
from unlabel_graph.tasks.corrected_label import CorrectedLabel
from unlabel_graph.tasks.pairwise_distance import PairwiseDistance

# Distances


def test_distances_on_a_path_are_1_2_3_and_then_far() -> None:
    near = hops.pairs_within(path(6), 6)
    found = {
        pair: hop for hop, keys in enumerate(near, 1) for pair in zip(*pairs.unkeyed(keys, 6).tolist(), strict=True)
    }
    assert [found.get((0, other), 4) for other in range(1, 6)] == [1, 2, 3, 4, 4]
    assert len(found) == 5 + 4 + 3


def test_nodes_without_a_path_are_far_and_zero_in_inverse_targets() -> None:
    edges = torch.cat([path(3), path(3) + 3], dim=1)
    near = pairwise_distance.near_pairs(edges, 6, 100, seed=0)
    torch.manual_seed(0)
    far = set(zip(*pairs.unkeyed(pairwise_distance.draw_far(100, near), 6).tolist(), strict=True))
    assert far == {(i, j) for i in range(3) for j in range(3, 6)}
    inverse = hops.targets(hops.from_sources(edges, 6, torch.tensor([0])), "inverse")
    assert inverse[:, 0].tolist() == [0, 1, 0.5, 0, 0, 0]
    hop = hops.targets(hops.from_sources(edges, 6, torch.tensor([0])), "hops")
    assert hop[:, 0].tolist() == [0, 1, 2, 4, 4, 4]


def test_pairs_of_some_sources_are_those_of_the_whole_graph_that_hold_one() -> None:
    edges = batch_of(blocks())["edge_index"]
    sources = torch.tensor([3, 17, 80])
    for whole, part in zip(hops.pairs_within(edges, 90), hops.pairs_within(edges, 90, sources), strict=True):
        held = pairs.unkeyed(whole, 90)
        assert torch.equal(part, whole[torch.isin(held, sources).any(dim=0)])


def test_no_more_near_pairs_are_listed_than_allowed_and_they_hold_a_source() -> None:
    edges = batch_of(blocks(nodes=300))["edge_index"]
    whole = pairwise_distance.near_pairs(edges, 300, 10**6, seed=0)
    part = pairwise_distance.near_pairs(edges, 300, 2000, seed=0)
    assert len(whole.sources) == 300
    assert 0 < len(part.all) <= 2000 < len(whole.all)
    assert torch.isin(part.all, whole.all).all()
    assert torch.isin(pairs.unkeyed(part.all, 300), part.sources).any(dim=0).all()


def test_every_class_of_pairs_is_drawn_without_replacement() -> None:
    batch = batch_of(blocks(nodes=300))
    task = PairwiseDistance(encoder(), pairs_per_class=100)
    near = pairwise_distance.near_pairs(batch["edge_index"], 300, 10**6, 0)
    torch.manual_seed(1)
    drawn, truth = task.drawn(near)
    assert torch.bincount(truth).tolist() == [100] * 4
    assert (drawn[0] < drawn[1]).all()
    assert len((drawn[0] * 300 + drawn[1]).unique()) == 400
    distance = hops.from_sources(batch["edge_index"], 300, torch.arange(300))[tuple(drawn)]
    assert torch.equal(torch.where(distance < 0, 4, distance.clamp_max(4)) - 1, truth)
    again, _ = task.drawn(near)
    assert not torch.equal(drawn, again)


def test_distinct_numbers_are_uniform() -> None:
    torch.manual_seed(0)
    counts = torch.zeros(50)
    for _ in range(600):
        counts[pairs.distinct(10, 50)] += 1  # few of many: drawn, not shuffled
    assert counts.sum() == 6000
    assert ((counts - 120).abs() < 6 * (120 * 0.8) ** 0.5).all()


# Clusters and labelled nodes


def test_centres_are_the_most_connected_nodes_within_their_part() -> None:
    star = both(torch.tensor([7, 7, 7, 2, 2]), torch.tensor([5, 6, 8, 0, 1]))
    bridge = both(torch.tensor([5, 5, 5]), torch.tensor([0, 1, 2]))  # node 5 has most neighbours, but not in its part
    partition = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1])
    centres = partitions.centres(torch.cat([star, bridge], dim=1), partition)
    assert centres.tolist() == [2, 7]
    target = distance2clusters.cluster_targets(star, partition)
    assert target[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert target[:, 1].tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 1]


def test_metis_cuts_two_cliques_apart() -> None:
    pytest.importorskip("pymetis")
    first, second = torch.triu_indices(8, 8, 1)
    cliques = both(torch.cat([first, first + 8, torch.tensor([0])]), torch.cat([second, second + 8, torch.tensor([8])]))
    found = partitions.metis(cliques, 16, 2)
    assert len(found[:8].unique()) == len(found[8:].unique()) == 1
    assert found[0] != found[8]
    with pytest.raises(UsageError, match="cannot be cut into 17 parts"):
        partitions.metis(cliques, 16, 17)


def test_statistics_of_distances_to_labelled_nodes() -> None:
    labels = torch.tensor([0, -1, -1, 0, -1, 1])
    target = distance2labeled.label_targets(path(6), labels, 3, "hops", ("mean", "min", "max"))
    assert target.shape == (6, 9)
    assert target[1].tolist() == [1.5, 4, 0, 1, 4, 0, 2, 4, 0]  # of class 2 there is none
    inverse = distance2labeled.label_targets(path(6), labels, 2)
    assert inverse[0].tolist() == pytest.approx([(0 + 1 / 3) / 2, 1 / 5])


# Edges and attributes


def test_removed_edges_are_gone_in_both_directions_and_negatives_are_no_edges() -> None:
    edges = batch_of(blocks())["edge_index"]
    remaining, removed, negative = edge_mask.split_edges(edges, 90, 0.1, seed=3)
    undirected = (edges[0] < edges[1]).sum()
    assert removed.shape == negative.shape == (2, round(0.1 * int(undirected)))
    kept = set(zip(*remaining.tolist(), strict=True))
    for i, j in zip(*removed.tolist(), strict=True):
        assert (i, j) not in kept
        assert (j, i) not in kept
    every = set(zip(*edges.tolist(), strict=True))
    assert len(kept) == edges.shape[1] - 2 * removed.shape[1]
    assert all(i != j and (i, j) not in every for i, j in zip(*negative.tolist(), strict=True))
    assert torch.equal(edge_mask.split_edges(edges, 90, 0.1, seed=3)[1], removed), "fixed for a run"
    assert not torch.equal(edge_mask.split_edges(edges, 90, 0.1, seed=4)[1], removed)


def test_masked_attributes_are_zero_in_training_and_no_others_change() -> None:
    for dataset in (blocks(), blocks(components=8)):
        batch = batch_of(dataset)
        features = dataset.implies()["features"]
        task = attribute_mask.AttributeMask(encoder(features=features, scaling="raw"), share=0.2)
        x, rows, truth = task._parts(batch)
        before = task.encoder.inputs(batch)
        dense, whole = (a if isinstance(a, Tensor) else a.dense() for a in (x, before))
        assert len(rows) == round(0.2 * int((batch["train_label"] < 0).sum()))
        assert (batch["train_label"][rows] < 0).all()
        assert not dense[rows].any()
        others = torch.ones(90, dtype=torch.bool).index_fill(0, rows, False)
        assert torch.equal(dense[others], whole[others])
        assert torch.equal(truth, whole[rows])


def test_ranked_pairs_are_those_of_a_full_sort() -> None:
    x = torch.rand(24, 12, generator=torch.Generator().manual_seed(5))
    ranks = pairwise_attr_sim.draw_ranks(24, 3, seed=2)
    assert all(3 <= rank < 21 for rank in ranks)
    found, cosines = pairwise_attr_sim.ranked_pairs(x, 3, ranks)

    similar = cosine_similarity(x.double().numpy())
    expected = set()
    for i, row in enumerate(similar):
        order = np.argsort(row)
        for place in (0, 1, 2, *ranks, 20, 21, 22, 23):
            if order[place] != i:
                expected.add((min(i, int(order[place])), max(i, int(order[place]))))
    assert set(zip(*found.tolist(), strict=True)) == expected
    np.testing.assert_allclose(cosines, similar[tuple(found.numpy())], atol=1e-6)


def test_similarity_loss_compares_each_pair_with_its_own_target() -> None:
    """The authors' loss broadcasts, and is smallest where every prediction is the mean."""
    hidden = torch.tensor([[0.0], [1.0], [3.0]])
    head = nn.Linear(1, 1)
    head.load_state_dict({"weight": torch.tensor([[1.0]]), "bias": torch.zeros(1)})
    chosen, truth = torch.tensor([[0, 0], [1, 2]]), torch.tensor([1.0, 3.0])
    assert pairwise_attr_sim.similarity_loss(head, hidden, chosen, truth) == 0


# Contexts


def test_context_of_a_triangle_counts_each_neighbour_twice() -> None:
    triangle = both(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))
    around = context_label.neighbourhoods(triangle, 3)
    assert torch.equal(around.dense(), 2 * (1 - torch.eye(3)))
    assert context_label.contexts(around, torch.arange(3), 3)[0].tolist() == [0, 0.5, 0.5]


def test_contexts_are_shares_and_isolated_nodes_have_none_and_do_not_count() -> None:
    edges = torch.cat([batch_of(blocks())["edge_index"], torch.tensor([[90], [90]])], dim=1)  # a self-loop alone
    labels = torch.arange(91) % CLASSES
    around = context_label.neighbourhoods(edges, 91)
    context = context_label.contexts(around, labels, CLASSES)
    totals = context.sum(dim=1)
    neighbours = torch.bincount(propagation.without_self_loops(edges)[1], minlength=91)
    torch.testing.assert_close(totals, (neighbours > 0).float())
    assert not totals[90]
    logits = torch.randn(91, CLASSES, generator=torch.Generator().manual_seed(0))
    counted = context_label.with_context(around, torch.ones(91, dtype=torch.bool))
    assert counted.tolist() == (neighbours > 0).nonzero()[:, 0].tolist()
    loss = context_label.context_loss(logits, context, counted)
    logits[90] = torch.nan
    assert context_label.context_loss(logits, context, counted) == loss


def test_contexts_agree_with_a_loop_over_neighbours() -> None:
    edges = batch_of(blocks())["edge_index"]
    labels = torch.from_numpy(blocks().labels)
    found = context_label.contexts(context_label.neighbourhoods(edges, 90), labels, CLASSES)
    near: list[set[int]] = [set() for _ in range(90)]
    for i, j in zip(*edges.tolist(), strict=True):
        near[i] |= {j} - {i}
    for node in range(90):
        two = set().union(*(near[other] for other in near[node])) - {node}
        counted = [labels[other] for other in [*near[node], *two]]
        expected = np.bincount(counted, minlength=CLASSES) / max(1, len(counted))
        np.testing.assert_allclose(found[node], expected, atol=1e-6)


# Pseudo classes


def test_label_propagation_on_a_path() -> None:
    labels = torch.tensor([0, -1, -1, 1])
    scores = pseudo_labels.label_propagation(path(4), labels, 2)
    assert scores.argmax(dim=1).tolist() == [0, 0, 1, 1]
    for iterations in (1, 2, 30):
        given = pseudo_labels.label_propagation(path(4), labels, 2, iterations=iterations)[[0, 3]]
        assert given.tolist() == [[1, 0], [0, 1]]
    torch.testing.assert_close(scores[1], torch.tensor([2 / 3, 1 / 3], dtype=torch.float64), atol=1e-6, rtol=0)


def test_iterative_classification_is_the_plain_sweep() -> None:
    """Leaving out decisions that nothing changed gives what deciding every node in every sweep gives."""
    from sklearn.linear_model import LogisticRegression

    dataset = blocks()
    batch = batch_of(dataset)
    labels = batch["train_label"]
    x = attributes.joined(*attributes.parts(batch))
    found = pseudo_labels.ica(batch["edge_index"], x, labels, CLASSES, sweeps=10)

    dense, truth = x.double().numpy(), labels.numpy()
    adjacency = propagation.ones(batch["edge_index"], 90).dense().numpy()
    known = truth >= 0
    first = LogisticRegression().fit(dense[known], truth[known])
    current = np.where(known, truth, first.predict(dense))
    counts = adjacency @ np.eye(CLASSES)[current]
    second = LogisticRegression().fit(np.hstack([dense, counts])[known], truth[known])
    for _ in range(10):
        for node in np.flatnonzero(~known):
            count = adjacency[node] @ np.eye(CLASSES)[current]
            current[node] = second.predict(np.hstack([dense[node], count])[None])[0]
    assert (found.argmax(dim=1).numpy() == current).all()
    assert torch.equal(found[known], torch.eye(CLASSES, dtype=torch.float64)[labels[known]])
    torch.testing.assert_close(found.sum(dim=1), torch.ones(90, dtype=torch.float64))


@pytest.mark.parametrize("sparse", [False, True])
def test_words_are_read_as_the_paper_reads_them_on_each_graph(sparse: bool) -> None:
    """Rows of sum 1 for Cora, presence for the others: PubMed's weighted words mislead the classifier as they are."""
    batch = batch_of(blocks())
    dense = batch["x"] * (1 + torch.arange(FEATURES) % 5)
    rows, columns = dense.nonzero(as_tuple=True)
    x = Sparse.of(rows, columns, dense[rows, columns], (90, FEATURES)) if sparse else dense

    def classes_of(given: Tensor | Sparse, words: pseudo_labels.Words) -> Tensor:
        return pseudo_labels.pseudo_classes(
            "ica", batch["edge_index"], given, batch["train_label"], CLASSES, words=words
        )

    assert torch.equal(classes_of(x, "binary"), classes_of(batch["x"], "raw"))
    shares = dense / dense.sum(dim=1, keepdim=True).clamp_min(1e-12)
    assert torch.equal(classes_of(x, "row"), classes_of(shares, "raw"))
    assert not torch.equal(classes_of(x, "raw"), classes_of(x, "row"))


def test_iterative_classification_with_two_classes_or_one() -> None:
    dataset = blocks(number_of_classes=2, topical=0.8, features=60)
    batch = batch_of(dataset)
    x = attributes.joined(*attributes.parts(batch))
    labels = batch["train_label"]
    truth = torch.from_numpy(dataset.labels)
    predicted = pseudo_labels.pseudo_classes("ica", batch["edge_index"], x, labels, 2)
    assert (predicted == truth).float().mean() > 0.7
    one = torch.where(labels == 1, -1, labels)
    assert not pseudo_labels.pseudo_classes("ica", batch["edge_index"], x, one, 2).any()


@pytest.mark.parametrize("source", ["lp", "ica", "ensemble"])
def test_pseudo_classes_are_better_than_chance_and_keep_known_labels(source: pseudo_labels.Source) -> None:
    dataset = blocks(nodes=300, features=60, topical=0.6)
    batch = batch_of(dataset)
    labels = batch["train_label"]
    x = attributes.joined(*attributes.parts(batch))
    found = pseudo_labels.pseudo_classes(source, batch["edge_index"], x, labels, CLASSES)
    assert torch.equal(found[labels >= 0], labels[labels >= 0])
    assert (found == torch.from_numpy(dataset.labels)).float().mean() > 0.5


# Correction


def _blobs(spread: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """120 points around three directions, and their classes with a quarter of them wrong."""
    draw = torch.Generator().manual_seed(4)
    truth = torch.arange(120) % 3
    points = torch.eye(3).repeat(1, 2)[truth] + spread * torch.randn(120, 6, generator=draw)
    wrong = torch.randperm(120, generator=draw)[:30]
    noisy = truth.index_copy(0, wrong, (truth[wrong] + 1 + torch.arange(30) % 2) % 3)
    return points, truth, noisy


def test_correction_mends_wrong_classes_on_separate_blobs() -> None:
    points, truth, noisy = _blobs()
    torch.manual_seed(0)
    better = corrected_label.corrected(points, noisy, corrected_label.draw_members(noisy, 3), torch.arange(120))
    assert (noisy == truth).float().mean() == 0.75
    assert (better == truth).float().mean() > 0.9
    some = torch.arange(0, 120, 3)
    part = corrected_label.corrected(points, noisy, corrected_label.draw_members(noisy, 3), some)
    others = torch.ones(120, dtype=torch.bool).index_fill(0, some, False)
    assert torch.equal(part[others], noisy[others]), "only the chosen nodes change"


def test_density_and_nearness_are_their_definitions() -> None:
    points = _blobs()[0][:40].double()
    rho, eta, similar = corrected_label.density(points)
    cosine = cosine_similarity(points.numpy())
    signs = np.sign(cosine - np.percentile(cosine, 40))
    np.testing.assert_array_equal(rho, signs.sum(axis=1))
    for i in range(40):
        denser = [cosine[i, j] for j in range(40) if rho[j] > rho[i]]
        assert eta[i] == pytest.approx(max(denser) if denser else cosine[i].min())
    np.testing.assert_allclose(similar, cosine, atol=1e-12)


def test_prototypes_avoid_members_too_near_to_a_denser_one() -> None:
    points, _, _ = _blobs(0.2)
    members = torch.cat([points[::3], points[:30:3] + 0.01])  # ten of forty have a double
    rho, eta, _ = corrected_label.density(members)
    left = torch.where(eta < 0.95, rho, 0)
    chosen = corrected_label.prototypes(members, count=5)
    assert (eta[torch.argsort(rho, descending=True)[:5]] >= 0.95).any(), "density alone would choose others"
    assert left[chosen].tolist() == left.sort(descending=True).values[:5].tolist()


def test_correction_starts_from_the_pseudo_classes_every_time() -> None:
    batch = batch_of(blocks())
    task = CorrectedLabel(encoder(), classes=CLASSES, labels="lp", corrections=40)
    before = task.targets(batch)[0].clone()
    for _ in range(3):
        task.loss(batch)["loss"].backward()
    assert torch.equal(task.targets(batch)[0], before)


# What no target may depend on

TARGETS: dict[str, Callable[[Batch, int], Tensor]] = {
    "node property": lambda b, n: node_property.degrees(b["edge_index"], n),
    "distance to clusters": lambda b, n: distance2clusters.cluster_targets(b["edge_index"], b["partition_3"]),
    "distance to clusters, hops": lambda b, n: distance2clusters.cluster_targets(
        b["edge_index"], b["partition_3"], "hops"
    ),
    "distance to labelled": lambda b, n: distance2labeled.label_targets(
        b["edge_index"], b["train_label"], CLASSES, "inverse", ("mean", "min", "max")
    ),
    "context": lambda b, n: context_label.contexts(
        context_label.neighbourhoods(b["edge_index"], n), _pseudo(b), CLASSES
    ),
    "label propagation": lambda b, n: pseudo_labels.label_propagation(b["edge_index"], b["train_label"], CLASSES),
    "pseudo classes": lambda b, n: _pseudo(b),
}


def _pseudo(batch: Batch) -> Tensor:
    x = attributes.joined(*attributes.parts(batch))
    return pseudo_labels.pseudo_classes("lp", batch["edge_index"], x, batch["train_label"], CLASSES)


def _with_partition() -> Nodes:
    """A graph with one best-connected node in each part, so that centres do not depend on the order of nodes."""
    dataset = blocks(within=0.9)
    partition = dataset.labels.copy()
    hubs = [int(np.flatnonzero(partition == part)[0]) for part in range(CLASSES)]
    spokes = [(hub, other) for part, hub in enumerate(hubs) for other in np.flatnonzero(partition == part)[1:20]]
    edges = np.concatenate([dataset.graph.edge_index, np.array(spokes).T, np.array(spokes).T[::-1]], axis=1)
    order = np.argsort(np.unique(edges[1] * 90 + edges[0]))
    key = np.unique(edges[1] * 90 + edges[0])[order]
    graph = replace(dataset.graph, edge_index=np.stack([key % 90, key // 90]), partitions={3: partition})
    return Nodes(replace(graph, masks=dataset.masks), "test")


@pytest.mark.parametrize("name", TARGETS)
def test_relabelling_the_nodes_relabels_the_targets(name: str) -> None:
    dataset = _with_partition()
    order = np.random.default_rng(1).permutation(90)
    target = TARGETS[name](batch_of(dataset), 90)
    moved = TARGETS[name](batch_of(relabelled(dataset, order)), 90)
    torch.testing.assert_close(moved, target[torch.from_numpy(order)])


def _targets_of_pairs(name: str, batch: Batch) -> dict[tuple[int, int], float]:
    """What a task wants of each pair of nodes that it may draw."""
    edges = batch["edge_index"]
    if name == "pairwise distance":
        near = pairwise_distance.near_pairs(edges, 90, 10**6, seed=0)
        torch.manual_seed(0)
        of_class = [*near.keys, pairwise_distance.draw_far(90 * 90, near)]  # of the far ones all there are
        keys = torch.cat(of_class)
        wanted = torch.arange(4.0).repeat_interleave(torch.tensor([len(part) for part in of_class]))
    else:
        x = attributes.joined(*attributes.parts(batch))
        chosen, wanted = pairwise_attr_sim.ranked_pairs(x, 3, pairwise_attr_sim.draw_ranks(90, 3, seed=2))
        keys = chosen[0] * 90 + chosen[1]
    return dict(zip((divmod(key, 90) for key in keys.tolist()), wanted.tolist(), strict=True))


def _called(pair: Iterable[int], order: np.ndarray) -> tuple[int, ...]:
    """The pair of nodes of a relabelled graph by their names before, the smaller one first."""
    return tuple(sorted(int(order[node]) for node in pair))


@pytest.mark.parametrize("name", ["pairwise distance", "attribute similarity"])
def test_relabelling_the_nodes_relabels_the_targets_of_pairs(name: str) -> None:
    dataset = _with_partition()
    x = np.random.default_rng(4).random((90, FEATURES), dtype=np.float32)  # no two pairs are equally similar
    dataset = Nodes(replace(dataset.graph, x=x, masks=dataset.masks), "test")
    order = np.random.default_rng(1).permutation(90)
    target = _targets_of_pairs(name, batch_of(dataset))
    moved = _targets_of_pairs(name, batch_of(relabelled(dataset, order)))
    called = {_called(pair, order): value for pair, value in moved.items()}
    assert called.keys() == target.keys()
    assert len(set(target.values())) == 4 if name == "pairwise distance" else len(target) > 90 * 3
    assert [called[pair] for pair in target] == pytest.approx(list(target.values()), abs=1e-6)


def test_which_edges_are_removed_does_not_depend_on_what_the_nodes_are_called() -> None:
    """An edge is an edge by any name, and removed as often as any other."""
    dataset = _with_partition()
    order = np.random.default_rng(1).permutation(90)
    edges, moved = (batch_of(graph)["edge_index"] for graph in (dataset, relabelled(dataset, order)))
    every = {(i, j) for i, j in edges.T.tolist() if i < j}
    removed: Counter[tuple[int, ...]] = Counter()
    refused: Counter[tuple[int, ...]] = Counter()
    for seed in range(300):
        remaining, positive, negative = edge_mask.split_edges(moved, 90, 0.1, seed)
        chosen = {_called(pair, order) for pair in positive.T.tolist()}
        left = {_called(pair, order) for pair in remaining.T.tolist()}
        others = {_called(pair, order) for pair in negative.T.tolist()}
        assert chosen | left == every
        assert not chosen & left
        assert not others & every
        removed.update(chosen)
        refused.update(node for pair in others for node in [(pair[0],), (pair[1],)])
    shares = np.array([removed[edge] / 300 for edge in every])
    deviation = (0.1 * 0.9 / 300) ** 0.5
    assert abs(shares.mean() - 0.1) < 0.002  # rounding to whole edges
    assert abs(shares - 0.1).max() < 5 * deviation  # 500 edges: one in a thousand such tests has a larger one
    assert len(refused) == 90, "every node has been in a pair without an edge"


def test_losses_on_pairs_do_not_depend_on_what_the_nodes_are_called() -> None:
    order = torch.from_numpy(np.random.default_rng(1).permutation(90))
    place = order.argsort()
    torch.manual_seed(0)
    hidden, head, cosine_head = torch.randn(90, 8), nn.Linear(8, 2), nn.Linear(8, 1)
    _, positive, negative = edge_mask.split_edges(batch_of(blocks())["edge_index"], 90, 0.1, seed=3)
    mean, share = edge_mask.edge_loss(head, hidden, positive, negative)
    again, other = edge_mask.edge_loss(head, hidden[order], place[positive.flip(0)], place[negative])
    torch.testing.assert_close((again, other), (mean, share))
    truth = torch.rand(positive.shape[1])
    loss = pairwise_attr_sim.similarity_loss(cosine_head, hidden, positive, truth)
    swapped = pairwise_attr_sim.similarity_loss(cosine_head, hidden[order], place[positive].flip(0), truth)
    torch.testing.assert_close(swapped, loss)


def test_corrected_classes_go_with_their_nodes() -> None:
    points, _, noisy = _blobs()
    order = torch.from_numpy(np.random.default_rng(1).permutation(120))
    place = order.argsort()
    torch.manual_seed(0)
    members, chosen = corrected_label.draw_members(noisy, 3), torch.arange(0, 120, 2)
    better = corrected_label.corrected(points, noisy, members, chosen)
    moved = [place[part] for part in members]
    again = corrected_label.corrected(points[order], noisy[order], moved, place[chosen])
    assert torch.equal(again, better[order])
    assert not torch.equal(better, noisy)


def test_removed_attributes_go_with_their_nodes() -> None:
    dataset = blocks(components=8)
    order = np.random.default_rng(1).permutation(90)
    other = relabelled(dataset, order)
    x, moved = (attributes.joined(*attributes.parts(batch_of(graph))) for graph in (dataset, other))
    rows = attribute_mask.draw_masked(batch_of(dataset)["train_label"], 0.2, seed=3)
    place = torch.from_numpy(np.argsort(order))[rows]
    assert torch.equal(attribute_mask.zeroed(moved, place), attribute_mask.zeroed(x, rows)[torch.from_numpy(order)])
    truth, again = (torch.as_tensor(graph.graph.x) for graph in (dataset, other))
    assert torch.equal(truth[rows], again[place])


@pytest.mark.parametrize("name", [*TARGETS, "iterative classification"])
def test_no_target_depends_on_a_label_outside_the_training_nodes(name: str) -> None:
    dataset = _with_partition()
    compute = TARGETS.get(name) or (
        lambda b, n: pseudo_labels.ica(
            b["edge_index"], attributes.joined(*attributes.parts(b)), b["train_label"], CLASSES
        )
    )
    hidden = np.flatnonzero(~dataset.masks["train"])
    labels = dataset.labels.copy()
    labels[hidden] = np.random.default_rng(2).permutation(labels[hidden])
    other = Nodes(replace(dataset.graph, labels=labels, masks=dataset.masks), "test")
    assert not np.array_equal(other.labels, dataset.labels)
    assert torch.equal(compute(batch_of(dataset), 90), compute(batch_of(other), 90))


def test_random_targets_mean_nothing_and_stay() -> None:
    first = random_target.random_targets(500, 10, seed=1)
    assert torch.equal(first, random_target.random_targets(500, 10, seed=1))
    assert not torch.equal(first, random_target.random_targets(500, 10, seed=2))
    assert abs(float(first.mean()) - 0.5) < 0.02


def test_features_of_the_batch_are_those_of_the_encoder() -> None:
    with pytest.raises(
        UsageError, match=r"20 attributes, but the encoder was made for 7: give --set encoder.features=20"
    ):
        encoder(features=7).inputs(batch_of(blocks()))
    assert FEATURES == 20
