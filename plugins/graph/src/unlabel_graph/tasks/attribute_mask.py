"""Attribute mask: what were the attributes of a node whose own have been removed?

Jin et al., "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020, arXiv 2006.10141:
AttributeMask. The attributes are 256 principal components (``--set dataset.components=256``); those of a tenth of the
unlabelled nodes are set to 0 once, before training; a linear head regresses them from the representations. Evaluation
sees all attributes. Differs from the authors' code in that the components are found once, exactly, so that training and
evaluation see the same ones. Works on attributes of any kind.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Recipe, Ref, seeds
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import nodes
from unlabel_graph.attributes import Attributes
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.nodes import NodeTask
from unlabel_graph.sparse import Sparse, Standardised, cache_last

__all__ = ["AttributeMask", "attribute_loss", "draw_masked", "paper", "quick", "tiny", "zeroed"]


def draw_masked(labels: Tensor, share: float, seed: int) -> Tensor:
    """Numbers of a share of the unlabelled nodes (label -1), at least one: int64 (m,), ascending."""
    generator = torch.Generator().manual_seed(seeds.mix(seed, 0xA77E))
    unlabelled = (labels < 0).nonzero()[:, 0]
    count = max(1, round(share * len(unlabelled)))  # a tenth, drawn once for the run: the authors' code
    drawn = torch.randperm(len(unlabelled), generator=generator)[:count].sort().values
    return unlabelled[drawn.to(labels.device)]


def zeroed(x: Attributes, rows: Tensor) -> Tensor | Sparse:
    """A copy of the attributes with some rows 0."""
    keep = torch.ones(len(x), device=x.device)
    keep[rows] = 0
    if isinstance(x, Sparse):
        return x.scaled(keep)
    return (x.dense() if isinstance(x, Standardised) else x) * keep[:, None]


def attribute_loss(head: nn.Module, hidden: Tensor, rows: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error over the entries of the masked rows.

    Args:
        head: float (m, D) -> (m, F).
        hidden: float (N, D).
        rows: int64 (m,).
        truth: float (m, F): their attributes.
    """
    # L_self = mean over masked i of |W e_i - x_i|^2; x_i are the components, as in the paper, not the raw attributes
    return F.mse_loss(head(hidden[rows]), truth)


class AttributeMask(NodeTask):
    """Regression of removed attributes.

    Args:
        encoder: any graph encoder.
        share: of the unlabelled nodes whose attributes are removed.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes of the nodes; by default that of the data.
        drop: dropout on the representations.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        share: float = 0.1,
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        if not 0 < share < 1:
            raise UsageError(f"share {share} is outside (0, 1); 0.1 is the paper's")
        super().__init__(encoder, supervised=supervised, classes=classes, drop=drop, select=select)
        self.share = share
        self.head = nn.Linear(encoder.dim, encoder.features)  # (m, D) -> (m, F)
        self._masked = cache_last(_mask)

    def training_inputs(self, batch: Batch) -> tuple[Attributes, Tensor]:
        """The attributes without those of the masked nodes, and all edges."""
        return self._parts(batch)[0], batch["edge_index"]

    def _parts(self, batch: Batch) -> tuple[Attributes, Tensor, Tensor]:
        parts: tuple[Attributes, Tensor, Tensor] = self._masked(
            self.encoder.inputs(batch), batch["train_label"], self.share, int(self.draw)
        )
        return parts

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error over the attributes of the masked nodes."""
        _, rows, truth = self._parts(batch)
        return {"loss": attribute_loss(self.head, dropped, rows, truth)}


def _mask(x: Attributes, labels: Tensor, share: float, seed: int) -> tuple[Attributes, Tensor, Tensor]:
    rows = draw_masked(labels, share, seed)
    truth = x[rows] if isinstance(x, Tensor) else x.rows(rows).dense()
    return zeroed(x, rows), rows, truth


def _recipe(weight: float, components: int, dataset: Ref, **options: int) -> Recipe:
    made = nodes.joint("graph/attribute_mask", weight, dataset=dataset.with_options(components=components), **options)
    return made.model_copy(
        update={"encoder": made.encoder.with_options(scaling="raw")}
    )  # components are scaled already


def paper() -> Recipe:
    """Joint training, lambda 100 (Cora; 5 CiteSeer, 50 PubMed), 3 s there on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/attribute_mask --recipe paper --data planetoid/Cora``
    """
    return _recipe(100, 256, Ref("graph/planetoid"))


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/attribute_mask``"""
    return _recipe(100, 64, Ref("graph/sbm"), steps=100, hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests; no labels. ``unlabel train graph/attribute_mask --recipe tiny``"""
    return nodes.tiny("graph/attribute_mask")
