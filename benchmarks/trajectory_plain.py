"""PPT written down the straightforward way: what the plugin's speed is measured against, and its tests compared with.

The formulas of Lin et al., arXiv 2407.11588, one after the other, as their release computes them: attention spelt
out, every position computed, pairs of candidates sample by sample, 20 trajectories in 20 passes, teachers run anew in
every update, and with gradients: their features are not detached, so the backward pass goes through both teachers as
well, into gradients that nobody uses. Not copied: the reading of batches through a DataLoader, and the weights that
no pass uses. Modules and parameters bear the names of the authors' state dicts.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class PlainAttention(nn.Module):
    """Attention with its softmax spelt out."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.c_attn = nn.Linear(dim, 3 * dim)
        self.c_proj = nn.Linear(dim, dim)
        self.weight_dropout, self.output_dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        self.heads = heads

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        count, length, dim = x.shape
        query, key, value = (
            part.view(count, length, self.heads, dim // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(dim, dim=2)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(dim // self.heads)
        weights = self.weight_dropout(scores.masked_fill(~mask, -math.inf).softmax(-1))
        mixed = (weights @ value).transpose(1, 2).contiguous().view(count, length, dim)
        return self.output_dropout(self.c_proj(mixed))


class PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = PlainAttention(dim, heads, dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x), mask)
        return x + self.mlp(self.ln2(x))


class PlainGPT(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        parts = {
            "wpe": nn.Embedding(128, dim),
            "drop": nn.Dropout(dropout),
            "h": nn.ModuleList([PlainBlock(dim, heads, hidden, dropout) for _ in range(depth)]),
            "ln_f": nn.LayerNorm(dim),
        }
        self.transformer = nn.ModuleDict(parts)

    def forward(self, tokens: Tensor, causal: bool = True) -> Tensor:
        length = tokens.shape[1]
        places = torch.arange(1, length + 1)
        if causal and length == 9:
            places[-1] = 19
        mask = torch.ones(length, length, dtype=torch.bool)
        x = self.transformer["drop"](tokens + self.transformer["wpe"](places))
        for block in self.transformer["h"]:
            x = block(x, mask.tril() if causal else mask)
        return self.transformer["ln_f"](x)


class PlainMLP(nn.Module):
    def __init__(self, dim: int, out: int, hidden: int):
        super().__init__()
        widths = [dim, hidden, hidden, hidden, out]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(widths)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class PlainNextPosition(nn.Module):
    """Stage I."""

    def __init__(self, **sizes: float):
        super().__init__()
        dim = sizes["dim"]
        self.traj_encoder_1, self.predictor_1 = nn.Linear(2, dim), nn.Linear(dim, 2)
        self.AR_Model = PlainGPT(dim, sizes["depth"], sizes["heads"], sizes["hidden"], sizes["dropout"])

    def features(self, track: Tensor) -> Tensor:
        return self.AR_Model(self.traj_encoder_1(track))

    def loss(self, track: Tensor) -> Tensor:
        return functional.mse_loss(self.predictor_1(self.features(track[:, :-1])), track[:, 1:])


class PlainDestination(nn.Module):
    """Stage II."""

    def __init__(self, **sizes: float):
        super().__init__()
        dim = sizes["dim"]
        self.Traj_encoder, self.des_encoder = nn.Linear(2, dim), nn.Linear(dim, dim)
        self.AR_Model = PlainGPT(dim, sizes["depth"], sizes["heads"], sizes["hidden"], sizes["dropout"])
        self.rand_token = nn.Parameter(torch.rand(1, 1, dim))
        self.predictor_Des = PlainMLP(dim, 40, sizes["head_dim"])

    def features(self, past: Tensor) -> Tensor:
        prompt = self.des_encoder(self.rand_token.repeat(len(past), 1, 1))
        return self.AR_Model(torch.cat([self.Traj_encoder(past), prompt], dim=1))

    def destinations(self, past: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.features(past)[:, -1]
        return feature, self.predictor_Des(feature).view(len(past), 20, 2)

    def loss(self, track: Tensor, scale: float = 1.0) -> Tensor:
        _, candidates = self.destinations(track[:, :8])
        return precision(candidates, track[:, -1:]) + 100 * diversity(candidates, scale)


class PlainPPT(PlainDestination):
    """Stage III."""

    def __init__(self, **sizes: float):
        super().__init__(**sizes)
        dim = sizes["dim"]
        self.traj_trans_layer = PlainGPT(dim, sizes["depth"], sizes["heads"], sizes["hidden"], sizes["dropout"])
        self.traj_encoder, self.traj_fut_token_encoder = nn.Linear(2, dim), nn.Linear(dim, dim)
        self.traj_rand_fut_token = nn.Parameter(torch.rand(1, 11, dim))
        self.traj_decoder_9, self.traj_decoder = nn.Linear(dim, 2), nn.Linear(dim, 2)
        self.traj_decoder_20 = PlainMLP(dim, 2, sizes["head_dim"])
        self.traj_transform_traj, self.traj_transform_des = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def trajectory(self, past: Tensor, destination: Tensor) -> tuple[Tensor, Tensor]:
        prompts = self.traj_fut_token_encoder(self.traj_rand_fut_token.repeat(len(past), 1, 1))
        end = self.traj_encoder(destination).unsqueeze(1)
        features = self.traj_trans_layer(torch.cat([self.traj_encoder(past), prompts, end], dim=1), causal=False)
        first, middle = self.traj_decoder_9(features[:, 7:8]), self.traj_decoder(features[:, 8:-2])
        last = self.traj_decoder_20(features[:, -2:-1]) + destination.unsqueeze(1)
        return torch.cat([first, middle, last], dim=1), features[:, 7:-1]

    def terms(self, track: Tensor, first: PlainNextPosition, second: PlainDestination) -> dict[str, Tensor]:
        past, future = track[:, :8], track[:, 8:]
        first_features = first.features(track[:, :-1])
        first.predictor_1(first_features)  # what the first teacher predicts: computed there, and not used
        taught = first_features[:, 7:]
        taught_end = second.features(past)[:, -1]
        feature, candidates = self.destinations(past)
        distance = torch.norm(candidates - track[:, -1:], dim=2)
        best = distance.argmin(dim=1)
        chosen = candidates[torch.arange(len(past)), best]
        predicted, features = self.trajectory(past, chosen)
        return {
            "trajectory": torch.norm(predicted - future, dim=2).mean(),
            "destination": torch.norm(chosen - track[:, -1], dim=1).mean(),
            "distil_next": functional.mse_loss(self.traj_transform_traj(features), taught),
            "distil_destination": functional.mse_loss(self.traj_transform_des(feature), taught_end),
        }

    def loss(self, track: Tensor, first: PlainNextPosition, second: PlainDestination) -> Tensor:
        terms = self.terms(track, first, second)
        return terms["trajectory"] + terms["destination"] + 5 * terms["distil_next"] + 0.5 * terms["distil_destination"]

    def forecast(self, past: Tensor) -> Tensor:
        """20 trajectories in 20 passes: (N, 8, 2) -> (N, 20, 12, 2)."""
        _, candidates = self.destinations(past)
        found = past.new_empty(len(past), 0, 12, 2)
        for number in range(20):
            found = torch.cat([found, self.trajectory(past, candidates[:, number])[0].unsqueeze(1)], dim=1)
        return found


def diversity(candidates: Tensor, scale: float) -> Tensor:
    """Pairs of candidates, sample by sample."""
    total = 0.0
    for points in candidates:
        total = total + (-(functional.pdist(points) ** 2) / scale).exp().mean()
    return total / len(candidates)


def precision(candidates: Tensor, destination: Tensor) -> Tensor:
    """Distance of the nearest candidate to the destination, (N, 1, 2)."""
    distance = torch.norm(candidates - destination, dim=2)
    best = distance.argmin(dim=1)
    return distance[torch.arange(len(distance)), best].sum() / len(distance)
