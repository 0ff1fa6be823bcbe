"""DGI: does this node belong to the graph that the summary describes?

Velickovic, Fedus, Hamilton, Lio, Bengio, Hjelm, "Deep Graph Infomax", 2018, arXiv 1809.10341. A bilinear critic tells
representations of nodes from those of a graph whose attributes changed places, given the mean of the former.
Differs from the authors' code in that the critic has no bias, and that training does not stop early on its own loss
(patience 20) but after a fixed number of updates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel import Recipe, Ref, Stage
from unlabel.task import Batch
from unlabel_graph import agreement
from unlabel_graph.attributes import Attributes
from unlabel_graph.augment import Permuted, Shared
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.tasks.node_graph_contrast import critic
from unlabel_graph.whole_graph import GraphTask, SelfLoops

__all__ = ["DGI", "paper", "quick", "tiny"]


class DGI(GraphTask):
    """Deep graph infomax on the whole graph.

    Args:
        encoder: any graph encoder.
        self_loops: "none": for encoders that add their own, as the paper's; "one": each node gets exactly one.
    """

    def __init__(self, encoder: Encoder, *, self_loops: SelfLoops = "none"):
        super().__init__(encoder, self_loops=self_loops)
        self.critic = critic(encoder.dim)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``: binary cross-entropy, mean over real and corrupted nodes; log 2 where nothing is told."""
        x, edges = self.graph(batch)
        # their corruption: rows of X change places, A stays (sec. 3.4, step 1)
        return {"loss": self.loss_of(x, edges, torch.randperm(len(x), device=edges.device))}

    def loss_of(self, x: Attributes, edge_index: Tensor, order: Tensor) -> Tensor:
        """The loss for a given corruption: attributes of node i are those of node ``order[i]``, int64 (N,)."""
        once = Shared(x)  # the corrupted copy's first product has the same rows
        real = self.encoder(once, edge_index)  # step 2: h_i, (N, D)
        corrupted = self.encoder(Permuted(once, order), edge_index)  # step 3: h~_j, (N, D)
        return agreement.summary_loss(real, corrupted, self.critic) / 2  # eq. 1, negated: 1 / (N + M), M = N


def _recipe(dataset: Ref, steps: int, widths: tuple[int, ...]) -> Recipe:
    return Recipe(
        task=Ref("graph/dgi"),
        encoder=Ref("graph/gcn", widths=widths, activation="prelu"),
        dataset=dataset,
        stages=[Stage(steps=steps, batch_size="all", optimizer="adam", lr=1e-3, weight_decay=0.0, schedule="constant")],
    )


def paper() -> Recipe:
    """One layer of 512, Adam at 1e-3, row-normalised attributes, as for Cora: 82.3 % there in the paper, public split.

    Where the paper's early stopping ends is not reported; here it is 300 updates. Not run by us.
    ``unlabel train graph/dgi --recipe paper --data planetoid/Cora``
    """
    return _recipe(Ref("graph/planetoid"), 300, (512,))


def quick() -> Recipe:
    """The generated graph, seconds on a CPU. ``unlabel train graph/dgi``"""
    return _recipe(Ref("graph/sbm"), 200, (128,))


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/dgi --recipe tiny``"""
    return _recipe(Ref("graph/sbm", nodes=120, features=24), 4, (8,))
