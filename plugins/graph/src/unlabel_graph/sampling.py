"""Parts of a graph: sub-graphs around nodes, nodes in proportion to their degree, and neighbourhoods layer by layer.

Edges are int64 (2, E), row 0 sends and row 1 receives, sorted by receiver. Every draw comes from torch's generator.
Nothing is done node by node, and nothing costs more than the edges that are looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unlabel.errors import UsageError
from unlabel_graph.sparse import ordering

__all__ = ["Block", "Incoming", "pairs"]


class Block(NamedTuple):
    """One layer of sampled neighbourhoods: messages from `senders` nodes to the first `receivers` of them.

    Attributes:
        edge_index: int64 (2, E): places among the senders; those in row 1 are below `receivers`.
        senders, receivers: how many there are.
    """

    edge_index: Tensor
    senders: int
    receivers: int


class Incoming:
    """The edges of a graph by receiver.

    Args:
        edge_index: int64 (2, E), sorted by receiver.
        nodes: N.

    Attributes:
        edge_index, nodes: as given.
        indptr: int64 (N+1,): where the edges of each receiver begin.
    """

    def __init__(self, edge_index: Tensor, nodes: int):
        self.edge_index, self.nodes = edge_index, nodes
        counts = torch.bincount(edge_index[1], minlength=nodes)
        self.indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def into(self, receivers: Tensor) -> tuple[Tensor, Tensor]:
        """The edges into some nodes, node by node.

        Args:
            receivers: int64 (R,).

        Returns:
            int64 (K,) each: the edges' positions in `edge_index`, and which of the receivers each one reaches.
        """
        counts = self.indptr.diff()[receivers]
        owner = torch.arange(len(receivers), device=counts.device).repeat_interleave(counts)
        within = torch.arange(len(owner), device=counts.device) - (counts.cumsum(0) - counts)[owner]
        return self.indptr[receivers][owner] + within, owner

    def induced(self, subset: Tensor) -> Tensor:
        """The edges among some nodes, renumbered in their order: int64 (2, K), sorted by receiver.

        Args:
            subset: int64 (R,), no node twice.
        """
        place = torch.full((self.nodes,), -1, device=subset.device)
        place[subset] = torch.arange(len(subset), device=subset.device)
        edges, owner = self.into(subset)
        senders = place[self.edge_index[0][edges]]
        inside = senders >= 0
        return torch.stack([senders[inside], owner[inside]])

    def reached(self, seeds: Tensor, hops: int) -> Tensor:
        """All nodes from which a message reaches one of the seeds in at most so many hops: int64, ascending."""
        known = torch.zeros(self.nodes, dtype=torch.bool, device=seeds.device)
        known[seeds] = True
        border = seeds
        for _ in range(hops):
            edges, _ = self.into(border)
            fresh = torch.zeros_like(known)
            fresh[self.edge_index[0][edges]] = True
            border = (fresh & ~known).nonzero()[:, 0]
            known[border] = True
        return known.nonzero()[:, 0]

    def around(self, seeds: int, hops: int) -> Tensor:
        """The nodes that reach some random nodes in so many hops, see `reached`; seeds are drawn without replacement.

        Raises:
            UsageError: more seeds than nodes.
        """
        if not 0 < seeds <= self.nodes:
            raise UsageError(f"seeds {seeds}: expected 1 to {self.nodes}, the number of nodes")
        return self.reached(torch.randperm(self.nodes, device=self.indptr.device)[:seeds], hops)

    def by_degree(self, draws: int) -> Tensor:
        """Nodes drawn with replacement in proportion to their outgoing edges (at least 1), each kept once.

        GraphSAINT's node sampler (Zeng et al., arXiv 1907.04931) as ParetoGNN has it: by degree, where that paper takes
        squared norms of the columns of the normalised adjacency matrix. Sorted; fewer than `draws` nodes.
        """
        weights = torch.bincount(self.edge_index[0], minlength=self.nodes).clamp_min(1).cumsum(0)
        points = torch.randint(int(weights[-1]), (draws,), device=weights.device)
        drawn: Tensor = torch.searchsorted(weights, points, right=True).unique()
        return drawn

    def blocks(self, seeds: Tensor, fan_outs: tuple[int, ...]) -> tuple[Tensor, list[Block]]:
        """Neighbourhoods of some nodes, at most so many random senders a receiver and layer.

        Args:
            seeds: int64 (R,), no node twice.
            fan_outs: senders a receiver from the outermost layer, which reads the attributes, to the one of the seeds.

        Returns:
            int64 (S,): the nodes whose attributes are read, seeds first; and the layers in the order of computation.
        """
        nodes, blocks = seeds, []
        place = torch.full((self.nodes,), -1, device=seeds.device)
        place[seeds] = torch.arange(len(seeds), device=seeds.device)
        for fan_out in reversed(fan_outs):
            edges, owner = self.into(nodes)
            sampled = _at_most(owner, fan_out)
            edges, owner = edges[sampled], owner[sampled]
            senders = self.edge_index[0][edges]
            new = torch.zeros_like(place, dtype=torch.bool)
            new[senders] = True
            new &= place < 0
            fresh = new.nonzero()[:, 0]
            place[fresh] = torch.arange(len(nodes), len(nodes) + len(fresh), device=seeds.device)
            blocks.append(Block(torch.stack([place[senders], owner]), len(nodes) + len(fresh), len(nodes)))
            nodes = torch.cat([nodes, fresh])
        return nodes, blocks[::-1]


def _at_most(owner: Tensor, count: int) -> Tensor:
    """Positions, ascending, of at most `count` random entries of each owner; `owner`, int64 (K,), is sorted."""
    sizes = torch.bincount(owner)
    crowded = sizes[owner] > count
    if not bool(crowded.any()):
        return torch.arange(len(owner), device=owner.device)
    inside = crowded.nonzero()[:, 0]
    owners = owner[inside]
    order = torch.randint(2**31 - 1, (len(inside),), dtype=torch.int32, device=owner.device).argsort()
    order = order[ordering(owners[order], len(sizes))]  # by owner, and at random within
    first = torch.searchsorted(owners, owners, right=False)  # `owners` is what sorting leaves in each place
    rank = torch.arange(len(inside), device=owner.device) - first
    sampled = ~crowded
    sampled[inside[order[rank < count]]] = True
    return sampled.nonzero()[:, 0]


def pairs(nodes: int, count: int, device: torch.device) -> Tensor:
    """Uniformly random pairs of nodes: int64 (2, count); a few of them may be edges, or one node twice."""
    return torch.randint(nodes, (2, count), device=device)
