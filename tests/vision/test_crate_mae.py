"""CRATE-MAE: an independent implementation in float64, the published sizes, and what must not leak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unlabel import optim, seeds
from unlabel.errors import UsageError
from unlabel.nn import masking, patches, positions
from unlabel_vision import views
from unlabel_vision.encoders.crate import crate
from unlabel_vision.encoders.resnet import resnet
from unlabel_vision.encoders.vit import vit
from unlabel_vision.evaluations import layers as evaluated
from unlabel_vision.tasks import crate_mae
from unlabel_vision.tasks.crate_mae import CrateDecoderBlock, CrateMAE, coding_rate
from unlabel_vision.tasks.mae import MAE

SMALL = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "heads": 4}
SIZES = {"tiny": (384, 6, 12), "small": (576, 12, 12), "base": (768, 12, 12), "large": (1024, 16, 24)}


def task(encoder: dict[str, object] | None = None, **options) -> CrateMAE:
    torch.manual_seed(0)
    return CrateMAE(crate(**{**SMALL, **(encoder or {})}), **options)


def randomised(**options) -> CrateMAE:
    """Every trainable weight random, so that a part that does nothing shows."""
    made = task(**options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return made


def images(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def noise(count: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(count, 16, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return {"image": torch.from_numpy(pixels), "key": torch.arange(count) * 977 + seed}


# --- an independent implementation: columns, one image at a time


class Reference:
    """The published network from a task's weights, in float64; tokens are the columns of (D, T)."""

    def __init__(self, made: CrateMAE):
        named = made.named_parameters()
        self.leaves = {name: p.detach().double().requires_grad_() for name, p in named if p.requires_grad}

    def norm(self, z: Tensor, name: str, eps: float) -> Tensor:
        centred = z - z.mean(0)
        scaled = centred / ((centred**2).mean(0) + eps).sqrt()
        return self.leaves[f"{name}.weight"][:, None] * scaled + self.leaves[f"{name}.bias"][:, None]

    def mssa(self, z: Tensor, name: str, heads: int = 4) -> Tensor:
        basis, back = self.leaves[f"{name}.subspaces.weight"], self.leaves[f"{name}.out.weight"]
        width = len(z) // heads
        total = self.leaves[f"{name}.out.bias"][:, None].expand(-1, z.shape[1])
        for k in range(heads):
            rows = slice(k * width, (k + 1) * width)
            inside = basis[rows] @ z  # U_k^T Z
            heat = torch.exp(inside.T @ inside / width**0.5)
            total = total + back[:, rows] @ inside @ (heat / heat.sum(0))  # columns sum to 1
        return total

    def encoded(self, z: Tensor) -> Tensor:
        for number in range(2):
            block = f"encoder.model.blocks.{number}"
            half = z + self.mssa(self.norm(z, f"{block}.norm1", 1e-5), f"{block}.attn")
            v, d = self.norm(half, f"{block}.norm2", 1e-5), self.leaves[f"{block}.ista.dictionary"]
            z = (v + 0.1 * (d.T @ v - d.T @ d @ v) - 0.1 * 0.5).clamp(min=0)
        return self.norm(z, "encoder.model.norm", 1e-6)

    def decoded(self, z: Tensor) -> Tensor:
        for number in range(2):
            block = f"decoder.blocks.{number}"
            moved = self.leaves[f"{block}.weight"] @ self.norm(z, f"{block}.norm1", 1e-5)
            z = moved - self.mssa(self.norm(moved, f"{block}.norm2", 1e-5), f"{block}.attn")
        z = self.norm(z, "decoder.norm", 1e-6)
        return self.leaves["decoder.predict.weight"] @ z + self.leaves["decoder.predict.bias"][:, None]

    def loss(self, images: Tensor, noise: Tensor, norm_pix: bool) -> Tensor:
        projection = self.leaves["encoder.model.patch_embed.proj.weight"].flatten(1)
        bias = self.leaves["encoder.model.patch_embed.proj.bias"]
        table = positions.sincos(24, (4, 4), class_row=True, dtype=torch.float64)
        errors = []
        for image, values in zip(images.double(), noise.tolist(), strict=True):
            keep = set(sorted(range(16), key=lambda place: values[place])[:4])
            columns = [self.leaves["encoder.model.cls_token"][0, 0]]
            pixels = [image[:, 8 * (i // 4) :, 8 * (i % 4) :][:, :8, :8] for i in range(16)]
            for place in range(16):
                shown = projection @ pixels[place].flatten() + bias
                columns.append(shown if place in keep else self.leaves["mask_token"][0, 0])
            prediction = self.decoded(self.encoded(torch.stack(columns, 1) + table.T))
            for place in set(range(16)) - keep:
                target = pixels[place].permute(1, 2, 0).flatten()
                if norm_pix:
                    target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
                errors.append(((prediction[:, 1 + place] - target) ** 2).mean())
        return torch.stack(errors).mean()


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_and_every_gradient_match_an_independent_implementation(norm_pix):
    made = randomised(norm_pix=norm_pix)
    reference = Reference(made)
    expected = reference.loss(images(), noise(), norm_pix)
    expected.backward()

    ours = made.loss_of(images(), noise())["loss"]
    ours.backward()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)
    assert reference.leaves.keys() == {name for name, p in made.named_parameters() if p.grad is not None}
    for name, weight in reference.leaves.items():
        gradient = made.get_parameter(name).grad
        # float32 against float64: within 2e-5 of the largest entry
        assert (gradient - weight.grad).abs().max() < 2e-5 * weight.grad.abs().max(), name


# --- the decoder's layers


def test_a_decoder_layer_subtracts_attention_after_a_linear_map():
    torch.manual_seed(0)
    block, tokens = CrateDecoderBlock(24, 4), torch.randn(2, 7, 24)
    normalised = torch.nn.functional.layer_norm(tokens, (24,), eps=1e-5)
    linear = normalised @ block.weight.T
    expected = linear - block.attn(torch.nn.functional.layer_norm(linear, (24,), eps=1e-5))
    assert torch.allclose(block(tokens), expected, rtol=0, atol=1e-6)
    assert block.weight.shape == (24, 24)
    assert block.weight.abs().max() <= (6 / 24) ** 0.5
    assert {block.norm1.eps, block.norm2.eps} == {1e-5}


def test_nothing_passes_a_decoder_layer_but_through_its_map():
    block, tokens = CrateDecoderBlock(24, 4), torch.randn(2, 7, 24)
    with torch.no_grad():
        block.weight.zero_()
        torch.nn.init.normal_(block.norm2.bias)
    expected = -block.attn(block.norm2(torch.zeros(2, 7, 24)))
    assert torch.equal(block(tokens), expected)
    assert expected.abs().max() > 0.1
    assert torch.equal(block(3 * tokens + 1), expected)


# --- sizes and cost


@pytest.mark.parametrize(("name", "millions"), [("tiny", 11.56), ("small", 25.41), ("base", 44.64), ("large", 154.27)])
def test_networks_have_the_published_sizes_less_what_is_never_used(name, millions):
    dim, heads, depth = SIZES[name]
    with torch.device("meta"):
        made = CrateMAE(crate(dim=dim, heads=heads, depth=depth))
    ours = sum(p.numel() for p in made.parameters())  # with the position table, which is not trained
    unused = dim * dim + dim + 197 * dim  # a map between encoder and decoder, and a second table
    assert round((ours + unused) / 1e6, 2) == millions
    if name == "base":
        assert unused - 197 * dim == 590_592
        assert ours + unused == 44_638_464
        layer = sum(p.numel() for p in made.encoder.model.blocks.parameters())
        assert layer == sum(p.numel() for p in made.decoder.blocks.parameters()) == 21_279_744


@pytest.mark.slow
def test_the_published_cost_is_that_of_all_tokens_in_three_products():
    def macs(options: dict[str, object], **more) -> float:
        with torch.device("meta"):
            made, image, values = CrateMAE(crate(**options), **more), torch.zeros(1, 3, 224, 224), torch.zeros(1, 196)
        mask = masking.from_noise(values, 0.75)
        with FlopCounterMode(display=False) as counter:
            made.predict(image, mask)
        return counter.get_total_flops() / 2e9

    published = macs({"fused": False})
    assert published == pytest.approx(7.7 + 4.9, rel=0.02)
    assert published - macs({}) == pytest.approx(12 * 768**2 * 197 / 1e9, rel=1e-3)
    assert macs({}, drop_masked=True) < macs({}) - 4  # three quarters of the encoder


# --- the mask


def test_no_gradient_of_any_prediction_reaches_removed_pixels():
    for options in ({}, {"drop_masked": True}):
        made, pixels = randomised(**options), images().requires_grad_()
        mask = masking.from_noise(noise(), 0.75)
        prediction, _ = made.predict(pixels, mask)
        (prediction * torch.randn_like(prediction)).sum().backward()
        gradient = patches.patchify(pixels.grad, 8)
        assert (gradient[mask.mask == 1] == 0).all()
        assert (gradient[mask.mask == 0].abs().amax(1) > 0).all()


def test_the_encoder_sees_every_place_and_removed_ones_differ_by_position_alone():
    made, seen = randomised(), []
    made.encoder.model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mask = masking.from_noise(noise(), 0.75)
    made.predict(images(), mask)
    assert seen[0].shape == (3, 17, 24)
    hidden = mask.mask.bool()
    without = seen[0][:, 1:] - made.encoder.positions
    assert torch.allclose(without[hidden], made.mask_token[0].expand(36, -1), rtol=0, atol=1e-6)
    assert torch.allclose(without[~hidden], made.encoder.embed(images())[~hidden], rtol=0, atol=1e-6)

    short = []
    variant = randomised(drop_masked=True)
    variant.encoder.model.blocks[0].register_forward_pre_hook(lambda _, inputs: short.append(inputs[0].shape))
    variant.predict(images(), mask)
    assert short == [(3, 5, 24)]


def test_the_mask_token_learns_through_the_encoder():
    made = randomised()
    mask = masking.from_noise(noise(), 0.75)
    _, layers = made.predict(images(), mask)
    visible = layers[-1].code[:, 1:][mask.mask == 0]  # of other places: attention carried it there
    visible.sum().backward()
    assert made.mask_token.grad.abs().max() > 0


@pytest.mark.parametrize("drop_masked", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_reach_everything_but_the_position_table(drop_masked, tied):
    made = task({"tied_output": tied}, drop_masked=drop_masked)
    made.loss(batch())["loss"].backward()
    without = {name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert without == {"encoder.model.pos_embed"}


def test_the_variant_puts_removed_places_before_the_decoder():
    made, seen = randomised(drop_masked=True), []
    made.decoder.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mask = masking.from_noise(noise(), 0.75)
    made.predict(images(), mask)
    encoded = made.encoder.tokens(images(), mask.keep)
    assert torch.allclose(seen[0][:, 0], encoded[:, 0], rtol=0, atol=1e-5)
    for sample in range(3):
        for slot, place in enumerate(mask.keep[sample].tolist()):
            expected = encoded[sample, 1 + slot] + made.encoder.positions[place]
            assert torch.allclose(seen[0][sample, 1 + place], expected, rtol=0, atol=1e-5)
    hidden = (seen[0][:, 1:] - made.encoder.positions)[mask.mask == 1]
    assert torch.allclose(hidden, made.mask_token[0].expand(36, -1), rtol=0, atol=1e-6)


def test_visible_patches_do_not_enter_the_loss():
    made = randomised(monitored=0)
    mask = masking.from_noise(noise(), 0.75)
    captured = []
    made.decoder.register_forward_hook(lambda _, __, output: captured.append(output) or output.retain_grad())
    made.loss_of(images(), noise())["loss"].backward()
    assert (captured[0].grad[mask.mask == 0] == 0).all()
    assert (captured[0].grad[mask.mask == 1].abs().amax(1) > 0).all()


def test_masks_come_from_the_key_alone_and_are_maes():
    made, given = randomised(monitored=0), batch()
    loss = made.loss(given)["loss"].item()
    halves = [{name: values[part] for name, values in given.items()} for part in (slice(3), slice(3, 6))]
    assert np.mean([made.loss(half)["loss"].item() for half in halves]) == pytest.approx(loss, rel=1e-6)
    seen = []
    for other in (made, MAE(vit(**{**SMALL, "dim": 32}), decoder_dim=16, decoder_depth=1, decoder_heads=2)):
        own = other.loss_of
        other.loss_of = lambda pixels, values, own=own: seen.append(values) or own(pixels, values)
        other.loss(given)
    assert torch.equal(seen[0], seen[1])


# --- numbers of the layers


def test_the_logged_numbers_are_those_of_the_layers_of_the_first_images():
    made, given = randomised(monitored=2), batch()
    terms = made.loss(given)
    names = {f"{name}_{number}" for name in ("compression", "rate", "sparsity") for number in (1, 2)}
    assert set(terms) == {"loss"} | names
    assert not any(terms[name].requires_grad for name in names)
    assert set(randomised(monitored=0).loss(given)) == {"loss"}

    mask = masking.from_noise(seeds.uniform(given["key"], (16,)), 0.75)
    with torch.no_grad():
        _, layers = made.predict(views.to_float(given["image"]), mask)
    for number, layer in enumerate(layers, start=1):
        code, inside = layer.code[:2], layer.coordinates[:2]
        assert terms[f"sparsity_{number}"].item() == pytest.approx((code == 0).float().mean().item())
        assert terms[f"rate_{number}"].item() == pytest.approx(coding_rate.coding_rate(code[:, None]).mean().item())
        assert terms[f"compression_{number}"].item() == pytest.approx(coding_rate.coding_rate(inside).mean().item())


def shades(count: int) -> Tensor:
    """Colours that change slowly over the image, so that a removed patch resembles its neighbours: uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 2, 2, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 1)
    return (fine * 255).to(torch.uint8).permute(0, 2, 3, 1)


def taught(made: CrateMAE | MAE, pixels: Tensor, steps: int = 150) -> float:
    """Train a little; the last losses over the error of the best constant."""
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)
    losses = []
    for step in range(steps):
        chosen = torch.arange(32) + 32 * (step % 8)
        loss = made.loss({"image": pixels[chosen], "key": chosen + 1000 * step})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    constant = views.to_float(pixels).transpose(0, 1).flatten(1).var(1).mean().item()
    return float(np.mean(losses[-20:])) / constant


@pytest.mark.slow
def test_trained_layers_compress_and_sparsify_and_those_of_a_vit_do_not():
    """Along the layers R^c(Z^(l + 1/2)) falls, within most layers too, and late codes are mostly zeros."""
    pixels, size = shades(256), {"image_size": 32, "patch_size": 8, "dim": 48, "depth": 4, "heads": 4}
    torch.manual_seed(0)
    white = CrateMAE(crate(**size), monitored=0)
    black = MAE(vit(**size), decoder_dim=48, decoder_depth=2, decoder_heads=4, norm_pix=False)
    found = []
    for made in (white, black):
        assert taught(made, pixels) < 0.95
        numbers = evaluated.measured(made.encoder, views.to_float(pixels[:32]))
        found.append({name: value.mean().item() for name, value in numbers.items()})
    ours, other = found
    compression = [ours[f"compression_{number}"] for number in range(1, 5)]
    assert compression == sorted(compression, reverse=True)
    assert sum(ours[f"incoming_{number}"] > compression[number - 1] for number in range(1, 5)) >= 3
    assert min(ours["sparsity_3"], ours["sparsity_4"]) > 0.5
    assert max(other[f"sparsity_{number}"] for number in range(1, 5)) < 1e-3


# --- around the loss


def test_the_representation_is_the_class_token_of_the_whole_image():
    made, given = randomised(), batch(3)
    with torch.no_grad():
        assert torch.equal(made.encode(given), made.encoder.tokens(views.to_float(given["image"]))[:, 0])


def test_pictures_show_masks_reconstructions_attention_and_tokens():
    made, given = randomised(), batch(10)
    found = made.show(given)
    assert {name: picture.shape[1] // 34 for name, picture in found.items()} == {
        "reconstruction": 2,
        "attention": 4,
        "tokens": 1,
    }
    picture = found["reconstruction"]
    assert np.array_equal(picture[:32, :32], given["image"][0].numpy())
    same = (picture[:32, :32] == picture[:32, 34:66]).reshape(4, 8, 4, 8, 3).all(axis=(1, 3, 4))
    assert same.sum() == 4


def test_paper_recipe_decays_the_raw_matrices_too():
    stage, made = crate_mae.paper().stages[0], task()
    decayed = {id(p) for group in optim.groups(made, stage) if group["weight_decay"] > 0 for p in group["params"]}
    assert {id(made.encoder.model.blocks[0].ista.dictionary), id(made.decoder.blocks[0].weight)} <= decayed
    for parameter in made.parameters():
        assert (id(parameter) in decayed) == (parameter.requires_grad and parameter.ndim > 1)
    assert stage.resolved(4096 * 100).peak_lr == pytest.approx(1.5e-4 * 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_dim": 32}, r"decoder_dim=32, but decoder layers take the encoder's tokens .* encoder.dim=24"),
        ({"decoder_heads": 5}, "divides encoder.dim=24"),
        ({"decoder_depth": 0}, "decoder_depth=0"),
        ({"mask_ratio": 0.95}, "leaves none of 16"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        task(**options)


def test_a_width_that_is_the_encoders_may_be_said():
    assert task(decoder_dim=24, decoder_depth=1, decoder_heads=2).decoder.blocks[0].attn.heads == 2


def test_other_encoders_are_refused_with_what_fits():
    with pytest.raises(UsageError, match="which ViT has not: use --encoder vision/crate"):
        CrateMAE(vit(**{**SMALL, "dim": 32}))
    with pytest.raises(UsageError, match="which TimmEncoder cannot do"):
        CrateMAE(resnet(depth=10, width=8, stem="small", image_size=32))
    with pytest.raises(UsageError, match="needs a class token"):
        CrateMAE(crate(**SMALL, class_token=False, pool="avg"))
