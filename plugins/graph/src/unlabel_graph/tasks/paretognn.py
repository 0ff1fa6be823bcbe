"""ParetoGNN: five pretext tasks of three philosophies at once, weighed by their gradients.

Ju, Zhao, Wen, Yu, Shah, Ye, Zhang, "Multi-task Self-supervised Graph Neural Networks Enable Stronger Task
Generalization", 2022, arXiv 2210.02016. Feature and topology reconstruction, decorrelation, and two contrasts share an
encoder; each draws its own part of the graph and its own views; the minimum-norm point of their gradients weighs them.
It is `unlabel.joint.Joint` over the five tasks of this folder, each of which also trains alone or in any sum.
Differs from the authors' code, which runs all tasks twice an update (once for the weights, once for the step), shares
feature masks between views, and zeroes stored features where it does not sample; the weights are the exact optimum of
the problem that its Frank-Wolfe iterations approach, so they reach 0 and 1 where those stop at 0.001 and 0.999.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from unlabel import Recipe, Ref
from unlabel.combine import Normalisation
from unlabel.errors import UsageError, nearest
from unlabel.joint import Combine, Joint
from unlabel.show.media import Media
from unlabel.task import Batch, Task
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.tasks.decorrelation import Decorrelation
from unlabel_graph.tasks.feature_reconstruction import FeatureReconstruction
from unlabel_graph.tasks.node_graph_contrast import NodeGraphContrast
from unlabel_graph.tasks.node_subgraph_contrast import NodeSubgraphContrast
from unlabel_graph.tasks.topology_reconstruction import TopologyReconstruction
from unlabel_graph.whole_graph import EVALUATIONS, SelfLoops, recipe

__all__ = [
    "PARTS",
    "ParetoGNN",
    "paper",
    "paper_actor",
    "paper_arxiv",
    "paper_chameleon",
    "paper_computers",
    "paper_cs",
    "paper_photo",
    "paper_physics",
    "paper_products",
    "paper_pubmed",
    "paper_squirrel",
    "paper_wikics",
    "quick",
    "tiny",
]

PARTS = (
    "feature_reconstruction",
    "topology_reconstruction",
    "decorrelation",
    "node_graph_contrast",
    "node_subgraph_contrast",
)
"""The paper's FeatRec, TopoRec, RepDecor, MI-NG, MI-NSG."""


class ParetoGNN(Joint):
    """Five pretext tasks on one encoder.

    Args:
        encoder: any graph encoder.
        parts: which of the tasks, of `PARTS`.
        combine: pareto: minimum-norm weights; sum: equal weights, the paper's ablation.
        normalise: what each gradient is divided by before the weights are sought.
        update: authors: the weights multiply the tasks' own gradients; normalised: the normalised ones.
        predictor: P, width of the heads of topology reconstruction and node contrast.
        seeds: B, random nodes whose neighbourhood the contrasts look at.
        graph_times: m of the node-graph contrast: a graph of at most ``m * B`` nodes, or m = 0, is taken whole.
        graph_hops: k of the node-graph contrast.
        subgraph_times: m of the node contrast.
        subgraph_hops: k of the node contrast.
        contrasted: at most so many random nodes are contrasted with one another; by default all.
        nodes: S, draws of nodes by degree that decorrelation looks at.
        reconstructed: draws of nodes by degree that feature reconstruction looks at; by default the whole graph.
        edges: edges an update of topology reconstruction; the authors' code takes 10.
        fan_outs: senders sampled a receiver in topology reconstruction, outermost layer first.
        mask_rate: share of the nodes that feature reconstruction masks.
        reconstruction_drop_edge: probability of dropping an edge in feature reconstruction.
        drop_feature: dropout of the attributes in topology reconstruction.
        decorrelation_drop: probabilities of dropping an edge and of zeroing a column in decorrelation.
        contrast_drop: the same in the node contrast.
        temperature: tau of the node contrast.
        decorrelation_weight: lambda of decorrelation.
        self_loops: "one": each node gets exactly one; "none": for encoders that add their own.
    """

    evaluations: ClassVar[tuple[str, ...]] = EVALUATIONS
    gathers: ClassVar[bool] = False  # every process draws its own views of the whole graph

    def __init__(
        self,
        encoder: Encoder,
        *,
        parts: tuple[str, ...] = PARTS,
        combine: Combine = "pareto",
        normalise: Normalisation = "l2",
        update: Literal["authors", "normalised"] = "authors",
        predictor: int = 512,
        seeds: int = 1024,
        graph_times: int = 0,
        graph_hops: int = 3,
        subgraph_times: int = 5,
        subgraph_hops: int = 3,
        contrasted: int | None = None,
        nodes: int = 10_000,
        reconstructed: int | None = None,
        edges: int = 1024,
        fan_outs: tuple[int, ...] = (15, 10, 5),
        mask_rate: float = 0.5,
        reconstruction_drop_edge: float = 0.35,
        drop_feature: float = 0.4,
        decorrelation_drop: float = 0.2,
        contrast_drop: float = 0.3,
        temperature: float = 0.1,
        decorrelation_weight: float = 1e-3,
        self_loops: SelfLoops = "one",
    ):
        made: dict[str, Task] = {}
        for name in _chosen(parts):
            if name == "feature_reconstruction":
                made[name] = FeatureReconstruction(
                    encoder,
                    mask_rate=mask_rate,
                    drop_edge=reconstruction_drop_edge,
                    nodes=reconstructed,
                    self_loops=self_loops,
                )
            elif name == "topology_reconstruction":
                made[name] = TopologyReconstruction(
                    encoder,
                    edges=edges,
                    fan_outs=fan_outs,
                    drop_feature=drop_feature,
                    predictor=predictor,
                    self_loops=self_loops,
                )
            elif name == "decorrelation":
                made[name] = Decorrelation(
                    encoder,
                    weight=decorrelation_weight,
                    drop_edge=decorrelation_drop,
                    drop_column=decorrelation_drop,
                    nodes=nodes,
                    self_loops=self_loops,
                )
            elif name == "node_graph_contrast":
                made[name] = NodeGraphContrast(
                    encoder, seeds=seeds, times=graph_times, hops=graph_hops, self_loops=self_loops
                )
            else:
                made[name] = NodeSubgraphContrast(
                    encoder,
                    temperature=temperature,
                    drop_edge=contrast_drop,
                    drop_column=contrast_drop,
                    predictor=predictor,
                    seeds=seeds,
                    times=subgraph_times,
                    hops=subgraph_hops,
                    contrasted=contrasted,
                    self_loops=self_loops,
                )
        # alpha = argmin over the simplex of ||sum_k alpha_k g~_k||^2 with g~_k = g_k / ||g_k||: Sener and Koltun,
        # 1810.04650, eq. 3, there of g_k. The step is that of sum_k alpha_k L_k, losses as they are: the authors' code
        super().__init__({"encoder": encoder}, made, combine=combine, normalise=normalise, update=update)

    def show(self, batch: Batch) -> dict[str, Media | np.ndarray]:
        """The map of the representations, once: the parts draw the same."""
        return dict(self.part(self.first).show(batch))


def _chosen(parts: Sequence[str]) -> list[str]:
    """The parts in their own order, whatever the given one."""
    for name in parts:
        if name not in PARTS:
            raise UsageError(f"parts: {name!r} is none of {', '.join(PARTS)}{nearest(name, PARTS)}")
    if not parts:
        raise UsageError(f"parts is empty; expected some of {', '.join(PARTS)}")
    return [name for name in PARTS if name in parts]


def _paper(
    dataset: Ref,
    *,
    lr: float,
    seeds: int,
    times: tuple[int, int],
    nodes: int,
    hops: tuple[int, int] = (3, 3),
    encoder: dict[str, Any] | None = None,
    widths: tuple[int, ...] = (512, 256),
    **options: Any,
) -> Recipe:
    """A row of the paper's settings; `times` and `hops` are those of the node contrast and the node-graph contrast."""
    made = recipe(
        "graph/paretognn",
        dataset=dataset,
        steps=10_000,
        lr=lr,
        widths=widths,
        encoder=encoder,
        seeds=seeds,
        subgraph_times=times[0],
        graph_times=times[1],
        subgraph_hops=hops[0],
        graph_hops=hops[1],
        nodes=nodes,
        **options,
    )
    return made.model_copy(update={"seed": 2345})  # the authors'


def paper() -> Recipe:
    """The authors' settings for Chameleon: better on average over four downstream tasks than any single philosophy.

    10,000 updates at 0.9 a second on one core (``benchmarks/results/graph_speed.md``); our runs are smaller, see
    ``benchmarks/results/graph_paretognn.md``. Settings for the other graphs are the recipes
    ``paper_photo``, ``paper_actor``, ... For link prediction add ``--set dataset.holdout_edges=0``.
    ``unlabel train graph/paretognn --recipe paper --data chameleon.npz``
    """
    return paper_chameleon()


def paper_chameleon() -> Recipe:
    """Settings for Chameleon, 2,277 nodes."""
    return _paper(Ref("graph/heterophilous"), lr=5e-5, seeds=1024, times=(1, 1), nodes=1500)


def paper_squirrel() -> Recipe:
    """Settings for Squirrel, 5,201 nodes."""
    relu: dict[str, Any] = {"activation": "relu"}
    return _paper(Ref("graph/heterophilous"), lr=1e-3, seeds=1024, times=(3, 3), nodes=5000, encoder=relu)


def paper_actor() -> Recipe:
    """Settings for Actor, 7,600 nodes."""
    relu: dict[str, Any] = {"activation": "relu"}
    return _paper(Ref("graph/heterophilous"), lr=1e-3, seeds=1024, times=(5, 5), nodes=5000, encoder=relu)


def paper_pubmed() -> Recipe:
    """Settings for PubMed, 19,717 nodes."""
    return _paper(Ref("graph/planetoid", name="pubmed"), lr=1e-3, seeds=1024, times=(5, 0), nodes=10_000)


def paper_wikics() -> Recipe:
    """Settings for Wiki-CS, 11,701 nodes."""
    return _paper(Ref("graph/wikics"), lr=5e-4, seeds=1024, times=(5, 0), nodes=10_000)


def paper_photo() -> Recipe:
    """Settings for Amazon Photo, 7,650 nodes."""
    return _paper(Ref("graph/amazon", name="photo"), lr=1e-4, seeds=512, times=(10, 10), nodes=5000)


def paper_computers() -> Recipe:
    """Settings for Amazon Computers, 13,752 nodes."""
    return _paper(Ref("graph/amazon", name="computers"), lr=5e-4, seeds=1024, times=(5, 0), nodes=10_000)


def paper_cs() -> Recipe:
    """Settings for Coauthor CS, 18,333 nodes."""
    drop: dict[str, Any] = {"decorrelation_drop": 0.5, "contrast_drop": 0.5}
    return _paper(Ref("graph/coauthor", name="cs"), lr=5e-5, seeds=1024, times=(10, 10), nodes=10_000, **drop)


def paper_physics() -> Recipe:
    """Settings for Coauthor Physics, 34,493 nodes."""
    drop: dict[str, Any] = {"decorrelation_drop": 0.5, "contrast_drop": 0.5}
    dataset = Ref("graph/coauthor", name="physics")
    return _paper(dataset, lr=1e-4, seeds=1024, times=(5, 10), nodes=20_000, hops=(1, 2), **drop)


def paper_arxiv() -> Recipe:
    """Settings for ogbn-arxiv, 169,343 nodes, as a folder of arrays."""
    large: dict[str, Any] = {"predictor": 1024, "encoder": {"norm": "layer"}, "widths": (512, 512, 512)}
    return _paper(Ref("graph/file"), lr=1e-4, seeds=512, times=(1, 20), nodes=20_000, hops=(1, 3), **large)


def paper_products() -> Recipe:
    """Settings for ogbn-products, 2.45 million nodes, as a folder of arrays.

    The authors sample 20,480 nodes by degree for the contrasts there; here they look at one-hop neighbourhoods.
    """
    large: dict[str, Any] = {
        "predictor": 1024,
        "encoder": {"norm": "layer"},
        "widths": (256, 256, 256),
        "reconstructed": 200_000,
    }
    return _paper(Ref("graph/file"), lr=1e-4, seeds=512, times=(40, 40), nodes=100_000, hops=(1, 1), **large)


def quick() -> Recipe:
    """The generated graph, minutes on two CPU cores. ``unlabel train graph/paretognn``"""
    options: dict[str, Any] = {"predictor": 128, "seeds": 512, "contrasted": 1024, "nodes": 1000, "edges": 512}
    return recipe("graph/paretognn", dataset=Ref("graph/sbm"), steps=200, lr=1e-3, widths=(128, 64), **options)


def tiny() -> Recipe:
    """Seconds, for tests; without the edges that link prediction asks for.

    ``unlabel train graph/paretognn --recipe tiny``
    """
    options: dict[str, Any] = {
        "predictor": 8,
        "seeds": 16,
        "subgraph_times": 1,
        "subgraph_hops": 1,
        "nodes": 90,
        "edges": 32,
    }
    small = Ref("graph/sbm", nodes=120, features=24, holdout_edges=0)
    return recipe("graph/paretognn", dataset=small, steps=4, lr=1e-3, widths=(16, 8), **options)
