"""ParetoGNN's five pretext tasks and their combination, against an independent dense formulation in float64.

The dense formulation is written node by node from the paper's equations; where reference cases are at hand, the same
comparison runs on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import unlabel
from scipy.optimize import minimize
from torch import Tensor

from unlabel import Catalog, combine, compose, seeds
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.recipe import Stage
from unlabel_graph import agreement, augment, propagation
from unlabel_graph.attributes import standardised
from unlabel_graph.augment import Columns
from unlabel_graph.datasets.sbm import BlockModel
from unlabel_graph.encoders.gcn import gcn
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.graph import Nodes
from unlabel_graph.sampling import Block
from unlabel_graph.tasks import paretognn
from unlabel_graph.tasks.decorrelation import Decorrelation, decorrelation_loss
from unlabel_graph.tasks.feature_reconstruction import FeatureReconstruction
from unlabel_graph.tasks.node_graph_contrast import NodeGraphContrast
from unlabel_graph.tasks.node_subgraph_contrast import NodeSubgraphContrast
from unlabel_graph.tasks.paretognn import PARTS, ParetoGNN
from unlabel_graph.tasks.topology_reconstruction import TopologyReconstruction

Case = Mapping[str, np.ndarray]
TASKS = ("p_recon", "p_link", "p_decor", "p_ming", "p_minsg")
"""The reference's names of `PARTS`."""


# The dense formulation


def dense_gcn(p: Mapping[str, Tensor], x: Tensor, layers: list[tuple[Tensor, int]]) -> Tensor:
    """Two layers; each is given by its edges (2, E) and the number of nodes that receive."""
    hidden = x
    for number, (edges, receivers) in enumerate(layers):
        adjacency = torch.zeros(receivers, len(hidden), dtype=torch.float64)
        out, into = (
            torch.bincount(edges[0], minlength=len(hidden)).clamp(min=1),
            torch.bincount(edges[1], minlength=receivers).clamp(min=1),
        )
        for sender, receiver in edges.T.tolist():
            adjacency[receiver, sender] += 1 / (out[sender].double() * into[receiver].double()).sqrt()
        hidden = adjacency @ hidden @ p[f"layers.{number}.weight"] + p[f"layers.{number}.bias"]
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
        hidden = hidden * p[f"norms.{number}.weight"] + p[f"norms.{number}.bias"]
        hidden = torch.where(hidden > 0, hidden, p[f"activations.{number}.weight"] * hidden)
    return hidden


def dense_losses(p: Mapping[str, Tensor], case: Case) -> dict[str, Tensor]:
    """The five losses from the equations, with loops where the equations have sums."""
    x = torch.from_numpy(case["features"]).double()
    edges = torch.from_numpy(case["edge_index"])
    n = len(x)
    found = {}

    masked = case["recon_mask_nodes"].tolist()
    kept = edges[:, torch.from_numpy(case["recon_keep"]).bool()]
    token_x = x.clone()
    token_x[masked] = p["recon_mask"]
    hidden = dense_gcn(p, token_x, [(kept, n)] * 2) @ p["recon_enc_dec.weight"].T
    remasked = hidden.clone()
    remasked[masked] = 0
    out, into = (torch.bincount(kept[row], minlength=n).clamp(min=1).double() for row in (0, 1))
    decoded = torch.zeros(n, x.shape[1], dtype=torch.float64)
    for sender, receiver in kept.T.tolist():
        decoded[receiver] = (
            decoded[receiver] + remasked[sender] @ p["decoder.weight"] / (out[sender] * into[receiver]).sqrt()
        )
    decoded = decoded + p["decoder.bias"]
    cosine = torch.nn.functional.cosine_similarity(decoded[masked], x[masked], dim=1)
    found["p_recon"] = ((1 - cosine) ** 3).mean()

    layers = []
    for number in range(2):
        block = torch.from_numpy(np.stack([case[f"block{number}_src"], case[f"block{number}_dst"]]))
        layers.append((block, int(case[f"block{number}_n"][1])))
    first = torch.from_numpy(case["block0_src_global"])
    hidden = dense_gcn(p, x[first], layers)
    place = {int(node): number for number, node in enumerate(first[: len(hidden)].tolist())}
    total = []
    for name, target in (("link_pos", 1.0), ("link_neg", 0.0)):
        for i, j in _pairs(case[name]):
            ends = [hidden[place[node]] / hidden[place[node]].norm() for node in (i, j)]
            u, v = (torch.relu(p["link_predictor_hid.weight"] @ h + p["link_predictor_hid.bias"]) for h in ends)
            score = p["link_predictor_class.weight"][0] @ (u * v) + p["link_predictor_class.bias"][0]
            total.append(-torch.log(torch.sigmoid(score if target else -score)))
    found["p_link"] = torch.stack(total).mean()

    def views(task: str) -> list[Tensor]:
        made = []
        for v in (1, 2):
            keep = torch.from_numpy(case[f"{task}_keep{v}"]).bool()
            made.append(
                dense_gcn(p, x * torch.from_numpy(case[f"{task}_featmask{v}"]).double(), [(edges[:, keep], n)] * 2)
            )
        return made

    z1, z2 = ((h - h.mean(0)) / h.std(0) for h in views("decor"))
    identity = torch.eye(z1.shape[1], dtype=torch.float64)
    found["p_decor"] = ((z1 - z2) / n).norm() + 1e-3 * sum((identity - z.T @ z / n).norm() for z in (z1, z2))

    real = dense_gcn(p, x, [(edges, n)] * 2)
    fake = dense_gcn(p, x[torch.from_numpy(case["perm"])], [(edges, n)] * 2)
    summary = torch.sigmoid(real.mean(0))
    weight = p["discriminator.weight"]
    found["p_ming"] = (
        -torch.stack([torch.log(torch.sigmoid(h @ weight @ summary)) for h in real]).mean()
        - torch.stack([torch.log(1 - torch.sigmoid(h @ weight @ summary)) for h in fake]).mean()
    )

    def project(h: Tensor) -> Tensor:
        middle = torch.relu(h @ p["minsg.0.weight"].T + p["minsg.0.bias"])
        return middle @ p["minsg.2.weight"].T + p["minsg.2.bias"]

    a, b = (torch.nn.functional.normalize(project(h), dim=1) for h in views("minsg"))
    per_node = []
    for i in range(n):
        for one, other in ((a, b), (b, a)):
            top = torch.exp(one[i] @ other[i] / 0.1)
            below = sum(torch.exp(one[i] @ other[j] / 0.1) for j in range(n))
            below = below + sum(torch.exp(one[i] @ one[j] / 0.1) for j in range(n) if j != i)
            per_node.append(-torch.log(top / below))
    found["p_minsg"] = torch.stack(per_node).sum() / (2 * n)
    return found


def _pairs(values: np.ndarray) -> list[tuple[int, int]]:
    """Pairs stored as rows or as columns."""
    rows = values if values.shape[1] == 2 else values.T
    return [(int(i), int(j)) for i, j in rows]


ENCODER = [
    f"node_module.{part}"
    for number in range(2)
    for part in (
        f"layers.{number}.weight",
        f"layers.{number}.bias",
        f"norms.{number}.weight",
        f"norms.{number}.bias",
        f"activations.{number}.weight",
    )
]


def made_case() -> Case:
    """A small graph with random parameters, views and masks, and what the dense formulation says of it."""
    draw = np.random.default_rng(11)
    n, f, widths, predictor = 14, 9, (8, 6), 10
    pairs = {(i, (i + 1) % n) for i in range(n)} | {tuple(sorted(draw.integers(0, n, 2))) for _ in range(14)}
    both = {(i, j) for i, j in pairs if i != j} | {(j, i) for i, j in pairs if i != j} | {(i, i) for i in range(n)}
    edges = np.array(sorted(both, key=lambda e: (e[1], e[0])), dtype=np.int64).T
    shapes = {
        "recon_mask": (1, f),
        "recon_enc_dec.weight": (6, 6),
        "decoder.weight": (6, f),
        "decoder.bias": (f,),
        "discriminator.weight": (6, 6),
        "minsg.0.weight": (predictor, 6),
        "minsg.0.bias": (predictor,),
        "minsg.2.weight": (6, predictor),
        "minsg.2.bias": (6,),
        "link_predictor_hid.weight": (predictor, 6),
        "link_predictor_hid.bias": (predictor,),
        "link_predictor_class.weight": (1, predictor),
        "link_predictor_class.bias": (1,),
    }
    for number, (width, out) in enumerate(((f, widths[0]), widths)):
        shapes |= {f"node_module.layers.{number}.weight": (width, out), f"node_module.layers.{number}.bias": (out,)}
        shapes |= {f"node_module.norms.{number}.weight": (out,), f"node_module.norms.{number}.bias": (out,)}
        shapes[f"node_module.activations.{number}.weight"] = (1,)
    case: dict[str, np.ndarray] = {
        f"sd/big_model.{name}": (0.5 * draw.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()
    }
    count = edges.shape[1]
    case |= {"features": draw.normal(size=(n, f)).astype(np.float32), "edge_index": edges, "perm": draw.permutation(n)}
    case |= {"recon_keep": draw.random(count) < 0.65, "recon_mask_nodes": np.sort(draw.permutation(n)[:7])}
    for task, rate in (("minsg", 0.3), ("decor", 0.2)):
        for v in (1, 2):
            case[f"{task}_keep{v}"] = draw.random(count) >= rate
            case[f"{task}_featmask{v}"] = (draw.random(f) >= rate).astype(np.float32)
    case |= {"link_pos": edges[:, edges[0] < edges[1]].T[:5], "link_neg": np.array([[0, 5], [3, 3], [9, 2]])}
    seeds_ = np.unique(np.concatenate([case["link_pos"], case["link_neg"]]))
    nodes = seeds_
    for number in (1, 0):  # full neighbourhoods, innermost first
        inside = np.isin(edges[1], nodes)
        wider = np.concatenate([nodes, np.setdiff1d(edges[0][inside], nodes)])
        place = {int(node): i for i, node in enumerate(wider)}
        case[f"block{number}_src"] = np.array([place[int(s)] for s in edges[0][inside]])
        case[f"block{number}_dst"] = np.array([place[int(r)] for r in edges[1][inside]])
        case[f"block{number}_n"] = np.array([len(wider), len(nodes)])
        case[f"block{number}_src_global"] = wider
        nodes = wider

    p = {
        name.removeprefix("sd/big_model.").removeprefix("node_module."): torch.from_numpy(value)
        .double()
        .requires_grad_()
        for name, value in case.items()
        if name.startswith("sd/")
    }
    encoder = [p[name.removeprefix("node_module.")] for name in ENCODER]
    case["enc_param_order"] = np.array(ENCODER)
    rows = []
    for task, loss in dense_losses(p, case).items():
        gradient = torch.autograd.grad(loss, encoder, allow_unused=True)
        flat = torch.cat([g.reshape(-1) for g in gradient if g is not None]).numpy()
        case[f"loss_{task}"], case[f"encgrad_{task}"] = np.array(loss.item()), flat
        rows.append(flat / np.linalg.norm(flat))
    gram = np.stack(rows) @ np.stack(rows).T
    solved = minimize(
        lambda a: a @ gram @ a,
        np.full(5, 0.2),
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    case["task_order"], case["mgda_weights"] = np.array(TASKS), solved.x
    case["combined_encgrad"] = sum(a * case[f"encgrad_{t}"] for a, t in zip(solved.x, TASKS, strict=True))
    return case


CASES: list[Callable[[Path], Case]] = [
    lambda shared: made_case(),
    lambda shared: dict(np.load(shared / "golden/graph-paretognn/five_pretext_losses_and_mgda.npz")),
]


def five(case: Case) -> tuple[ParetoGNN, dict[str, Tensor]]:
    """Our tasks with the parameters of a case, and their losses on its views."""
    features, hidden = case["sd/big_model.node_module.layers.0.weight"].shape
    dim = case["sd/big_model.node_module.layers.1.weight"].shape[1]
    predictor = case["sd/big_model.minsg.0.weight"].shape[0]
    encoder = gcn(
        features=features,
        widths=(hidden, dim),
        propagation="given",
        scaling="raw",
        norm="batch",
        norm_momentum=0.99,
        activation="prelu",
    )
    task = ParetoGNN(encoder, predictor=predictor).train()

    def put(parameter: Tensor, name: str, turned: bool = False) -> None:
        value = torch.from_numpy(case[f"sd/big_model.{name}"])
        with torch.no_grad():
            parameter.copy_((value.T if turned else value).reshape(parameter.shape))

    for number in range(2):
        put(encoder.convs[number].lin.weight, f"node_module.layers.{number}.weight", turned=True)
        put(encoder.convs[number].bias, f"node_module.layers.{number}.bias")
        put(encoder.norms[number].weight, f"node_module.norms.{number}.weight")
        put(encoder.norms[number].bias, f"node_module.norms.{number}.bias")
        put(encoder.acts[number].weight, f"node_module.activations.{number}.weight")
    recon, link, decor, ming, minsg = (task.part(name) for name in PARTS)
    put(recon.token, "recon_mask")
    put(recon.project.weight, "recon_enc_dec.weight")
    put(recon.decoder.lin.weight, "decoder.weight", turned=True)
    put(recon.decoder.bias, "decoder.bias")
    put(ming.critic, "discriminator.weight")
    for layer in (0, 2):
        put(minsg.project[layer].weight, f"minsg.{layer}.weight")
        put(minsg.project[layer].bias, f"minsg.{layer}.bias")
    for layer, name in ((link.hidden, "link_predictor_hid"), (link.score, "link_predictor_class")):
        put(layer.weight, f"{name}.weight")
        put(layer.bias, f"{name}.bias")

    x, edges = torch.from_numpy(case["features"]), torch.from_numpy(case["edge_index"])
    mask = torch.zeros(len(x), dtype=torch.bool)
    mask[torch.from_numpy(case["recon_mask_nodes"])] = True

    def kept(name: str) -> Tensor:
        return edges[:, torch.from_numpy(case[name]).bool()]

    def views(name: str) -> list[augment.View]:
        masks = [torch.from_numpy(case[f"{name}_featmask{v}"]).reshape(-1) for v in (1, 2)]
        return [(Columns(x, masks[v - 1]), kept(f"{name}_keep{v}")) for v in (1, 2)]

    blocks = [
        Block(
            torch.from_numpy(np.stack([case[f"block{b}_src"], case[f"block{b}_dst"]])),
            *(int(count) for count in case[f"block{b}_n"]),
        )
        for b in range(2)
    ]
    first = case["block0_src_global"]
    place = {int(node): number for number, node in enumerate(first[: blocks[1].receivers])}
    ends = [torch.tensor([[place[i], place[j]] for i, j in _pairs(case[name])]).T for name in ("link_pos", "link_neg")]
    losses = {
        "feature_reconstruction": recon.loss_of(x, kept("recon_keep"), mask),
        "topology_reconstruction": link.loss_of(x[torch.from_numpy(first)], blocks, *ends),
        "decorrelation": decor.loss_of(*views("decor")),
        "node_graph_contrast": ming.loss_of(x, edges, torch.from_numpy(case["perm"])),
        "node_subgraph_contrast": minsg.loss_of(*views("minsg")),
    }
    return task, losses


@pytest.mark.parametrize("make", CASES, ids=["dense formulation", "reference"])
def test_five_losses_their_gradients_and_weights(make: Callable[[Path], Case], request: pytest.FixtureRequest) -> None:
    case = _open(make, request)
    task, losses = five(case)
    encoder = task.encoder
    ours: dict[str, tuple[Tensor, bool]] = {}
    for number in range(2):
        ours |= {
            f"node_module.layers.{number}.weight": (encoder.convs[number].lin.weight, True),
            f"node_module.layers.{number}.bias": (encoder.convs[number].bias, False),
            f"node_module.norms.{number}.weight": (encoder.norms[number].weight, False),
            f"node_module.norms.{number}.bias": (encoder.norms[number].bias, False),
            f"node_module.activations.{number}.weight": (encoder.acts[number].weight, False),
        }
    order = [str(name).removeprefix("big_model.") for name in case["enc_param_order"]]
    gradients = []
    for label, name in zip(PARTS, TASKS, strict=True):
        assert losses[label].item() == pytest.approx(float(case[f"loss_{name}"]), abs=1e-5, rel=1e-5)
        found = torch.autograd.grad(losses[label], [ours[key][0] for key in order], allow_unused=True)
        flat = torch.cat(
            [
                (torch.zeros_like(ours[key][0]) if g is None else g.T if ours[key][1] else g).reshape(-1)
                for key, g in zip(order, found, strict=True)
            ]
        ).double()
        expected = torch.from_numpy(case[f"encgrad_{name}"]).double()
        assert (flat - expected).norm() <= 1e-4 * expected.norm()
        gradients.append(flat)

    gradient = torch.stack(gradients)
    alpha = combine.balance(gradient @ gradient.T, torch.stack([losses[label].detach() for label in PARTS]))
    expected = dict(zip([str(name) for name in case["task_order"]], case["mgda_weights"], strict=True))
    assert np.allclose(alpha.numpy(), [expected[name] for name in TASKS], rtol=0, atol=1e-3)
    combined = torch.from_numpy(case["combined_encgrad"]).double()
    assert (alpha @ gradient - combined).norm() <= 2e-3 * combined.norm()  # as far as the weights may be apart


def _open(make: Callable[[Path], Case], request: pytest.FixtureRequest) -> Case:
    """A made case, or the reference's where it is at hand."""
    if make is CASES[0]:
        return make(Path())
    try:
        return make(request.getfixturevalue("shared"))
    except FileNotFoundError:
        pytest.skip("this reference case is not among the reference data here")


# Closed forms


def test_contrast_of_orthogonal_views_and_of_equal_ones() -> None:
    n, tau = 7, 0.1
    orthogonal = torch.eye(n, dtype=torch.float64)
    expected = np.log(1 + 2 * (n - 1) * np.exp(-1 / tau))
    assert agreement.info_nce(orthogonal, orthogonal, tau).mean().item() == pytest.approx(expected, rel=1e-9)
    equal = torch.ones(n, 3, dtype=torch.float64)
    assert agreement.info_nce(equal, equal, tau).mean().item() == pytest.approx(np.log(2 * n - 1), rel=1e-9)


@pytest.mark.parametrize("count", [7, 512, 700])  # within a block of similarities, a whole one, more than one
def test_contrast_in_parts_is_contrast_at_once(count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(count, 6, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.rand(count, generator=draw, dtype=torch.float64)  # or errors of opposite sign would cancel
    whole = agreement.info_nce(first, second, 0.3)
    parts = agreement.info_nce(first, second, 0.3, rows=5 if count == 7 else 256)
    assert torch.allclose(whole, parts, rtol=1e-12)
    found = [torch.autograd.grad((loss * weight).sum(), (first, second)) for loss in (whole, parts)]
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_temperature_near_zero_does_not_overflow() -> None:
    first, second = (torch.randn(20, 4, generator=torch.Generator().manual_seed(n)) for n in range(2))
    for temperature in (0.03, 0.02, 1e-3):
        first.requires_grad_().grad = None
        loss = agreement.info_nce(first, second, temperature)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert first.grad.isfinite().all()


def test_decorrelation_of_decorrelated_columns_is_what_the_unbiased_deviation_leaves() -> None:
    rows = torch.tensor([[a, b, a * b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)] * 5, dtype=torch.float64)
    n, width, weight = len(rows), 3, 1e-3
    loss = decorrelation_loss(rows, rows, weight).item()
    assert loss == pytest.approx(2 * weight * np.sqrt(width) / n, rel=1e-9)


def test_a_critic_that_says_nothing_costs_two_bits_of_nats() -> None:
    hidden = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    loss = agreement.summary_loss(hidden, hidden.flip(0), torch.zeros(4, 4))
    assert loss.item() == pytest.approx(2 * np.log(2), rel=1e-6)


def test_a_node_that_hears_nothing_has_a_finite_gradient() -> None:
    predicted = torch.zeros(2, 3, requires_grad=True)
    agreement.scaled_cosine(predicted, torch.ones(2, 3), 3.0).backward()
    assert predicted.grad.abs().max() < 10
    zero = torch.zeros(2, 3, requires_grad=True)
    agreement.unit_rows(zero).sum().backward()
    assert zero.grad.abs().max() < 10


# What each task may see


def encoder_of(dataset: Nodes, **options: object) -> Encoder:
    usual = {"widths": (8, 6), "propagation": "given", "scaling": "standard", "norm": "batch", "activation": "prelu"}
    return gcn(features=dataset.graph.x.shape[1], **{**usual, **options})


def small() -> BlockModel:
    return BlockModel(nodes=90, features=40, words=4, number_of_classes=3)


def batch_of(dataset: Nodes) -> dict[str, Tensor]:
    return {**dataset.context(), "node": torch.arange(len(dataset))}


def pareto(dataset: Nodes, **options: object) -> ParetoGNN:
    seeds.seed(3)
    usual = {"predictor": 8, "seeds": 12, "graph_times": 1, "subgraph_times": 1, "graph_hops": 1, "subgraph_hops": 1}
    return ParetoGNN(encoder_of(dataset), **{**usual, "nodes": 60, "edges": 16, **options})


def test_masked_attributes_reach_nothing_but_the_target() -> None:
    dataset = small()
    task = FeatureReconstruction(encoder_of(dataset)).eval()
    x, edges = task.graph(batch_of(dataset))
    dense = x.dense()
    masked = torch.arange(len(x)) % 2 == 0
    changed = dense.clone()
    changed[masked] += 5.0
    before, after = (task.reconstruct(values, edges, masked) for values in (dense, changed))
    assert torch.equal(before, after)
    loss, other = (task.loss_of(values, edges, masked) for values in (dense, changed))
    assert loss != other
    loss.backward()
    assert task.token.grad.abs().sum() > 0


@pytest.mark.slow
def test_a_hundred_steps_change_no_input() -> None:
    dataset = small()
    task = pareto(dataset)
    batch = batch_of(dataset)
    copies = {name: value.clone() for name, value in batch.items()}
    x, edges = task.part("decorrelation").graph(batch)
    inputs = [edges.clone(), x.matrix.values.clone(), x.mean.clone(), x.deviation.clone()]
    for step in range(100):
        seeds.seed(step)
        task.loss(batch)
    assert all(torch.equal(batch[name], copies[name]) for name in batch)
    again = [edges, x.matrix.values, x.mean, x.deviation]
    assert all(torch.equal(one, other) for one, other in zip(inputs, again, strict=True))


def test_the_two_views_drop_columns_and_edges_independently() -> None:
    dataset = small()
    task = Decorrelation(encoder_of(dataset), drop_edge=0.3, drop_column=0.3)
    x, edges = task.graph(batch_of(dataset))
    both, each, kept = [], [], []
    for step in range(300):
        seeds.seed(step)
        (first, some), (second, others) = (augment.view(x, edges, 0.3, 0.3) for _ in range(2))
        assert not torch.equal(first.factors, second.factors) or step > 5
        both.append((first.factors * second.factors).mean().item())
        each += [first.factors.mean().item(), second.factors.mean().item()]
        kept += [some.shape[1] / edges.shape[1], others.shape[1] / edges.shape[1]]
    assert np.mean(each) == pytest.approx(0.7, abs=0.02)  # 12,000 draws: 0.004 of standard error
    assert np.mean(both) == pytest.approx(0.49, abs=0.02)
    assert np.mean(kept) == pytest.approx(0.7, abs=0.01)


def test_masked_columns_and_permuted_rows_of_sparse_attributes_are_those_of_dense_ones() -> None:
    x = standardised(_sparse(small()))
    dense, weight = x.dense(), torch.randn(x.shape[1], 5)
    mask = augment.column_mask(x.shape[1], 0.5, weight.device)
    order = torch.randperm(len(x))
    rows, token = torch.rand(len(x)) < 0.5, torch.randn(1, x.shape[1])
    pairs = [
        (Columns(x, mask), dense * mask),
        (augment.Permuted(x, order), dense[order]),
        (augment.Replaced(x, rows, token), torch.where(rows[:, None], token, dense)),
    ]
    for lazy, expected in pairs:
        assert torch.allclose(lazy @ weight, expected @ weight, atol=1e-4)
        assert (len(lazy), lazy.shape) == (len(x), x.shape)


def test_a_shared_product_is_computed_once_and_again_for_other_weights() -> None:
    class Counting:
        shape, products = (3, 2), 0

        def __matmul__(self, weight: Tensor) -> Tensor:
            self.products += 1
            return torch.ones(3, 2) @ weight

    x = Counting()
    shared, weight = augment.Shared(x), torch.randn(2, 4, requires_grad=True)
    first, second = shared @ weight, augment.Permuted(shared, torch.tensor([2, 0, 1])) @ weight
    assert x.products == 1
    assert torch.equal(first, second)
    (first + second).sum().backward()
    assert torch.allclose(weight.grad, torch.full((2, 4), 6.0))
    with torch.no_grad():
        weight += 1  # as an update does
    assert not torch.equal(shared @ weight, first)
    assert x.products == 2


def _sparse(dataset: Nodes) -> object:
    from unlabel_graph import attributes

    return attributes.joined(*attributes.parts(dataset.context()))


def test_dropout_of_attributes_keeps_the_mean_and_the_rate() -> None:
    seeds.seed(0)
    x = torch.ones(400, 500)
    lazy = augment.feature_dropout(x, 0.4)
    assert torch.equal(x, torch.ones(400, 500))
    rows = lazy @ torch.eye(500)
    assert rows.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert (rows == 0).float().mean() == pytest.approx(0.4, abs=0.005)  # 200,000 draws: 0.001 of standard error
    assert augment.feature_dropout(x, 0.0) is x


def test_degrees_are_those_of_the_edges_that_are_left_and_a_lonely_node_gets_the_bias() -> None:
    encoder = gcn(features=3, widths=(4,), propagation="given", scaling="raw", norm="layer", activation="relu")
    x = torch.randn(3, 3)
    edges = torch.tensor([[0, 1], [1, 1]])  # node 0 sends once, node 1 hears from 0 and itself, node 2 is alone
    with torch.no_grad():
        encoder.convs[0].bias.copy_(torch.tensor([1.0, -1.0, 0.5, 2.0]))
    found = encoder(x, edges)
    product = x @ encoder.convs[0].lin.weight.T
    bias, norm = encoder.convs[0].bias, encoder.norms[0]
    heard = torch.relu(norm((product[0] + product[1]) / 2**0.5 + bias))
    assert torch.allclose(found[1], heard, atol=1e-6)
    for lonely in (0, 2):
        assert torch.allclose(found[lonely], torch.relu(norm(bias)), atol=1e-6)


# Training


def test_pareto_steps_along_the_weighted_raw_gradients_and_every_head_learns_from_its_own_task() -> None:
    dataset = small()
    batch, engine = batch_of(dataset), Engine("cpu", "fp32")
    task, twin = pareto(dataset), pareto(dataset)
    stage = Stage(steps=1, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0).resolved(9)
    before = {name: value.clone() for name, value in task.named_parameters()}
    seeds.seed(8)
    metrics = task.training_step([batch], task.optimizers(stage), engine, stage)

    seeds.seed(8)
    rows = []
    heads: dict[str, Tensor] = {}
    shared = dict(twin.encoder.named_parameters())
    for label in PARTS:
        twin.zero_grad()
        twin.part(label).loss(twin.view(label, batch))["loss"].backward()
        assert all(p.grad is None for other in PARTS if other != label for p in _heads(twin, other).values())
        rows.append(torch.cat([_grad(p).reshape(-1) for p in shared.values()]))
        alpha = metrics[f"alpha_{label}"].item()
        heads |= {f"parts.{label}.{name}": alpha * _grad(p) for name, p in _heads(twin, label).items()}
    gradients = torch.stack(rows)
    alpha = combine.balance(gradients @ gradients.T, torch.ones(5))
    assert [metrics[f"alpha_{label}"].item() for label in PARTS] == pytest.approx(alpha.tolist(), abs=1e-5)
    moved = {name: before[name] - value.detach() for name, value in task.named_parameters()}
    step = torch.cat([moved[f"encoder.{name}"].reshape(-1) for name in shared])
    assert torch.allclose(step, alpha.float() @ gradients, atol=1e-5, rtol=1e-4)
    for name, expected in heads.items():
        assert torch.allclose(moved[name], expected, atol=1e-5, rtol=1e-4), name


def _heads(task: ParetoGNN, label: str) -> dict[str, Tensor]:
    return {n: p for n, p in task.part(label).named_parameters() if not n.startswith("encoder.")}


def _grad(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@pytest.mark.parametrize("label", PARTS)
def test_each_part_overfits_alone(label: str) -> None:
    dataset = small()
    seeds.seed(1)
    task = pareto(dataset, parts=(label,), combine="sum")
    batch, engine = batch_of(dataset), Engine("cpu", "fp32")
    stage = Stage(steps=60, lr=0.02, schedule="constant", weight_decay=0.0).resolved(9)
    optimizers, losses = task.optimizers(stage), []
    for _ in range(60):
        seeds.seed(5)  # the same views every time
        losses.append(task.training_step([batch], optimizers, engine, stage)["loss"].item())
    assert losses[-1] < 0.7 * losses[0]


def test_batch_statistics_do_not_mix_views_or_original_and_corrupted_nodes() -> None:
    dataset = small()
    task = NodeGraphContrast(encoder_of(dataset, norm_momentum=1.0)).train()
    x, edges = task.graph(batch_of(dataset))
    order = torch.randperm(len(x))
    task.loss_of(x, edges, order)
    kept = task.encoder.norms[0].running_mean.clone()
    task.encoder(augment.Permuted(x, order), edges)
    assert torch.allclose(task.encoder.norms[0].running_mean, kept)  # the corrupted copy alone came last


def test_parts_and_keywords_that_make_no_sense_are_refused() -> None:
    dataset = small()
    with pytest.raises(UsageError, match=r"'feature_recon' is none of.*did you mean feature_reconstruction"):
        pareto(dataset, parts=("feature_recon",))
    with pytest.raises(UsageError, match="parts is empty"):
        pareto(dataset, parts=())
    for keyword, message in (
        ({"mask_rate": 1.0}, "mask_rate 1.0 is outside"),
        ({"contrast_drop": 1.0}, "drop_edge 1.0 is outside"),
        ({"temperature": 0.0}, "temperature 0.0 must be above 0"),
        ({"fan_outs": (3,)}, "at least 2 numbers"),
    ):
        with pytest.raises(UsageError, match=message):
            pareto(dataset, **keyword)
    task = NodeSubgraphContrast(encoder_of(dataset), seeds=500, times=-1)
    with pytest.raises(UsageError, match="seeds 500: expected 1 to 90"):
        task.neighbourhood(batch_of(dataset), 500, -1, 1)


def test_topology_sees_real_edges_as_positives() -> None:
    """With full neighbourhoods and no dropout, the sampled loss is that of the same pairs on the whole graph."""
    dataset = small()
    task = TopologyReconstruction(
        encoder_of(dataset, norm="none"), edges=12, fan_outs=(99, 99), drop_feature=0.0, predictor=5
    )
    batch = batch_of(dataset)
    seeds.seed(4)
    sampled = task.loss(batch)["loss"]
    seeds.seed(4)
    x, edges = task.graph(batch)
    drawn = edges[:, torch.randint(edges.shape[1], (24,))]
    positive = drawn[:, drawn[0] != drawn[1]][:, :12]
    negative = torch.randint(len(x), (2, positive.shape[1]))
    scores = task.scores(task.encoder(x, edges), torch.cat([positive, negative], dim=1))
    targets = torch.cat([torch.ones(positive.shape[1]), torch.zeros(negative.shape[1])])
    whole = torch.nn.functional.binary_cross_entropy_with_logits(scores, targets)
    # degrees of senders differ: those at the rim of a block send less than in the whole graph
    assert sampled.item() == pytest.approx(whole.item(), rel=0.2)
    assert propagation.with_self_loops(edges, len(x)).shape == edges.shape


@pytest.mark.slow
def test_any_parts_train_together_from_the_command_line(tmp_path: Path) -> None:
    names = "graph/node_graph_contrast+graph/topology_reconstruction"
    words = ("--recipe", "tiny", "--combine", "pareto", "--no-evaluate", "--set", "log_every=1", "--seed", 4)
    answer = unlabel("train", names, *words, "--set", "task.graph/node_graph_contrast.hops=2", "--out", tmp_path / "a")
    assert answer.code == 0, answer.err
    answer = unlabel("train", "graph/paretognn", *words, "--out", tmp_path / "b")
    assert answer.code == 0, answer.err
    for folder, parts in (("a", ("node_graph_contrast", "topology_reconstruction")), ("b", PARTS)):
        lines = [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        updates = [line for line in lines if "loss" in line]
        assert len(updates) == 4
        for line in updates:
            assert sum(line[f"alpha_{part}"] for part in parts) == pytest.approx(1, abs=1e-5)
            assert sum(name.startswith("cosine_") for name in line) == len(parts) * (len(parts) - 1) // 2


def test_the_map_of_the_representations_is_drawn_once() -> None:
    dataset = small()
    pictures = pareto(dataset).eval().show(batch_of(dataset))
    assert list(pictures) == ["representations"]
    assert pictures["representations"].dtype == np.uint8


# The paper's settings

# graph: lr, B, m (minsg / ming), k (minsg / ming), S, activation, drop of decorrelation and contrast
TABLE = {
    "pubmed": (1e-3, 1024, (5, 0), (3, 3), 10_000, "prelu", (0.2, 0.3)),
    "wikics": (5e-4, 1024, (5, 0), (3, 3), 10_000, "prelu", (0.2, 0.3)),
    "computers": (5e-4, 1024, (5, 0), (3, 3), 10_000, "prelu", (0.2, 0.3)),
    "photo": (1e-4, 512, (10, 10), (3, 3), 5_000, "prelu", (0.2, 0.3)),
    "cs": (5e-5, 1024, (10, 10), (3, 3), 10_000, "prelu", (0.5, 0.5)),
    "physics": (1e-4, 1024, (5, 10), (1, 2), 20_000, "prelu", (0.5, 0.5)),
    "chameleon": (5e-5, 1024, (1, 1), (3, 3), 1_500, "prelu", (0.2, 0.3)),
    "squirrel": (1e-3, 1024, (3, 3), (3, 3), 5_000, "relu", (0.2, 0.3)),
    "actor": (1e-3, 1024, (5, 5), (3, 3), 5_000, "relu", (0.2, 0.3)),
    "arxiv": (1e-4, 512, (1, 20), (1, 3), 20_000, "prelu", (0.2, 0.3)),
    "products": (1e-4, 512, (40, 40), None, 100_000, "prelu", (0.2, 0.3)),
}


@pytest.mark.parametrize("graph", TABLE)
def test_each_graphs_recipe_is_the_papers_row(graph: str) -> None:
    chosen = compose.named(paretognn)[f"paper_{graph}"]()
    lr, seeds_, times, hops, sample, activation, drop = TABLE[graph]
    stage, task = chosen.stages[0], chosen.task.options
    assert (stage.lr, stage.steps, stage.weight_decay, stage.optimizer.name) == (lr, 10_000, 1e-5, "adamw")
    assert stage.schedule.name == "constant"
    assert (stage.warmup_steps, stage.clip_norm, stage.decay_vectors) == (None, None, True)
    assert (task["seeds"], task["nodes"]) == (seeds_, sample)
    assert (task["subgraph_times"], task["graph_times"]) == times
    assert hops is None or (task["subgraph_hops"], task["graph_hops"]) == hops
    assert (task.get("decorrelation_drop", 0.2), task.get("contrast_drop", 0.3)) == drop
    large = graph in ("arxiv", "products")
    widths = {"arxiv": (512, 512, 512), "products": (256, 256, 256)}.get(graph, (512, 256))
    encoder = chosen.encoder.options
    assert tuple(encoder["widths"]) == widths
    assert (encoder["activation"], encoder["norm"]) == (activation, "layer" if large else "batch")
    assert (encoder["propagation"], encoder["scaling"], encoder["norm_momentum"]) == ("given", "standard", 0.99)
    assert task.get("predictor", 512) == (1024 if large else 512)
    assert chosen.seed == 2345


def test_paper_is_the_recipe_for_chameleon_and_joint_recipes_agree() -> None:
    assert paretognn.paper() == paretognn.paper_chameleon()
    catalog = Catalog.installed()
    both = compose.compose("graph/feature_reconstruction+graph/decorrelation", catalog, name="tiny")
    assert both.encoder == paretognn.tiny().encoder
