"""What pretext tasks share that learn from one graph without any label, and draw their own views of it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from unlabel import Recipe, Ref, Stage, Task
from unlabel.task import Batch
from unlabel_graph import augment, pictures, propagation
from unlabel_graph.attributes import Attributes
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.sampling import Incoming
from unlabel_graph.sparse import cache_last

__all__ = ["EVALUATIONS", "GraphTask", "SelfLoops", "recipe"]

SelfLoops = Literal["one", "none"]
"""Whether each node gets exactly one self-loop (for encoders that add none, ``propagation="given"``), or loses those
that the data have (for encoders that add their own)."""

EVALUATIONS = ("graph/frozen_classification", "graph/node_clustering", "graph/partition_prediction")


class GraphTask(Task):
    """A task on the whole graph; every update draws anew what it looks at, so the batch's nodes do not matter.

    Args:
        encoder: any graph encoder.
        self_loops: see `SelfLoops`.
    """

    evaluations: ClassVar[tuple[str, ...]] = EVALUATIONS
    gathers: ClassVar[bool] = False  # every process draws its own views of the whole graph

    def __init__(self, encoder: Encoder, *, self_loops: SelfLoops = "one"):
        super().__init__()
        self.encoder = encoder
        self._edges = cache_last(propagation.with_self_loops if self_loops == "one" else _without)
        self._incoming = cache_last(Incoming)

    def graph(self, batch: Batch) -> tuple[Attributes, Tensor]:
        """The attributes, (N, F), and the edges, int64 (2, E), sorted by receiver; made once for a graph."""
        x = self.encoder.inputs(batch)
        return x, self._edges(batch["edge_index"], len(x))

    def incoming(self, edge_index: Tensor, nodes: int) -> Incoming:
        """The edges by receiver; made once for a graph."""
        by_receiver: Incoming = self._incoming(edge_index, nodes)
        return by_receiver

    def neighbourhood(self, batch: Batch, seeds: int, times: int, hops: int) -> tuple[Attributes, Tensor]:
        """Attributes and edges of the sub-graph that reaches some random nodes, or of the whole graph if it is small.

        Args:
            batch: with the graph.
            seeds: random nodes.
            times: a graph of at most ``times * seeds`` nodes is taken whole; 0 always takes it whole.
            hops: how far messages travel.
        """
        x, edges = self.graph(batch)
        if times == 0 or len(x) <= times * seeds:
            return x, edges
        incoming = self.incoming(edges, len(x))
        nodes = incoming.around(seeds, hops)
        return augment.rows(x, nodes), incoming.induced(nodes)

    def by_degree(self, batch: Batch, draws: int | None) -> tuple[Attributes, Tensor]:
        """Attributes and edges among so many nodes drawn in proportion to their degree, if there are more."""
        x, edges = self.graph(batch)
        if draws is None or len(x) <= draws:
            return x, edges
        incoming = self.incoming(edges, len(x))
        nodes = incoming.by_degree(draws)
        return augment.rows(x, nodes), incoming.induced(nodes)

    def encode(self, batch: Batch) -> Tensor:
        """Representations of the batch's nodes on the whole graph: (B, dim)."""
        hidden: Tensor = self.encoder(*self.graph(batch))
        return hidden[batch["node"]]

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """The representations' first two principal components, coloured by class where it is known."""
        labels = torch.maximum(batch["train_label"], batch["validation_label"])
        return {"representations": pictures.scatter(self.encoder(*self.graph(batch)), labels)}


def _without(edge_index: Tensor, nodes: int) -> Tensor:
    return propagation.without_self_loops(edge_index)


def recipe(
    task: str, *, dataset: Ref, steps: int, lr: float, widths: tuple[int, ...] = (512, 256), weight_decay: float = 1e-5,
    encoder: dict[str, Any] | None = None, **options: Any,
) -> Recipe:  # fmt: skip
    """ParetoGNN's training of one task: AdamW at a constant rate, weight decay on everything, no clipping.

    Args:
        task: its name.
        dataset: which graph.
        steps: updates.
        lr: learning rate.
        widths: of the encoder's layers.
        weight_decay: of every parameter.
        encoder: further keywords of the encoder.
        options: of the task.
    """
    fixed: dict[str, Any] = {"propagation": "given", "scaling": "standard", "norm": "batch", "norm_momentum": 0.99}
    return Recipe(
        task=Ref(task, **options),
        encoder=Ref("graph/gcn", widths=widths, **{**fixed, "activation": "prelu", **(encoder or {})}),
        dataset=dataset,
        stages=[
            Stage(
                steps=steps, batch_size="all", optimizer="adamw", lr=lr, schedule="constant",
                weight_decay=weight_decay, decay_vectors=True,
            )
        ],
    )  # fmt: skip
