"""Topology reconstruction: are these two nodes joined by an edge?

ParetoGNN's TopoRec: Ju et al., "Multi-task Self-supervised Graph Neural Networks Enable Stronger Task Generalization",
2022, arXiv 2210.02016. Random edges against random pairs, told apart from the representations of the two ends, which
are computed over sampled neighbourhoods and from attributes with dropout.
Differs from the authors' code in the number of edges an update: 1,024 by default, where theirs takes 10 whatever the
batch size (``edges=10`` for strict parity).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Recipe, Ref
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import agreement, augment, sampling
from unlabel_graph.augment import Visible
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.sampling import Block
from unlabel_graph.sparse import moved
from unlabel_graph.whole_graph import GraphTask, SelfLoops, recipe

__all__ = ["TopologyReconstruction", "paper", "quick", "tiny"]


class TopologyReconstruction(GraphTask):
    """Prediction of edges.

    Args:
        encoder: any graph encoder.
        edges: random edges an update, self-loops left out.
        negatives: random pairs for each of them; they may happen to be edges.
        fan_outs: senders sampled a receiver, from the layer that reads the attributes to the one of the end nodes; at
            least one a layer. With more numbers than layers, the innermost only widen the batch statistics, as in the
            authors' code.
        drop_feature: dropout on the attributes.
        predictor: width of the head.
        self_loops: "one": each node gets exactly one; "none": for encoders that add their own.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        edges: int = 1024,
        negatives: int = 1,
        fan_outs: tuple[int, ...] = (15, 10, 5),
        drop_feature: float = 0.4,
        predictor: int = 512,
        self_loops: SelfLoops = "one",
    ):
        super().__init__(encoder, self_loops=self_loops)
        if len(fan_outs) < len(encoder.convs) or min(fan_outs) < 1:
            raise UsageError(
                f"fan_outs {fan_outs}: expected at least {len(encoder.convs)} numbers from 1 on, one a layer"
            )
        if edges < 1 or negatives < 1:
            raise UsageError(f"edges {edges} and negatives {negatives} must be at least 1")
        self.edges, self.negatives, self.fan_outs = edges, negatives, fan_outs
        self.drop_feature = augment.check_rate("drop_feature", drop_feature)
        self.hidden, self.score = nn.Linear(encoder.dim, predictor), nn.Linear(predictor, 1)
        for layer in (self.hidden, self.score):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss", "accuracy"}``: of random edges and as many random pairs."""
        x, edges = self.graph(batch)
        drawn = edges[:, torch.randint(edges.shape[1], (2 * self.edges,), device=edges.device)]
        positive = drawn[:, drawn[0] != drawn[1]][:, : self.edges]  # twice as many, for some are self-loops
        # uniform pairs, not checked for being edges: as the authors'
        negative = sampling.pairs(len(x), self.negatives * positive.shape[1], edges.device)
        ends, place = torch.cat([positive, negative], dim=1).unique(return_inverse=True)

        nodes, blocks = self.incoming(edges, len(x)).blocks(ends, self.fan_outs)
        visible = augment.feature_dropout(augment.rows(x, nodes), self.drop_feature)  # (S, F), entry by entry
        logits = self.logits(visible, blocks, place)

        positives = positive.shape[1]
        right = torch.cat([logits[:positives] > 0, logits[positives:] <= 0])
        return {"loss": _two_sided(logits, positives), "accuracy": right.detach().float().mean()}

    def loss_of(self, x: Visible, blocks: Sequence[Block], positive: Tensor, negative: Tensor) -> Tensor:
        """The loss of given edges and pairs over given neighbourhoods.

        Args:
            x: (S, F): attributes of the first block's senders.
            blocks: in the order of computation.
            positive, negative: int64 (2, P) and (2, Q): places among the receivers of the encoder's last layer.
        """
        return _two_sided(self.logits(x, blocks, torch.cat([positive, negative], dim=1)), positive.shape[1])

    def logits(self, x: Visible, blocks: Sequence[Block], pairs: Tensor) -> Tensor:
        """How sure the head is of an edge between each of the pairs: float (P,); see `loss_of`."""
        return self.scores(self.encoder.through_blocks(x, blocks), pairs)

    def scores(self, representations: Tensor, pairs: Tensor) -> Tensor:
        """The head alone: float (P,), from float (N, dim) and int64 (2, P)."""
        # u = ReLU(W_1 h / ||h|| + b_1)
        hidden = F.relu(self.hidden(agreement.unit_rows(representations)))  # (N, predictor)
        pairs = moved(pairs, hidden.device)
        product: Tensor = self.score(hidden[pairs[0]] * hidden[pairs[1]])  # w_2 . (u_i * u_j) + b_2, (P, 1)
        return agreement.full_precision(product[:, 0])


def _two_sided(logits: Tensor, positives: int) -> Tensor:
    """Binary cross-entropy, the mean over all pairs, of which the first `positives` are edges."""
    targets = torch.zeros_like(logits)
    targets[:positives] = 1
    return F.binary_cross_entropy_with_logits(logits, targets)


def paper() -> Recipe:
    """One part of ParetoGNN alone, with its settings for Chameleon; no figure claimed, and not run at this length.

    ``unlabel train graph/topology_reconstruction --recipe paper --data chameleon.npz``
    """
    return recipe("graph/topology_reconstruction", dataset=Ref("graph/heterophilous"), steps=10_000, lr=5e-5)


def quick() -> Recipe:
    """The generated graph, a minute on a CPU. ``unlabel train graph/topology_reconstruction``"""
    options: dict[str, Any] = {"predictor": 128, "edges": 512}
    return recipe(
        "graph/topology_reconstruction", dataset=Ref("graph/sbm"), steps=200, lr=1e-3, widths=(128, 64), **options
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/topology_reconstruction --recipe tiny``"""
    small = Ref("graph/sbm", nodes=120, features=24)
    options: dict[str, Any] = {"predictor": 8, "edges": 32}
    return recipe("graph/topology_reconstruction", dataset=small, steps=4, lr=1e-3, widths=(16, 8), **options)
