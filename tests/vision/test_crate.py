"""CRATE: its layers against the published figures and closed forms, and as an encoder of every task."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from unlabel import Catalog, export
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel_vision import attention_pictures
from unlabel_vision.datasets.digits import Digits
from unlabel_vision.encoders import crate_network
from unlabel_vision.encoders.crate import Crate, crate, renamed
from unlabel_vision.encoders.crate_network import CrateBlock, CrateNetwork, Ista, Mssa, ista
from unlabel_vision.encoders.patch_encoder import merged, project
from unlabel_vision.encoders.resnet import resnet
from unlabel_vision.encoders.vit import vit
from unlabel_vision.evaluations import layers
from unlabel_vision.tasks.crate_mae import coding_rate
from unlabel_vision.tasks.droppos import DropPos
from unlabel_vision.tasks.gmml import GMML
from unlabel_vision.tasks.mae import MAE
from unlabel_vision.tasks.mixedae import MixedAE
from unlabel_vision.tasks.mp3 import MP3
from unlabel_vision.tasks.rotation import Rotation
from unlabel_vision.tasks.simclr import SimCLR

SMALL = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "heads": 4}


def encoder(seed: int = 0, **changes) -> Crate:
    """A small CRATE with every weight random, so that none can be left out unnoticed."""
    torch.manual_seed(seed)
    made = crate(**{**SMALL, **changes})
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.4)
    return made.eval()


def images(count: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def golden(shared, name: str) -> dict[str, Tensor]:
    path = shared / f"golden/vision-crate-mae/{name}.npz"
    return {key: torch.from_numpy(value) for key, value in np.load(path).items()}


def close(ours: Tensor, expected: Tensor) -> bool:
    """Within the tolerance the reference cases are given with."""
    return torch.allclose(ours, expected, rtol=1e-4, atol=2e-5)


# --- the sparsifying step


@pytest.mark.parametrize("fused", [True, False])
def test_ista_and_its_gradients_match_golden(shared, fused):
    data = golden(shared, "ista")
    eta, threshold = data["cfg/eta_lambda"].tolist()
    tokens, dictionary = data["in/x"].requires_grad_(), data["w/D"].requires_grad_()
    ours = ista(tokens, dictionary, eta, threshold, fused)
    ours.sum().backward()
    assert close(ours, data["out/y"])
    assert close(tokens.grad, data["g/x"])
    assert close(dictionary.grad, data["g/D"])  # D is used twice


def test_ista_is_the_gradient_step_of_the_lasso():
    """With autograd as the judge of the step, in columns and in float64."""
    tokens, dictionary = torch.randn(5, 24, dtype=torch.float64), torch.randn(24, 24, dtype=torch.float64)
    for row in tokens:
        code = row.clone().requires_grad_()
        (0.5 * (row - dictionary @ code).square().sum()).backward()
        expected = (row - 0.1 * code.grad - 0.1 * 0.5).clamp(min=0)
        assert torch.allclose(ista(row[None], dictionary, 0.1, 0.5)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_ista_of_the_identity_and_of_zero_is_a_shifted_relu(fused):
    tokens = torch.randn(3, 7, 24)
    for dictionary in (torch.eye(24), torch.zeros(24, 24)):
        expected = (tokens - 0.05).relu()
        assert torch.allclose(ista(tokens, dictionary, 0.1, 0.5, fused), expected, rtol=0, atol=1e-6)


def test_two_products_equal_the_formulas_three():
    tokens, dictionary = torch.randn(2, 65, 128), Ista(128).dictionary
    both = [ista(tokens, dictionary, 0.1, 0.5, fused) for fused in (True, False)]
    assert torch.allclose(*both, rtol=0, atol=1e-5)


def test_half_of_a_fresh_code_is_zero_and_none_is_negative():
    torch.manual_seed(0)
    code = Ista(24)(torch.randn(200, 9, 24))
    assert (code >= 0).all()
    assert (code == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert Ista(24).dictionary.abs().max() <= (6 / 24) ** 0.5


# --- attention within subspaces


def published_attention(data: dict[str, Tensor]) -> Mssa:
    made = Mssa(24, 4)
    made.subspaces.weight.data = data["w/qkv.weight"]
    made.out.weight.data, made.out.bias.data = data["w/to_out.0.weight"], data["w/to_out.0.bias"]
    return made


def test_attention_matches_golden(shared):
    data = golden(shared, "mssa")
    made = published_attention(data)
    assert close(made(data["in/x"]), data["out/y"])
    query, key, value = made.project(data["in/x"])
    weights = (query @ key.transpose(2, 3) / 6**0.5).softmax(-1)
    assert close(weights, data["out/attention"])
    assert close(made.merged(weights @ value), data["out/y"])


def test_queries_keys_and_values_are_the_same_numbers(monkeypatch):
    seen = []
    own = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *qkv: (seen.extend(t.data_ptr() for t in qkv), own(*qkv))[1]
    )
    Mssa(24, 4)(torch.randn(2, 5, 24))
    assert len(seen) == 3
    assert len(set(seen)) == 1
    first, key, value = Mssa(24, 4).project(torch.randn(2, 5, 24), keys=3)
    assert first[:, :, :3].data_ptr() == key.data_ptr() == value.data_ptr()
    assert key.shape == (2, 4, 3, 6)


def test_attention_by_products_is_the_fused_one_with_its_gradients():
    made, tokens = Mssa(24, 4).double(), torch.randn(2, 9, 24, dtype=torch.float64)
    found = []
    for made.fused_attn in (True, False):
        made.zero_grad()
        moved = made(tokens)
        moved.square().sum().backward()
        found.append([moved, *(parameter.grad.clone() for parameter in made.parameters())])
    for fused, products in zip(*found, strict=True):
        assert torch.allclose(fused, products, rtol=0, atol=1e-12)


def test_scores_are_symmetric_and_tokens_a_set():
    made, tokens = Mssa(24, 4), torch.randn(2, 9, 24)
    query, key, _ = made.project(tokens)
    scores = query @ key.transpose(2, 3)
    assert torch.equal(scores, scores.transpose(2, 3))
    order = torch.randperm(9)
    assert torch.allclose(made(tokens[:, order]), made(tokens)[:, order], rtol=0, atol=1e-6)


def test_a_lone_token_passes_both_maps_alone():
    made, token = Mssa(24, 4), torch.randn(3, 1, 24)
    assert torch.allclose(made(token), made.out(made.subspaces(token)), rtol=0, atol=1e-6)
    assert made.subspaces.bias is None
    assert made.subspaces.weight.shape == (24, 24)
    tied = Mssa(24, 4, tied_output=True)
    expected = token @ tied.subspaces.weight.T @ tied.subspaces.weight
    assert torch.allclose(tied(token), expected, rtol=0, atol=1e-6)
    assert [name for name, _ in tied.named_parameters()] == ["subspaces.weight"]


# --- layers


def normalised(column: Tensor, norm: nn.LayerNorm, eps: float) -> Tensor:
    centred = column - column.mean()
    return centred / (centred.square().mean() + eps).sqrt() * norm.weight.double() + norm.bias.double()


def attended(tokens: list[Tensor], made: Mssa) -> list[Tensor]:
    """Head by head and token by token, in columns: the sum over subspaces of W_k (Z_k softmax)."""
    width = tokens[0].shape[0] // made.heads
    found = [made.out.bias.double().clone() for _ in tokens]
    for head in range(made.heads):
        part = slice(head * width, (head + 1) * width)
        inside = [made.subspaces.weight.double()[part] @ token for token in tokens]
        for number, here in enumerate(inside):
            heat = torch.stack([torch.exp(here @ there / width**0.5) for there in inside])
            mixed = sum(h * there for h, there in zip(heat / heat.sum(), inside, strict=True))
            found[number] = found[number] + made.out.weight.double()[:, part] @ mixed
    return found


def layer_of_columns(tokens: list[Tensor], block: CrateBlock) -> tuple[list[Tensor], list[Tensor]]:
    """Both halves of a layer, in columns and float64."""
    moved = attended([normalised(token, block.norm1, 1e-5) for token in tokens], block.attn)
    halves = [token + change for token, change in zip(tokens, moved, strict=True)]
    dictionary, code = block.ista.dictionary.double(), []
    for half in halves:
        v = normalised(half, block.norm2, 1e-5)
        ascent = dictionary.T @ v - dictionary.T @ dictionary @ v
        code.append((v + 0.1 * ascent - 0.1 * 0.5).clamp(min=0))
    return halves, code


@torch.no_grad()
def test_layers_match_an_independent_implementation():
    made, tokens = encoder(), torch.randn(1, 7, 24)
    for block in made.model.blocks:
        halves, code = layer_of_columns(list(tokens[0].double()), block)
        layer = block(tokens)
        for ours, expected in ((layer.compressed, halves), (layer.code, code)):
            assert torch.allclose(ours[0].double(), torch.stack(expected), rtol=1e-4, atol=2e-5)
        assert torch.equal(layer.coordinates, block.attn.coordinates(block.norm1(tokens)))
        tokens = layer.code


def test_no_residual_passes_the_sparsifying_step():
    block, tokens = encoder().model.blocks[0], torch.randn(2, 5, 24)
    with torch.no_grad():
        block.norm2.weight.zero_()
    code = block(tokens).code
    assert torch.equal(code, code[:1, :1].expand_as(code))


def test_the_encoder_is_its_layers_between_the_sums_and_the_norm():
    made = encoder()
    assert torch.allclose(made(images()), made.model(images()), rtol=0, atol=1e-6)
    tokens = made.with_class(made.embed(images()) + made.positions)
    states, outputs = made.states(tokens), made.outputs(tokens)
    assert len(states) == len(outputs) == 2
    assert all(torch.equal(layer.code, output) for layer, output in zip(states, outputs, strict=True))
    assert torch.equal(made.normalise(outputs[-1]), made.tokens(images()))
    assert torch.equal(made.tokens(images())[:, 0], made(images()))
    mean = encoder(pool="avg")
    assert torch.allclose(mean(images()), mean.model(images()), rtol=0, atol=1e-6)
    assert torch.allclose(mean(images()), made.tokens(images())[:, 1:].mean(1), rtol=0, atol=1e-6)


def test_another_attention_takes_the_place_of_its_layers():
    made = encoder()
    tokens = made.with_class(made.embed(images()) + made.positions)

    def softmaxed(attention: nn.Module, given: Tensor) -> Tensor:
        query, key, value = project(attention, given)
        return merged(attention, (query @ key.transpose(2, 3) / 6**0.5).softmax(-1) @ value)

    assert torch.allclose(made.run(tokens, [softmaxed, None]), made.run(tokens), rtol=1e-4, atol=1e-5)
    nothing = made.run(tokens, [None, lambda _, given: torch.zeros_like(given)])
    first, block = made.outputs(tokens)[0], made.model.blocks[1]
    assert torch.allclose(nothing, made.normalise(block.ista(block.norm2(first))), rtol=1e-4, atol=1e-5)


def test_first_weights_are_the_published_ones():
    torch.manual_seed(0)
    made = crate(image_size=32, patch_size=4, dim=128, depth=2, heads=8)
    for name, parameter in made.named_parameters():
        if name.endswith("dictionary"):
            bound = (6 / 128) ** 0.5
        elif name.endswith(("subspaces.weight", "out.weight")):
            bound = (6 / 256) ** 0.5
        elif name.endswith("proj.weight"):
            bound = (6 / (48 + 128)) ** 0.5
        else:
            continue
        assert bound * 0.95 < parameter.abs().max() <= bound, name
    assert made.model.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert not made.model.pos_embed.requires_grad
    twin = vit(image_size=32, patch_size=4, dim=128, depth=1, heads=8)
    twin.fix_positions()
    assert torch.equal(made.model.pos_embed, twin.model.pos_embed)


@pytest.mark.slow
def test_a_layer_costs_five_products_or_four():
    def macs(fused: bool) -> float:
        with torch.device("meta"):
            base, image = crate(fused=fused), torch.zeros(1, 3, 224, 224)
        with FlopCounterMode(display=False) as counter:
            base.tokens(image)
        return counter.get_total_flops() / 2e9

    dim, count = 768, 197
    embedding = 196 * 768 * 768 / 1e9
    assert macs(fused=False) - embedding == pytest.approx(
        12 * (5 * dim**2 * count + 2 * count**2 * dim) / 1e9, rel=1e-3
    )
    assert macs(fused=False) == pytest.approx(7.7, rel=0.02)
    assert macs(fused=True) - embedding == pytest.approx(12 * (4 * dim**2 * count + 2 * count**2 * dim) / 1e9, rel=1e-3)


# --- coding rates


def test_rates_match_golden(shared):
    data = golden(shared, "coding_rate")
    ours = coding_rate.coding_rate(data["in/X_bhmd"])
    assert ours.mean().item() == pytest.approx(data["out/mean"].item(), rel=1e-4)
    assert ours.std().item() == pytest.approx(data["out/std"].item(), rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 3, 10, 6), (2, 1, 4, 20), (1, 2, 5, 5)])
def test_rates_are_log_determinants_of_either_side(shape):
    tokens = torch.randn(shape)
    count, width = shape[2:]
    for sample, ours in zip(tokens.double(), coding_rate.coding_rate(tokens, 0.3), strict=True):
        expected = 0.0
        for head in sample:
            unit = (head / head.norm(dim=1, keepdim=True)).numpy()
            scale = width / (count * 0.3)
            by_tokens = np.linalg.slogdet(np.eye(count) + scale * unit @ unit.T)[1] / 2
            assert by_tokens == pytest.approx(np.linalg.slogdet(np.eye(width) + scale * unit.T @ unit)[1] / 2, rel=1e-9)
            expected += by_tokens
        assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_rates_of_equal_orthogonal_and_absent_tokens():
    equal = torch.randn(1, 1, 1, 8).expand(1, 1, 5, 8)
    assert coding_rate.coding_rate(equal).item() == pytest.approx(0.5 * np.log(1 + 8 / 0.01), rel=1e-5)
    orthogonal = 3 * torch.eye(8)[None, None]
    assert coding_rate.coding_rate(orthogonal).item() == pytest.approx(4 * np.log(1 + 1 / 0.01), rel=1e-5)
    assert coding_rate.coding_rate(torch.zeros(1, 2, 5, 8)).item() == 0
    assert coding_rate.coding_rate(torch.randn(1, 1, 20, 8)) <= 4 * np.log(1 + 1 / 0.01)


def test_rates_in_half_precision_are_computed_in_full():
    tokens = torch.randn(2, 2, 30, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = coding_rate.coding_rate(tokens)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, coding_rate.coding_rate(tokens.float()), rtol=1e-6)


def test_sparsity_counts_zeros_and_what_is_near_enough():
    values = torch.tensor([0.0, 0.1, -0.1, 2.0])
    assert coding_rate.sparsity(values) == 0.25
    assert coding_rate.sparsity(values, 0.1) == 0.75


# --- the evaluation of layers


def frozen(made: nn.Module) -> Frozen:
    return Frozen(Rotation(made), Digits(), Engine("cpu", "fp32"), batch_size=32)


def test_the_evaluation_reports_what_the_layers_do(monkeypatch):
    made = encoder()
    seen = []
    monkeypatch.setattr(
        layers.views, "to_float", lambda batch, own=layers.views.to_float: seen.append(batch) or own(batch)
    )
    found = layers.coding_rate(frozen(made), samples=100, eps=0.1)
    assert set(found) == {f"{name}_{n}" for name in ("incoming", "compression", "rate", "sparsity") for n in (1, 2)}
    assert sum(map(len, seen)) == 100

    given = layers.views.to_float(torch.cat(seen[: len(seen) // 2 or 1]))
    with torch.no_grad():
        tokens = made.with_class(made.embed(given) + made.positions)
        block = made.model.blocks[0]
        half = tokens + block.attn(block.norm1(tokens))
        code = block.ista(block.norm2(half))
        inside = [block.attn.coordinates(block.norm1(part)) for part in (tokens, half)]
    ours = {name: value[: len(given)].mean().item() for name, value in layers.measured(made, given, 0.1).items()}
    assert ours["incoming_1"] == pytest.approx(coding_rate.coding_rate(inside[0], 0.1).mean().item(), rel=1e-5)
    assert ours["compression_1"] == pytest.approx(coding_rate.coding_rate(inside[1], 0.1).mean().item(), rel=1e-5)
    assert ours["rate_1"] == pytest.approx(coding_rate.coding_rate(code[:, None], 0.1).mean().item(), rel=1e-5)
    assert ours["sparsity_1"] == pytest.approx((code == 0).float().mean().item(), rel=1e-6)


def test_an_encoder_without_subspaces_is_measured_as_far_as_it_can_be():
    found = layers.coding_rate(frozen(vit(**{**SMALL, "dim": 32})), samples=20)
    assert set(found) == {"rate_1", "sparsity_1", "rate_2", "sparsity_2"}
    assert found["sparsity_1"] == found["sparsity_2"] == 0
    assert layers.coding_rate(frozen(vit(**{**SMALL, "dim": 32})), samples=20, tolerance=1e9)["sparsity_1"] == 1
    with pytest.raises(UsageError, match="which TimmEncoder is not: it measures vision/crate"):
        layers.coding_rate(frozen(resnet(depth=10, width=8, stem="small", image_size=32)))
    with pytest.raises(UsageError, match="eps=0"):
        layers.coding_rate(frozen(encoder()), eps=0)


# --- weights from and for elsewhere


def published(made: Crate) -> dict[str, Tensor]:
    """This encoder's weights under the names of the authors' checkpoints, with what those hold besides."""
    own = made.model.state_dict()
    found = {name: own[name] for name in ("cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias")}
    found |= {"decoder_pos_embed": own["pos_embed"], "pos_embed": torch.full_like(own["pos_embed"], 7.0)}
    found |= {"mask_token": torch.randn(1, 1, 24), "decoder_embed.weight": torch.randn(24, 24)}
    for number in range(made.layers):
        ours, theirs = f"blocks.{number}", f"blocks.{number}.layers.0"
        for kind in ("weight", "bias"):
            found[f"{theirs}.0.norm.{kind}"] = own[f"{ours}.norm1.{kind}"]
            found[f"{theirs}.1.norm.{kind}"] = own[f"{ours}.norm2.{kind}"]
            found[f"{theirs}.0.fn.to_out.0.{kind}"] = own[f"{ours}.attn.out.{kind}"]
            found[f"norm.{kind}"] = own[f"norm.{kind}"]
        found[f"{theirs}.0.fn.qkv.weight"] = own[f"{ours}.attn.subspaces.weight"]
        found[f"{theirs}.1.fn.weight"] = own[f"{ours}.ista.dictionary"]
        found[f"decoder_{theirs}.0.fn.weight"] = torch.randn(24, 24)
    return found


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_authors_checkpoints_are_read_with_the_table_that_they_use(tmp_path, prefix):
    source, target = encoder(), encoder(seed=1)
    weights = {f"{prefix}{name}": value for name, value in published(source).items()}
    torch.save({"model": weights}, tmp_path / "authors.pth")
    report = export.initialise(target, str(tmp_path / "authors.pth"), Catalog([]))
    assert report["missing"] == report["misshapen"] == []
    assert torch.equal(target(images()), source(images()))


def test_a_table_of_another_size_is_fitted():
    larger = encoder(image_size=64)
    assert larger.adapted(renamed(published(encoder())))["pos_embed"].shape == (1, 65, 24)


def test_an_export_holds_the_networks_source_and_needs_nothing_of_ours(tmp_path):
    for options in ({}, {"pool": "avg", "tied_output": True}, {"pool": "avg", "class_token": False, "fused": False}):
        made = encoder(**options)
        save_file(made.exported(), tmp_path / "model.safetensors")
        code = made.loading_code(str(tmp_path / "model.safetensors"))
        assert not re.search(r"^\s*(from|import) unlabel", code, re.MULTILINE)
        space: dict[str, object] = {"__name__": "snippet"}
        exec(code, space)
        assert type(space["model"]) is not CrateNetwork
        assert not space["model"].training
        assert torch.allclose(space["model"](made.example(4)), made(made.example(4)), rtol=0, atol=1e-6)


def test_the_networks_file_knows_nothing_of_this_package():
    source = Path(crate_network.__file__).read_text(encoding="utf-8")
    assert "import unlabel" not in source
    assert "from unlabel" not in source


# --- in other tasks


OTHERS = {
    "mae": lambda made: MAE(made, decoder_dim=16, decoder_depth=1, decoder_heads=2),
    "droppos": lambda made: DropPos(made, mask_ratio=0.5, decoder_dim=16, decoder_depth=1, decoder_heads=2),
    "mixedae": lambda made: MixedAE(made, decoder_dim=16, decoder_depth=1, decoder_heads=2),
    "gmml": lambda made: GMML(made, blocks=(1, 2)),
    "mp3": MP3,
    "simclr": lambda made: SimCLR(made, hidden=16, out=8),
    "rotation": Rotation,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_tasks_train_it_and_reach_every_part(name):
    torch.manual_seed(0)
    sizes = {"class_token": False} if name == "mp3" else {}
    made = OTHERS[name](crate(**{**SMALL, "pool": "token" if name not in ("mp3", "gmml") else "avg", **sizes}))
    pixels = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    given = {
        "image": pixels,
        "view1": pixels,
        "view2": pixels.flip(2),
        "key": torch.arange(8) * 977,
        "index": torch.arange(8),
    }
    terms = made.loss(given)
    sum(value for part, value in terms.items() if part.startswith("loss")).backward()
    without = {part for part, p in made.encoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert without == {"model.pos_embed"}
    assert made.encode(given).shape == (8, 24)
    assert made.encoder.layer_of("model.blocks.1.ista.dictionary") == 2


def test_attention_in_a_part_of_the_tokens_leaves_the_others_out():
    made = encoder()
    keep = torch.tensor([[3, 9, 0], [15, 1, 4], [2, 8, 6]])
    tokens = made.tokens(images(), keep)
    assert tokens.shape == (3, 4, 24)
    changed = images()
    changed[0, :, :8, 8:16] = 5.0  # patch 1 of the first image, which is not kept
    assert torch.equal(made.tokens(changed, keep), tokens)


# --- pictures


@pytest.mark.parametrize("make", [encoder, lambda: vit(**{**SMALL, "dim": 32}).eval()])
def test_pictures_show_where_the_last_layer_looks_and_what_is_alike(make):
    made = make()
    tokens, attention = attention_pictures.tokens_and_attention(made, images())
    assert torch.allclose(tokens, made.tokens(images())[:, 1:], rtol=1e-4, atol=1e-5)
    assert attention.shape == (3, 4, 16)
    assert (attention.sum(-1) < 1).all()  # the class token itself has the rest
    block = made.model.blocks[-1]
    query, key, _ = project(
        block.attn, block.norm1(made.outputs(made.with_class(made.embed(images()) + made.positions))[-2])
    )
    expected = (query[:, :, :1] @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)[:, :, 0, 1:]
    assert torch.allclose(attention, expected, rtol=1e-4, atol=1e-5)
    found = attention_pictures.pictures(made, images())
    assert {name: picture.shape for name, picture in found.items()} == {
        "attention": (3 * 34 - 2, 5 * 34 - 2, 3),
        "tokens": (3 * 34 - 2, 2 * 34 - 2, 3),
    }
    brightest = attention[0, 0].argmax().item()
    row, column = divmod(brightest, 4)
    assert (found["attention"][8 * row : 8 * row + 8, 34 + 8 * column : 34 + 8 * column + 8] == 255).all()


def test_colours_are_principal_components():
    tokens = torch.zeros(1, 16, 24)
    tokens[0, :, 5] = torch.arange(16.0)
    tokens[0, ::2, 7] = 1.0
    ours = attention_pictures.colours(tokens)
    assert torch.allclose(ours[0, :, 0], torch.arange(16.0) / 15, atol=0.1)
    assert ours.min() == 0
    assert ours.max() == 1


# --- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "dim=24 must be a multiple of 4 and of heads=5"),
        ({"image_size": 30}, "image_size=30 is not a multiple of patch_size=8; 32 is"),
        ({"step": 0.0}, "step=0.0 must be above 0; 0.1 is the paper's"),
        ({"threshold": -1.0}, "threshold=-1.0 must be 0 or more; 0.5 is the paper's"),
        ({"class_token": False}, "use encoder.pool='avg'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        crate(**{**SMALL, **options})


def test_no_library_publishes_its_weights():
    with pytest.raises(UsageError, match="Crate knows no published weights; give a file"):
        encoder().published("timm", "vit_tiny_patch16_224")
