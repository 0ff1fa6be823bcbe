"""MAE: the published numbers, an independent implementation in float64, and what must not leak."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unlabel import optim
from unlabel.errors import UsageError
from unlabel.nn import masking, patches, positions
from unlabel_vision import masked_autoencoder, views
from unlabel_vision.encoders.resnet import resnet
from unlabel_vision.encoders.vit import vit
from unlabel_vision.tasks import mae
from unlabel_vision.tasks.mae import MAE

DECODER = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}


def task(**options) -> MAE:
    torch.manual_seed(0)
    return MAE(vit(image_size=32, patch_size=8, dim=32, depth=2, heads=4), **{**DECODER, **options})


def randomised(**options) -> MAE:
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


# --- an independent implementation: one image and one patch at a time


def normalised(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred**2).mean(-1, keepdim=True) + 1e-6
    return centred / spread.sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def attended(x: Tensor, weights: dict[str, Tensor], name: str, heads: int) -> Tensor:
    dim = x.shape[1]
    qkv, width = linear(x, weights, f"{name}.qkv"), dim // heads
    outputs = []
    for head in range(heads):
        query, key, value = (qkv[:, part * dim + head * width :][:, :width] for part in range(3))
        scores = query @ key.T / math.sqrt(width)
        outputs.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ value)
    return linear(torch.cat(outputs, dim=1), weights, f"{name}.proj")


def transformed(x: Tensor, weights: dict[str, Tensor], prefix: str, depth: int, heads: int) -> Tensor:
    for number in range(depth):
        block = f"{prefix}.{number}"
        x = x + attended(normalised(x, weights, f"{block}.norm1"), weights, f"{block}.attn", heads)
        hidden = linear(normalised(x, weights, f"{block}.norm2"), weights, f"{block}.mlp.fc1")
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), weights, f"{block}.mlp.fc2")
    return x


def code(place: int, dim: int, order: str) -> Tensor:
    """Position of a patch of a 4 x 4 grid: dim/2 numbers for the column and as many for the row, or the reverse."""
    row, column = divmod(place, 4)
    angles = [[p / 10000 ** (i / (dim // 4)) for i in range(dim // 4)] for p in (row, column)]
    rows, columns = ([math.sin(a) for a in some] + [math.cos(a) for a in some] for some in angles)
    return torch.tensor(columns + rows if order == "xy" else rows + columns, dtype=torch.float64)


def pixels_of(image: Tensor, place: int) -> Tensor:
    top, left = 8 * (place // 4), 8 * (place % 4)
    return image[:, top : top + 8, left : left + 8]


def latent_of(weights: dict[str, Tensor], image: Tensor, keep: list[int], order: str) -> Tensor:
    """Class token, then the visible patches in shuffled order: (1 + K, 32)."""
    projection = weights["encoder.model.patch_embed.proj.weight"].flatten(1)
    bias = weights["encoder.model.patch_embed.proj.bias"]
    tokens = [projection @ pixels_of(image, place).flatten() + bias + code(place, 32, order) for place in keep]
    sequence = torch.stack([weights["encoder.model.cls_token"][0, 0], *tokens])
    return normalised(transformed(sequence, weights, "encoder.model.blocks", 2, 4), weights, "encoder.model.norm")


def prediction_of(weights: dict[str, Tensor], latent: Tensor, keep: list[int], order: str) -> Tensor:
    """Pixels of all patches: (16, 192)."""
    embedded = linear(latent, weights, "decoder.embed")
    full = [weights["decoder.mask_token"][0, 0]] * 16
    for number, place in enumerate(keep):
        full[place] = embedded[1 + number]
    sequence = torch.stack([embedded[0], *(token + code(i, 16, order) for i, token in enumerate(full))])
    decoded = normalised(transformed(sequence, weights, "decoder.transformer.blocks", 2, 2), weights, "decoder.norm")
    return linear(decoded, weights, "decoder.predict")[1:]


def reference(weights: dict[str, Tensor], images: Tensor, noise: Tensor, norm_pix: bool, order: str = "xy") -> Tensor:
    """The loss of He et al. at a ratio of 0.75, in float64."""
    total, removed = torch.zeros((), dtype=torch.float64), 0
    for image, values in zip(images.double(), noise.tolist(), strict=True):
        keep = sorted(range(16), key=lambda place: values[place])[:4]
        prediction = prediction_of(weights, latent_of(weights, image, keep, order), keep, order)
        for place in set(range(16)) - set(keep):
            target = pixels_of(image, place).permute(1, 2, 0).flatten()
            if norm_pix:
                variance = ((target - target.mean()) ** 2).sum() / 191
                target = (target - target.mean()) / (variance + 1e-6).sqrt()
            total = total + ((prediction[place] - target) ** 2).mean()
            removed += 1
    return total / removed


def leaves(made: torch.nn.Module) -> dict[str, Tensor]:
    """The trainable weights in float64, with gradients of their own."""
    named = made.named_parameters()
    return {name: p.detach().double().requires_grad_() for name, p in named if p.requires_grad}


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("order", ["xy", "yx"])
def test_loss_and_every_gradient_match_an_independent_implementation(norm_pix, order):
    made = randomised(norm_pix=norm_pix, position_order=order)
    weights = leaves(made)
    expected = reference(weights, images(), noise(), norm_pix, order)
    expected.backward()

    ours = made.loss_of(images(), noise())["loss"]
    ours.backward()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, weight in weights.items():
        gradient = made.get_parameter(name).grad
        # float32 against float64: within 1e-5 of the largest entry
        assert (gradient - weight.grad).abs().max() < 1e-5 * weight.grad.abs().max(), name


def test_latent_is_the_class_token_and_the_visible_patches_in_shuffled_order():
    made = randomised()
    mask = masking.from_noise(noise(), 0.75)
    ours = made.encoder.tokens(images(), mask.keep)
    for sample in range(3):
        keep = noise()[sample].argsort()[:4].tolist()
        assert mask.keep[sample].tolist() == keep
        expected = latent_of(leaves(made), images()[sample].double(), keep, "xy")
        assert torch.allclose(ours[sample].double(), expected, rtol=1e-4, atol=2e-5)


# --- published numbers


@pytest.mark.parametrize("name", ["norm_pix", "raw"])
def test_loss_matches_golden(shared, name):
    data = {key: torch.from_numpy(value) for key, value in np.load(shared / "golden/vision-mae/loss.npz").items()}
    ours = masked_autoencoder.pixel_loss(data["in/imgs"], data["in/pred"], data["in/mask"], 8, name == "norm_pix")
    assert ours.item() == pytest.approx(data[f"out/loss_{name}"].item(), rel=1e-4, abs=2e-5)


def test_position_tables_are_the_published_ones(shared):
    made = MAE(vit(image_size=32, patch_size=8, dim=32, depth=1, heads=4), **{**DECODER, "decoder_dim": 32})
    golden = torch.from_numpy(np.load(shared / "golden/vision-mae/sincos.npz")["pe_d32_g4_cls"])
    for table in (made.encoder.model.pos_embed[0], made.decoder.positions):
        assert (table.double() - golden).abs().max() < 1e-6


def test_paper_recipe_follows_the_published_schedule(shared):
    data = np.load(shared / "golden/vision-mae/lr_schedule.npz")
    per_epoch = 1000
    stage = mae.paper().stages[0].resolved(per_epoch * 4096)
    assert stage.steps == 800 * per_epoch
    ours = [optim.learning_rate(stage, round(epoch * per_epoch)) for epoch in data["epoch"]]
    assert np.allclose(ours, data["lr"][:, 0], rtol=1e-9, atol=1e-15)


def test_paper_recipe_has_the_published_size():
    with torch.device("meta"):
        made = MAE(vit())
    trainable = sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert trainable == 111_655_680
    assert sum(p.numel() for p in made.parameters()) + made.decoder.positions.numel() == 111_907_840
    assert sum(p.numel() for p in made.encoder.parameters()) == 85_798_656


@pytest.mark.slow
def test_paper_recipe_costs_what_was_published():
    with torch.device("meta"):
        made, image, values = MAE(vit()), torch.zeros(1, 3, 224, 224), torch.zeros(1, 196)
    with FlopCounterMode(display=False) as counter:
        made.loss_of(image, values)
    assert counter.get_total_flops() / 2e9 == pytest.approx(9.8, rel=0.02)


def test_paper_recipe_decays_tokens_and_spares_vectors():
    made = task()
    groups = optim.groups(made, mae.paper().stages[0])
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    assert {id(made.encoder.model.cls_token), id(made.decoder.mask_token)} <= decayed
    for parameter in made.parameters():
        assert (id(parameter) in decayed) == (parameter.requires_grad and parameter.ndim > 1)


# --- first weights


def test_first_weights_have_the_published_spread():
    torch.manual_seed(0)
    made = MAE(vit(image_size=64, patch_size=8, dim=128, depth=2, heads=4), decoder_dim=64, decoder_depth=2)
    for name, parameter in made.named_parameters():
        values = parameter.detach().flatten()
        if "token" in name:
            expected = 0.02
        elif "norm" in name:
            assert (values == float(name.endswith("weight"))).all(), name
            continue
        elif name.endswith("proj.weight") and "patch_embed" in name:
            expected = math.sqrt(2 / (128 + 192))
        elif name.endswith("weight"):
            expected = math.sqrt(2 / sum(parameter.shape))  # Xavier, with queries, keys and values as one matrix
            assert values.abs().max() <= math.sqrt(3) * expected, name
        elif "patch_embed" in name:
            expected = 1 / math.sqrt(3 * 192)  # the framework's own, uniform in 1 / sqrt(inputs)
        elif name.endswith("bias"):
            assert (values == 0).all(), name
            continue
        else:
            continue  # the position table
        # the spread of n normal numbers is known to 1 / sqrt(2 n)
        assert values.std().item() == pytest.approx(expected, rel=max(0.05, 4 / math.sqrt(2 * len(values)))), name


def test_the_first_loss_is_one_plus_the_variance_of_the_prediction():
    made = task()
    mask = masking.from_noise(noise(32), 0.75)
    prediction = masked_autoencoder.predict(made.encoder, made.decoder, images(32), mask)
    variance = masking.take(prediction, masking.from_noise(-noise(32), 0.25).keep).square().mean()  # of the removed
    assert made.loss_of(images(32), noise(32))["loss"].item() == pytest.approx(1 + variance.item(), rel=0.02)


# --- what enters the loss, and what does not


def test_no_gradient_of_any_prediction_reaches_removed_pixels():
    made = randomised()
    pixels = images().requires_grad_()
    mask = masking.from_noise(noise(), 0.75)
    prediction = masked_autoencoder.predict(made.encoder, made.decoder, pixels, mask)
    (prediction * torch.randn_like(prediction)).sum().backward()
    gradient = patches.patchify(pixels.grad, 8)
    assert (gradient[mask.mask == 1] == 0).all()
    assert (gradient[mask.mask == 0].abs().amax(1) > 0).all()


def test_changing_a_removed_patch_changes_only_its_target():
    made = randomised(norm_pix=False)
    mask = masking.from_noise(noise(), 0.75)
    place = int(mask.mask[0].nonzero()[0])
    changed = images()
    pixels_of(changed[0], place).add_(1.0)
    first, second = (masked_autoencoder.predict(made.encoder, made.decoder, x, mask) for x in (images(), changed))
    assert torch.equal(first, second)
    # (p - t - 1)^2 - (p - t)^2 = 1 - 2 (p - t), over the 36 removed patches
    target = patches.patchify(images(), 8)[0, place]
    expected = (1 - 2 * (first[0, place] - target)).mean() / 36
    difference = made.loss_of(changed, noise())["loss"] - made.loss_of(images(), noise())["loss"]
    assert difference.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_predicting_zeros_shows_the_unbiased_variance(patch):
    values = 3 * images(4) + 1
    length, count = (32 // patch) ** 2, 3 * patch**2
    mask = masking.from_noise(torch.rand(4, length), 0.5).mask
    loss = masked_autoencoder.pixel_loss(values, torch.zeros(4, length, count), mask, patch)
    assert loss.item() == pytest.approx((count - 1) / count, rel=1e-6)


def test_constant_patches_contribute_nothing_to_predicted_zeros():
    values = images(1)
    values[0, :, :16] = 0.5  # half of the patches
    loss = masked_autoencoder.pixel_loss(values, torch.zeros(1, 16, 192), torch.ones(1, 16), 8)
    assert loss.item() == pytest.approx(191 / 192 / 2, rel=1e-6)


def test_visible_patches_do_not_enter_the_loss():
    prediction = torch.randn(3, 16, 192).requires_grad_()
    mask = masking.from_noise(noise(), 0.75).mask
    loss = masked_autoencoder.pixel_loss(images(), prediction, mask, 8)
    loss.backward()
    assert (prediction.grad[mask == 0] == 0).all()
    assert (prediction.grad[mask == 1] != 0).all()
    wild = torch.where(mask[..., None] == 0, 1e3, prediction)
    assert torch.equal(masked_autoencoder.pixel_loss(images(), wild, mask, 8), loss)


def test_gradients_reach_everything_but_the_position_tables():
    made = task()
    made.loss(batch())["loss"].backward()
    without = {name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert without == {"encoder.model.pos_embed"}
    assert not made.decoder.positions.requires_grad


# --- masks


def test_masks_come_from_the_key_alone():
    made = task()
    given = batch()
    loss = made.loss(given)["loss"].item()
    other_order = {name: values.flip(0) for name, values in given.items()}
    assert made.loss(other_order)["loss"].item() == pytest.approx(loss, rel=1e-6)
    halves = [{name: values[part] for name, values in given.items()} for part in (slice(3), slice(3, 6))]
    assert np.mean([made.loss(half)["loss"].item() for half in halves]) == pytest.approx(loss, rel=1e-6)
    assert made.loss({**given, "key": given["key"] + 1})["loss"].item() != pytest.approx(loss, rel=1e-6)


def test_no_number_of_patches_but_k_reaches_the_encoder():
    for ratio, kept in ((0.75, 4), (0.6, 6), (0.9, 1)):
        made = task(mask_ratio=ratio)
        seen = []
        made.encoder.model.blocks[0].register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0].shape)
        )
        made.loss(batch())
        assert seen == [(6, 1 + kept, 32)]


def test_a_step_does_not_change_its_batch():
    made, given = task(), batch()
    made.loss(given)["loss"].backward()
    assert all(torch.equal(given[name], values) for name, values in batch().items())


def overfitted(fresh: bool, steps: int = 250) -> float:
    """How many times smaller the loss of eight images becomes, with the same or with fresh masks at every step."""
    torch.manual_seed(0)
    made = MAE(vit(image_size=32, patch_size=8, dim=64, depth=2, heads=4), **{**DECODER, "decoder_dim": 64})
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for step in range(steps):
        loss = made.loss_of(images(8), noise(8, seed=step if fresh else 0))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0] / np.mean(losses[-10:])


@pytest.mark.slow
def test_eight_images_are_learnt_by_heart_unless_their_masks_change():
    fixed, fresh = overfitted(fresh=False), overfitted(fresh=True)
    assert fixed > 5
    assert fresh < fixed / 2


# --- around the loss


def test_the_representation_is_the_class_token_of_the_whole_image():
    made, given = randomised(), batch(3)
    with torch.no_grad():
        tokens = made.encoder.tokens(views.to_float(given["image"]))
        assert torch.equal(made.encode(given), tokens[:, 0])


def test_pictures_show_input_mask_and_reconstruction():
    made, given = randomised(), batch(10)
    found = made.show(given)
    assert set(found) == {"reconstruction", "attention", "tokens"}
    picture = found["reconstruction"]
    assert picture.dtype == np.uint8
    assert picture.shape == (8 * 34 - 2, 3 * 34 - 2, 3)  # at most eight images
    kept = masking.from_noise(torch.zeros(1, 16), 0.75).keep.shape[1]
    gray = np.round(255 * np.array(views.IMAGENET_MEAN))
    for row in range(8):
        shown, hidden, rebuilt = (picture[34 * row : 34 * row + 32, 34 * k : 34 * k + 32] for k in range(3))
        assert np.array_equal(shown, given["image"][row].numpy())
        visible = 0
        for place in range(16):
            top, left = 8 * (place // 4), 8 * (place % 4)
            cell = (slice(top, top + 8), slice(left, left + 8))
            if np.array_equal(hidden[cell], shown[cell]):
                visible += 1
                assert np.array_equal(rebuilt[cell], shown[cell])
            else:
                assert (np.abs(hidden[cell] - gray) <= 1).all()
        assert visible == kept


def test_layers_count_the_decoder_after_the_encoder():
    made = task()
    layer = {name: made.layer_of(name) for name, _ in made.named_parameters()}
    assert made.layers == 2
    assert layer["encoder.model.cls_token"] == 0
    assert layer["encoder.model.blocks.1.norm1.weight"] == 2
    assert {value for name, value in layer.items() if name.startswith("decoder.")} == {3}


@pytest.mark.parametrize(("ratio", "message"), [(1.2, "outside"), (0.95, "leaves none of 16"), (1e-17, "removes none")])
def test_ratios_that_leave_nothing_to_do_are_refused_at_once(ratio, message):
    with pytest.raises(UsageError, match=message):
        task(mask_ratio=ratio)


def test_encoders_that_need_all_patches_are_refused():
    with pytest.raises(UsageError, match="vision/mae shows the encoder only some of the patches"):
        MAE(resnet(depth=10, width=8, stem="small", image_size=32))


def test_the_two_tables_of_an_order_belong_together():
    made = task(position_order="yx")
    for table, dim in ((made.encoder.model.pos_embed[0], 32), (made.decoder.positions, 16)):
        assert torch.equal(table, positions.sincos(dim, (4, 4), order="yx", class_row=True))
