"""GRACE: which node of one view is this node of the other?

Zhu, Xu, Yu, Liu, Wu, Wang, "Deep Graph Contrastive Representation Learning", 2020, arXiv 2006.04131. Two views of the
whole graph, each without some edges and with some columns of attributes zeroed at rates of its own; every node is to
find itself among all nodes of both views.
Differs from the authors' code in nothing we know of; memory grows with N above 4,096 nodes, and not with its square.
"""

from __future__ import annotations

from torch import Tensor, nn

from unlabel import Recipe, Ref, Stage
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import agreement, augment
from unlabel_graph.augment import View
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.tasks.node_subgraph_contrast import projector
from unlabel_graph.whole_graph import GraphTask, SelfLoops

__all__ = ["GRACE", "paper", "quick", "tiny"]


class GRACE(GraphTask):
    """Contrast of nodes between two views; the defaults are the paper's for Cora.

    Args:
        encoder: any graph encoder.
        temperature: tau, above 0.
        drop_edge: probability of dropping an edge in the first and in the second view.
        drop_column: probability of zeroing a column of the attributes in the first and in the second view.
        projection: width of the projection's hidden layer.
        self_loops: "none": for encoders that add their own, as the paper's; "one": each node gets exactly one.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: float = 0.4,
        drop_edge: tuple[float, float] = (0.2, 0.4),
        drop_column: tuple[float, float] = (0.3, 0.4),
        projection: int = 128,
        self_loops: SelfLoops = "none",
    ):
        super().__init__(encoder, self_loops=self_loops)
        if temperature <= 0:
            raise UsageError(f"temperature {temperature} must be above 0; 0.4 is the paper's for Cora")
        self.temperature = temperature
        self.drop_edge = tuple(augment.check_rate("drop_edge", rate) for rate in drop_edge)
        self.drop_column = tuple(augment.check_rate("drop_column", rate) for rate in drop_column)
        self.project = projector(encoder.dim, projection, nn.ELU)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``: of two random views."""
        x, edges = self.graph(batch)
        # alg. 1, line 2: two views, removing edges (RE) and masking features (MF), at rates of their own
        first, second = (
            augment.view(x, edges, edge, column) for edge, column in zip(self.drop_edge, self.drop_column, strict=True)
        )
        return {"loss": self.loss_of(first, second)}

    def loss_of(self, first: View, second: View) -> Tensor:
        """The loss of two given views of the same nodes."""
        # alg. 1, lines 3-4: U and V; eq. 1 compares g(U) and g(V), (N, D) each
        left, right = (self.project(self.encoder(x, edges)) for x, edges in (first, second))
        return agreement.info_nce(left, right, self.temperature).mean()  # eq. 2, negated: they maximise J


def _recipe(dataset: Ref, steps: int, width: int) -> Recipe:
    return Recipe(
        task=Ref("graph/grace", projection=width),
        encoder=Ref("graph/gcn", widths=(2 * width, width)),
        dataset=dataset,
        stages=[
            Stage(
                steps=steps,
                batch_size="all",
                optimizer="adam",
                lr=5e-4,
                weight_decay=1e-5,
                decay_vectors=True,
                schedule="constant",
            )
        ],
    )


def paper() -> Recipe:
    """The authors' settings for Cora: widths 256 and 128, 200 updates, Adam at 5e-4. Not run by us.

    ``unlabel train graph/grace --recipe paper --data planetoid/Cora``
    """
    return _recipe(Ref("graph/planetoid"), 200, 128)


def quick() -> Recipe:
    """The generated graph, a minute on a CPU. ``unlabel train graph/grace``"""
    return _recipe(Ref("graph/sbm"), 100, 64)


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/grace --recipe tiny``"""
    return _recipe(Ref("graph/sbm", nodes=120, features=24), 4, 8)
