"""The plain transformer: its arithmetic against a loop, its names, its initialisation."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from unlabel.errors import UsageError
from unlabel.nn import masking, transformer


def _norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return (x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + 1e-6) * weight + bias


def _slow_block(x: torch.Tensor, w: dict[str, torch.Tensor], heads: int) -> torch.Tensor:
    """One sample through one block, token by token and head by head."""
    length, dim = x.shape
    size = dim // heads
    normed = torch.stack([_norm(row, w["norm1.weight"], w["norm1.bias"]) for row in x])
    qkv = normed @ w["attn.qkv.weight"].T + w["attn.qkv.bias"]
    mixed = torch.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        query, key, value = (qkv[:, i * dim : (i + 1) * dim][:, part] for i in range(3))
        for token in range(length):
            scores = torch.stack([(query[token] * key[other]).sum() / math.sqrt(size) for other in range(length)])
            share = scores.exp() / scores.exp().sum()
            mixed[token, part] = sum(share[other] * value[other] for other in range(length))
    x = x + mixed @ w["attn.proj.weight"].T + w["attn.proj.bias"]
    normed = torch.stack([_norm(row, w["norm2.weight"], w["norm2.bias"]) for row in x])
    hidden = normed @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + hidden @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]


def _random_stack(dim: int, depth: int, heads: int) -> transformer.Transformer:
    torch.manual_seed(0)
    stack = transformer.Transformer(dim, depth, heads).double()
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.3)
    return stack


def test_blocks_compute_what_a_loop_computes():
    stack = _random_stack(12, 2, 3)
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    expected = tokens
    for block in stack.blocks:
        weights = {name: p.detach() for name, p in block.named_parameters()}
        expected = torch.stack([_slow_block(sample, weights, 3) for sample in expected])
    assert torch.allclose(stack(tokens), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_weights_pass_to_and_from_the_usual_library():
    library = pytest.importorskip("timm.models.vision_transformer")
    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    stack = _random_stack(16, 2, 4).float()
    theirs = nn.Sequential(*(library.Block(16, 4, 4.0, qkv_bias=True, norm_layer=norm) for _ in range(2)))
    assert list(theirs.state_dict()) == list(stack.blocks.state_dict())
    theirs.load_state_dict(stack.blocks.state_dict())
    tokens = torch.randn(2, 7, 16)
    assert torch.allclose(stack(tokens), theirs(tokens), rtol=1e-5, atol=1e-5)


def test_tokens_are_a_set():
    stack = _random_stack(12, 2, 3)
    tokens = torch.randn(1, 6, 12, dtype=torch.float64)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(stack(tokens)[:, order], stack(tokens[:, order]), rtol=1e-10)


def test_a_key_mask_hides_tokens_from_all_others_but_not_the_others_from_them():
    stack = _random_stack(12, 2, 3)
    tokens = torch.randn(2, 6, 12, dtype=torch.float64)
    visible = torch.tensor([[1, 1, 0, 1, 0, 0], [0, 1, 1, 0, 0, 1]], dtype=torch.bool)
    changed = torch.where(visible[..., None], tokens, torch.randn_like(tokens))
    first, second = stack(tokens, visible), stack(changed, visible)
    assert torch.equal(first[visible], second[visible])
    for sample in range(2):
        seen = visible[sample]
        alone = stack(tokens[sample : sample + 1, seen])[0]
        assert torch.allclose(first[sample, seen], alone, rtol=1e-10, atol=1e-10)
        # a hidden token reads the visible ones and nothing else, not even itself: one at a time gives the same
        hidden = int((~seen).nonzero()[0])
        pair = torch.cat([tokens[sample, seen], tokens[sample, hidden : hidden + 1]])[None]
        mask = torch.tensor([[True] * int(seen.sum()) + [False]])
        assert torch.allclose(first[sample, hidden], stack(pair, mask)[0, -1], rtol=1e-10, atol=1e-10)


def test_a_key_mask_of_all_tokens_changes_nothing():
    stack = _random_stack(12, 2, 3)
    tokens = torch.randn(2, 6, 12, dtype=torch.float64)
    everything = torch.ones(2, 6, dtype=torch.bool)
    assert torch.allclose(stack(tokens, everything), stack(tokens), rtol=1e-12, atol=1e-12)


def test_parameters_have_the_usual_names():
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    expected = [f"blocks.{n}.{part}.{kind}" for n in range(2) for part in parts for kind in ("weight", "bias")]
    assert list(transformer.Transformer(8, 2, 2).state_dict()) == expected


def test_heads_must_divide_the_width():
    with pytest.raises(UsageError, match="5 heads"):
        transformer.Transformer(12, 1, 5)


def test_initialisation_is_xavier_with_zero_biases():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 64, 4, stride=4), transformer.Transformer(64, 1, 2), nn.LayerNorm(64))
    nn.init.constant_(module[2].bias, 3.0)
    convolution_bias = module[0].bias.detach().clone()
    transformer.xavier_init(module)
    state = module.state_dict()
    expected = {  # (rows, columns) of the matrix each weight is taken for
        "0.weight": (64, 48),
        "1.blocks.0.attn.qkv.weight": (192, 64),
        "1.blocks.0.mlp.fc1.weight": (256, 64),
    }
    for name, (rows, columns) in expected.items():
        bound = math.sqrt(6 / (rows + columns))
        assert state[name].abs().max() <= bound
        assert state[name].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not state["1.blocks.0.attn.qkv.bias"].any()
    assert not state["2.bias"].any()
    assert torch.equal(state["2.weight"], torch.ones(64))
    assert torch.equal(state["0.bias"], convolution_bias)


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_attention_by_products_is_the_fused_one_with_its_gradients(kind):
    generator = torch.Generator().manual_seed(0)
    wide = [torch.randn(2, 3, 7, 16, generator=generator) for _ in range(3)]
    seen = (torch.rand(2, 1, 7, 7, generator=generator) > 0.5) | torch.eye(7, dtype=torch.bool)
    mask = {"none": None, "bool": seen, "float": torch.randn(1, 3, 7, 7, generator=generator).bfloat16()}[kind]
    narrow = [part.bfloat16().requires_grad_() for part in wide]
    exact = [part.detach().double().requires_grad_() for part in narrow]
    assert not transformer.fused(narrow[0], 7)
    assert transformer.fused(exact[0], 7)
    ours = transformer.attend(*narrow, mask)
    exact_mask = mask.double() if kind == "float" else mask
    expected = functional.scaled_dot_product_attention(*exact, attn_mask=exact_mask)
    ours.sum().backward()
    expected.sum().backward()
    assert torch.allclose(ours.double(), expected, atol=0.03)  # bfloat16 has three digits
    for part, reference in zip(narrow, exact, strict=True):
        assert torch.allclose(part.grad.double(), reference.grad, atol=0.06)


@pytest.mark.parametrize(("depth", "masked"), [(2, False), (2, True), (1, False), (0, False)])
def test_wanted_tokens_come_out_as_among_all_with_the_same_gradients(depth, masked):
    torch.manual_seed(0)
    made = transformer.Transformer(12, depth, 3).double()
    tokens = torch.randn(2, 7, 12, dtype=torch.float64, requires_grad=True)
    wanted = torch.stack([torch.randperm(7)[:4] for _ in range(2)])
    visible = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0, 1]], dtype=torch.bool) if masked else None
    found = []
    for some in (None, wanted):
        made.zero_grad()
        tokens.grad = None
        after = made(tokens, visible, some)
        after = masking.take(after, wanted) if some is None else after
        after.square().sum().backward()
        found.append([after, tokens.grad.clone(), *(parameter.grad.clone() for parameter in made.parameters())])
    assert found[1][0].shape == (2, 4, 12)
    for whole, part in zip(*found, strict=True):
        assert torch.allclose(whole, part, rtol=0, atol=1e-12)


def test_products_are_for_training_short_sequences_in_bfloat16():
    tokens = torch.randn(1, 1, 4, 8, requires_grad=True)
    assert transformer.fused(tokens, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert not transformer.fused(tokens, 4)
        assert transformer.fused(tokens, 4096)
        assert transformer.fused(tokens.detach(), 4)
        with torch.no_grad():
            assert transformer.fused(tokens, 4)
