"""MixedAE: mixtures that come apart again, attention to exactly k, the published contrast, and no leak."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unlabel.errors import UsageError
from unlabel.nn import masking, patches
from unlabel_vision import masked_autoencoder
from unlabel_vision.encoders.vit import vit
from unlabel_vision.tasks import mixedae
from unlabel_vision.tasks.mae import MAE
from unlabel_vision.tasks.mixedae import MixedAE

DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def task(depth: int = 3, **options) -> MixedAE:
    torch.manual_seed(0)
    return MixedAE(vit(image_size=32, patch_size=4, dim=32, depth=depth, heads=4), **{**DECODER, **options})


def randomised(**options) -> MixedAE:
    """Every trainable weight random, so that a part that does nothing shows."""
    made = task(**options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return made


def images(count: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def assignment(groups: int = 2, group: int = 4, seed: int = 0) -> Tensor:
    return mixedae.sources(torch.rand(groups, 64, generator=torch.Generator().manual_seed(seed)), group)


def batch(count: int = 8, seed: int = 0) -> dict[str, Tensor]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    number = torch.arange(count)
    return {"image": torch.from_numpy(pixels), "key": number * 977 + seed, "index": number}


# --- mixing


@pytest.mark.parametrize("group", [2, 4, 8])
def test_every_image_gives_as_many_patches_and_each_place_is_fair(group):
    chosen = mixedae.sources(torch.rand(4000, 64, generator=torch.Generator().manual_seed(0)), group)
    for image in range(group):
        assert ((chosen == image).sum(1) == 64 // group).all()
        # a standard error of a share p over 4000 draws is below sqrt(p / 4000); 64 places: 4.5 of them
        assert ((chosen == image).float().mean(0) - 1 / group).abs().max() < 4.5 * math.sqrt(1 / group / 4000)


def test_mixing_tokens_is_mixing_pixels_patch_by_patch():
    made, chosen = randomised(), assignment()
    mixed = torch.empty(2, 3, 32, 32)
    for group in range(2):
        for place in range(64):
            top, left = 4 * (place // 8), 4 * (place % 8)
            cell = (slice(None), slice(top, top + 4), slice(left, left + 4))
            mixed[group][cell] = images()[4 * group + chosen[group, place]][cell]
    ours = mixedae.mix(made.encoder.embed(images()), chosen)
    assert torch.allclose(ours, made.encoder.embed(mixed), rtol=0, atol=1e-6)
    assert torch.equal(mixedae.mix(patches.patchify(images(), 4), chosen), patches.patchify(mixed, 4))


def test_taking_apart_gives_each_image_its_own_tokens_at_their_places():
    chosen, token = assignment(), torch.full((1, 1, 5), 7.0)
    tokens = torch.randn(8, 64, 5)
    own = mixedae.owned(chosen, 4)
    apart = mixedae.unmix(mixedae.mix(tokens, chosen), own, token)
    assert torch.equal(apart, torch.where(own[..., None], tokens, token))
    assert (own.view(2, 4, 64).sum(1) == 1).all()


def test_segments_mark_the_images_of_a_group():
    made, chosen = randomised(), assignment()
    seen = []
    made.encoder.model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made.encode_mixed(images(), chosen)
    tokens = mixedae.mix(made.encoder.embed(images()), chosen) + made.encoder.positions
    for group in range(2):
        for place in range(64):
            expected = tokens[group, place] + made.segments[chosen[group, place]]
            assert torch.allclose(seen[0][group, 1 + place], expected, rtol=0, atol=1e-6)


def test_in_full_mode_every_patch_of_every_image_is_seen_once():
    made = randomised(compose=False)
    seen = []
    made.encode_mixed = lambda given, chosen: (
        seen.append((given, chosen)),
        MixedAE.encode_mixed(made, given, chosen),
    )[1]
    terms = made.loss_of(images(), assignment())
    [(given, chosen)] = seen
    assert chosen.shape == (8, 64)
    own = mixedae.owned(chosen, 4).view(4, 8, 64)  # (assignment, image, patch)
    assert (own.sum(0) == 1).all()
    assert torch.equal(given, images().repeat(4, 1, 1, 1))
    assert all(torch.isfinite(value) for value in terms.values())


# --- attention


def test_attention_keeps_exactly_the_largest_scores():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 17, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    for count in (4, 8, 17):
        chosen = mixedae.top_k(query, key, count)
        assert (chosen.sum(-1) == count).all()
        for n, head, place in np.ndindex(2, 4, 17):
            scores = [float(query[n, head, place] @ key[n, head, other]) / math.sqrt(8) for other in range(17)]
            best = sorted(range(17), key=lambda other: -scores[other])[:count]
            assert set(chosen[n, head, place].nonzero().flatten().tolist()) == set(best)
        ours = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=chosen)
        scores = query @ key.transpose(2, 3) / math.sqrt(8)
        cut = scores.sort(-1, descending=True).values[..., count - 1 : count]
        expected = torch.where(scores >= cut, scores, -torch.inf).softmax(-1) @ value
        assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-12)


def test_equal_scores_do_not_let_more_keys_in():
    chosen = mixedae.top_k(torch.zeros(1, 1, 5, 4), torch.zeros(1, 1, 9, 4), 3)
    assert (chosen.sum(-1) == 3).all()


def test_all_blocks_but_the_first_attend_to_a_group_share_of_the_tokens(monkeypatch):
    made = randomised()
    counts = []
    original = mixedae.top_k
    monkeypatch.setattr(mixedae, "top_k", lambda q, k, count: (counts.append(count), original(q, k, count))[1])
    made.loss(batch())
    assert counts == [16, 16]


def test_attention_to_everything_is_ordinary_attention(monkeypatch):
    made, chosen = randomised(), assignment()
    plain = randomised(attention="full")
    assert not torch.allclose(
        made.encode_mixed(images(), chosen)[0], plain.encode_mixed(images(), chosen)[0], atol=1e-3
    )
    monkeypatch.setattr(mixedae, "top_k", lambda q, k, _: torch.ones(q.shape[0], q.shape[1], 65, 65, dtype=torch.bool))
    ours, expected = made.encode_mixed(images(), chosen)[0], plain.encode_mixed(images(), chosen)[0]
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_the_share_of_homologous_keys_counts_neither_oneself_nor_the_class_token():
    chosen = assignment(3)
    same = chosen[:, :, None] == chosen[:, None]
    generator = torch.Generator().manual_seed(0)
    attended = mixedae.top_k(torch.randn(3, 2, 65, 8, generator=generator), torch.randn(3, 2, 65, 8), 16)
    good = total = 0
    for n, head, place, other in np.ndindex(3, 2, 64, 64):
        if place != other and attended[n, head, 1 + place, 1 + other]:
            total += 1
            good += bool(chosen[n, place] == chosen[n, other])
    assert mixedae.homologous_share(attended, same).item() == pytest.approx(good / total, rel=1e-6)
    everything = torch.ones_like(attended)
    assert mixedae.homologous_share(everything, same).item() == pytest.approx(15 / 63, rel=1e-6)


def test_with_the_true_images_as_mask_each_is_encoded_as_if_alone():
    made = randomised(attention="oracle", contrast_weight=0.0, segments=False)
    chosen = assignment()
    encoded, _ = made.encode_mixed(images(), chosen)
    placed = made.encoder.embed(images()) + made.encoder.positions
    own = mixedae.owned(chosen, 4)
    for image in range(8):
        alone = made.encoder.run(placed[image : image + 1, own[image]])  # without a class token
        mixed = encoded[image // 4, 1:][own[image]]
        assert torch.allclose(mixed, alone[0], rtol=1e-4, atol=1e-5)


# --- contrast


@pytest.mark.parametrize("temperature", [0.25, 0.07, 1.0])
def test_contrast_matches_golden(shared, temperature):
    data = np.load(shared / "golden/vision-mixedae/homologous_contrastive.npz")
    tokens, labels = torch.from_numpy(data["in/tokens"]), torch.from_numpy(data["in/source_label"])
    ours = mixedae.contrast(tokens, labels, temperature)
    assert np.allclose(ours.numpy(), data[f"out/supcon_tau{temperature}_per_mixed"], rtol=1e-5, atol=1e-5)


def test_gradient_of_the_contrast_matches_golden(shared):
    data = np.load(shared / "golden/vision-mixedae/homologous_contrastive.npz")
    tokens = torch.from_numpy(data["in/tokens"]).requires_grad_()
    mixedae.contrast(tokens, torch.from_numpy(data["in/source_label"]), 0.25).mean().backward()
    assert np.allclose(tokens.grad.numpy(), data["g/tokens_tau0.25_mean"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "floor"), [(196, 3.926), (64, None)])
def test_contrast_of_equal_tokens_and_of_perfect_clusters(length, floor):
    chosen = torch.arange(length)[None] % 4
    equal = mixedae.contrast(torch.ones(1, length, 8), chosen, 0.25)
    assert equal.item() == pytest.approx(math.log(length - 1), rel=1e-6)
    clusters = mixedae.contrast(torch.eye(8)[chosen], chosen, 0.25).item()
    assert clusters == pytest.approx(mixedae.contrast_floor(length, 4, 0.25), rel=1e-6)
    if floor is not None:
        assert clusters == pytest.approx(floor, abs=1e-3)


@pytest.mark.parametrize("compose", [True, False])
def test_an_image_that_is_twice_in_a_group_is_no_negative_of_itself(compose):
    length, index = 64, torch.tensor([[3, 8, 3, 5]])
    chosen = torch.arange(length)[None] % 4
    twins = mixedae.contrast(torch.ones(1, length, 8), chosen, 0.25, index)
    expected = (math.log(length - 1 - length // 4) + math.log(length - 1)) / 2  # of images 0 and 2, and of 1 and 3
    assert twins.item() == pytest.approx(expected, rel=1e-6)

    made = randomised(compose=compose)
    terms = [made.loss_of(images(), assignment(), order)["loss_contrast"] for order in (None, torch.arange(8))]
    assert torch.equal(*terms)
    order = torch.tensor([0, 1, 2, 0, 4, 5, 6, 7])
    assert made.loss_of(images(), assignment(), order)["loss_contrast"] < terms[0]


def test_the_logged_excess_is_what_is_above_the_floor():
    made = randomised()
    terms = made.loss_of(images(), assignment())
    encoded, _ = made.encode_mixed(images(), assignment())
    value = mixedae.contrast(encoded[:, 1:], assignment(), 0.25).mean().item()
    assert terms["loss_contrast"].item() == pytest.approx(0.1 * value, rel=1e-5)
    assert terms["contrast_excess"].item() == pytest.approx(value - mixedae.contrast_floor(64, 4, 0.25), rel=1e-4)
    assert not terms["contrast_excess"].requires_grad


# --- reconstruction


def test_only_places_of_strangers_enter_the_loss():
    made, chosen = randomised(norm_pix=False), assignment()
    encoded, _ = made.encode_mixed(images(), chosen)
    prediction = made.decode_unmixed(encoded, mixedae.owned(chosen, 4))
    target, total, count = patches.patchify(images(), 4), 0.0, 0
    for image, place in np.ndindex(8, 64):
        if chosen[image // 4, place] != image % 4:
            total += ((prediction[image, place] - target[image, place]) ** 2).mean().item()
            count += 1
    assert count == 8 * 48
    ours = made.loss_of(images(), chosen)["loss_reconstruction"]
    assert ours.item() == pytest.approx(total / count, rel=1e-5)


def test_no_prediction_of_a_hidden_patch_reads_its_own_images_hidden_pixels():
    made, chosen = randomised(), assignment()
    pixels = images().requires_grad_()
    encoded, _ = made.encode_mixed(pixels, chosen)
    own = mixedae.owned(chosen, 4)
    prediction = made.decode_unmixed(encoded, own)
    for image in (0, 5):
        (prediction[image] ** 2)[~own[image]].sum().backward(retain_graph=True)
        reached = patches.patchify(pixels.grad, 4).abs().amax(-1) > 0
        assert not reached[image][~own[image]].any()
        assert reached[image][own[image]].all()
        rest = [other for other in range(4 * (image // 4), 4 * (image // 4) + 4) if other != image]
        assert reached[rest].any()  # strangers' visible patches do leak in: that is the method
        assert not reached[[other for other in range(8) if other // 4 != image // 4]].any()
        pixels.grad = None


def test_naive_mixing_of_equal_images_is_mae_with_all_patches_visible():
    made = randomised(attention="full", contrast_weight=0.0, segments=False)
    plain = MAE(vit(image_size=32, patch_size=4, dim=32, depth=3, heads=4), **DECODER)
    plain.load_state_dict(made.state_dict())
    same = images(1).expand(4, -1, -1, -1)
    chosen = assignment(1)
    encoded, _ = made.encode_mixed(same, chosen)
    assert torch.allclose(encoded, plain.encoder.tokens(images(1)), rtol=1e-4, atol=1e-5)
    prediction = made.decode_unmixed(encoded, mixedae.owned(chosen, 4))
    for image in range(4):
        keep = (chosen[0] == image).nonzero().flatten()
        order = torch.cat([keep, (chosen[0] != image).nonzero().flatten()])[None]
        visible = torch.cat([encoded[:, :1], masking.take(encoded[:, 1:], keep[None])], dim=1)
        expected = plain.decoder(visible, order.argsort(1))
        assert torch.allclose(prediction[image], expected[0], rtol=1e-4, atol=1e-5)


# --- gradients, cost, randomness


def test_gradients_reach_everything_but_the_position_tables():
    made = task()
    sum(value for name, value in made.loss(batch()).items() if name.startswith("loss")).backward()
    without = {name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert without == {"encoder.model.pos_embed"}


@pytest.mark.slow
def test_the_encoder_sees_as_many_patches_as_maes():
    def macs(work) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops() / 2e9 / 4

    with torch.device("meta"):
        made, plain = MixedAE(vit(), contrast_weight=0.0), MAE(vit())
        image, values = torch.zeros(4, 3, 224, 224), torch.zeros(4, 196)
        chosen = torch.zeros(1, 196, dtype=torch.int64)
    ours, theirs = macs(lambda: made.loss_of(image, chosen)), macs(lambda: plain.loss_of(image, values))
    ours += 196**2 * 768 / 4 / 1e9  # the contrast
    assert ours == pytest.approx(9.8, rel=0.05)
    assert ours < 1.05 * theirs
    extra = sum(p.numel() for p in made.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == 4 * 768


def test_mixtures_come_from_the_first_key_of_their_group():
    made, given = randomised(), batch()
    loss = made.loss(given)["loss_reconstruction"].item()
    halves = [{name: values[part] for name, values in given.items()} for part in (slice(4), slice(4, 8))]
    parts = [made.loss(half) for half in halves]
    assert np.mean([part["loss_reconstruction"].item() for part in parts]) == pytest.approx(loss, rel=1e-6)
    assert made.gathers
    assert made.loss({**given, "key": given["key"] + 1})["loss_reconstruction"].item() != pytest.approx(loss, rel=1e-6)


def test_downstream_attention_is_ordinary_and_knows_no_segments():
    made, given = randomised(), batch()
    with torch.no_grad():
        made.segments.normal_()
        expected = made.encoder.model(torch.zeros(1, 3, 32, 32))
        constant = {"image": torch.full((1, 32, 32, 3), 0, dtype=torch.uint8)}
        assert made.encode(constant).shape == expected.shape
        first = made.encode(given)
        made.segments.zero_()
        assert torch.equal(made.encode(given), first)


@pytest.mark.slow
def test_pictures_show_whole_groups():
    made, given = randomised(), batch(12)
    picture = made.show(given)["reconstruction"]
    assert picture.shape == (8 * 34 - 2, 4 * 34 - 2, 3)
    mixtures = [picture[34 * row : 34 * row + 32, 34:66] for row in range(8)]
    assert all(np.array_equal(mixtures[row], mixtures[row // 4 * 4]) for row in range(8))
    shown = [picture[34 * row : 34 * row + 32, :32] for row in range(8)]
    same = [(shown[row] == mixtures[row]).reshape(8, 4, 8, 4, 3).all(axis=(1, 3, 4)).sum() for row in range(8)]
    assert same == [16] * 8
    assert made.show(batch(3)) == {}


@pytest.mark.parametrize("count", [3, 6])
def test_a_batch_that_leaves_images_over_is_refused(count):
    with pytest.raises(UsageError, match=f"{count} images do not form groups of 4"):
        task().loss(batch(count))


@pytest.mark.parametrize("group", [1, 3, 64, 65])
def test_groups_that_cannot_share_the_patches_are_refused(group):
    with pytest.raises(UsageError, match=r"cannot share 64 patches equally.*\[2, 4, 8, 16, 32\]"):
        task(group=group)


def test_initial_reconstruction_is_one_plus_the_variance_of_the_prediction():
    made, chosen = task(), assignment(8)
    encoded, _ = made.encode_mixed(images(32), chosen)
    own = mixedae.owned(chosen, 4)
    prediction = made.decode_unmixed(encoded, own)
    loss = masked_autoencoder.pixel_loss(images(32), prediction, (~own).float(), 4)
    assert loss.item() == pytest.approx(47 / 48 + prediction[~own].square().mean().item(), rel=0.02)


def homologous_after(segments: bool, steps: int = 180) -> float:
    """Share of homologous keys in the last block after some updates on slowly changing colours."""
    torch.manual_seed(0)
    encoder = vit(image_size=32, patch_size=8, dim=32, depth=3, heads=2)
    made = MixedAE(encoder, **DECODER, segments=segments, contrast_weight=1.0)
    coarse = torch.rand(64, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.interpolate(coarse, 32, mode="bicubic") * 4 - 2
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3, betas=(0.9, 0.95))
    shares = []
    for step in range(steps):
        chosen = mixedae.sources(torch.rand(8, 16, generator=torch.Generator().manual_seed(step)), 4)
        terms = made.loss_of(pixels[(torch.arange(32) + 32 * step) % 64], chosen)
        optimizer.zero_grad()
        (terms["loss_reconstruction"] + terms["loss_contrast"]).backward()
        optimizer.step()
        shares.append(terms["homologous"].item())
    return float(np.mean(shares[-20:]))


@pytest.mark.slow
def test_segments_soon_teach_attention_which_patches_belong_together():
    chance = 3 / 15
    told, untold = homologous_after(segments=True), homologous_after(segments=False)
    assert told > chance + 0.08
    assert told > untold + 0.05
