"""DropPos: the published numbers, an independent loss, exactly the ratios, and no position where none is given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unlabel import Progress, optim
from unlabel.errors import UsageError
from unlabel.nn import losses, masking, patches, positions
from unlabel_vision.encoders.vit import vit
from unlabel_vision.position_prediction import rearranged
from unlabel_vision.tasks import droppos
from unlabel_vision.tasks.droppos import DropPos

DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def task(**options) -> DropPos:
    torch.manual_seed(0)
    return DropPos(vit(image_size=32, patch_size=4, dim=32, depth=2, heads=4), **{**DECODER, **options})


def randomised(**options) -> DropPos:
    """Every trainable weight random, so that a part that does nothing shows."""
    made = task(**options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def noises(made: DropPos, count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, made.length, generator=generator), torch.rand(count, made.visible, generator=generator)


def batch(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return {"image": torch.from_numpy(pixels), "key": torch.arange(count) * 977 + seed}


def predicted(made: DropPos, pixels: Tensor, patch_noise: Tensor, position_noise: Tensor) -> tuple[Tensor, ...]:
    """Logits, true positions, and which positions are dropped."""
    mask, slots = masking.split(patch_noise, made.visible), masking.split(position_noise, made.kept)
    tokens = masking.take(made.encoder.embed(pixels), mask.keep)
    return made.decoder(made.encode_visible(tokens, mask, slots)), mask.keep, slots.mask.bool()


# --- published numbers


def test_losses_and_accuracies_match_golden(shared):
    data = {key: torch.from_numpy(v) for key, v in np.load(shared / "golden/vision-droppos/loss.npz").items()}
    logits, truth, dropped = data["in/logits"], data["in/ids_keep"], data["in/mask_pos"].float()
    attentive = dropped * data["in/attn"]
    for name, weights, labels in (
        ("onehot", dropped, None),
        ("smooth", dropped, data["in/smooth"]),
        ("smooth_attn", attentive, data["in/smooth"]),
    ):
        ours = losses.masked_cross_entropy(logits, truth, weights, labels)
        assert ours.item() == pytest.approx(data[f"out/loss_{name}"].item(), rel=1e-4, abs=2e-5), name
    for name, weights in (("onehot", dropped), ("attn_weighted", attentive)):
        ours = losses.masked_accuracy(logits, truth, weights)
        assert ours.item() == pytest.approx(data[f"out/acc_{name}"].item(), rel=1e-4, abs=2e-5), name


def test_labels_are_the_row_normalised_published_ones(shared):
    golden = np.load(shared / "golden/vision-droppos/loss.npz")["in/smooth"]
    assert np.allclose(task().labels.numpy(), golden, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_the_network_has_the_published_size_and_the_passes_their_cost():
    with torch.device("meta"):
        made, image = DropPos(vit()), torch.zeros(1, 3, 224, 224)
        values = torch.zeros(1, 196), torch.zeros(1, 49)
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == pytest.approx(92.45e6, rel=1e-4)
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(92.60e6, rel=1e-4)
    assert (made.visible, made.visible - made.kept) == (49, 37)

    def macs(attentive: str) -> float:
        made.attentive = attentive
        with FlopCounterMode(display=False) as counter:
            made.loss_of(image, *values)
        return counter.get_total_flops() / 2e9

    alone = macs("none")
    assert alone == pytest.approx(4.4 + 0.33, rel=0.03)
    assert macs("full") - alone == pytest.approx(17.6, rel=0.01)
    assert macs("visible") - alone == pytest.approx(4.4, rel=0.03)
    assert macs("own") == alone


# --- an independent loss, one patch at a time


@pytest.mark.parametrize("attentive", ["full", "visible", "own", "none"])
@pytest.mark.parametrize("sigma", [0.0, 1.0])
@torch.no_grad()
def test_the_loss_is_the_papers_ratio(attentive, sigma):
    made = randomised(attentive=attentive, sigma=sigma).double()
    pixels, (patch_noise, position_noise) = images().double(), noises(made)
    logits, keep, dropped = predicted(made, pixels, patch_noise, position_noise)

    above, below = 0.0, 0.0
    for n in range(2):
        visible = patch_noise[n].argsort()[:16].tolist()
        assert visible == keep[n].tolist()
        gone = set(position_noise[n].argsort()[4:].tolist())
        assert gone == set(dropped[n].nonzero().flatten().tolist())
        share = [1.0] * 16
        if attentive in ("full", "visible"):
            tokens = made.encoder.tokens(pixels)[n]
            rows = [tokens[1 + place] for place in visible]
            if attentive == "visible":
                tokens = made.encoder.tokens(pixels, keep)[n]
                rows = list(tokens[1:])
            heat = [math.exp(float(torch.cosine_similarity(tokens[0], row, dim=0)) / 0.1) for row in rows]
            share = [h / sum(heat) for h in heat]
        elif attentive == "own":
            mask, slots = masking.split(patch_noise, 16), masking.split(position_noise, 4)
            tokens = masking.take(made.encoder.embed(pixels), mask.keep)
            tokens = made.encode_visible(tokens, mask, slots)[n]
            heat = [math.exp(float(torch.cosine_similarity(tokens[0], row, dim=0)) / 0.1) for row in tokens[1:]]
            share = [h / sum(heat) for h in heat]
        for slot in gone:
            row, column = divmod(visible[slot], 8)
            near = [
                math.exp(-((row - j // 8) ** 2 + (column - j % 8) ** 2) / sigma**2)
                if sigma
                else float(j == visible[slot])
                for j in range(64)
            ]
            log_p = logits[n, slot].log_softmax(0).tolist()
            above -= share[slot] * sum(w * q for w, q in zip(near, log_p, strict=True)) / sum(near)
            below += share[slot]
    ours = made.loss_of(pixels, patch_noise, position_noise)["loss"]
    assert ours.item() == pytest.approx(above / below, rel=1e-5)


def test_weights_over_all_patches_brought_back_to_one_are_those_over_the_visible_ones():
    encoded = torch.randn(2, 65, 32)
    everywhere = droppos.attentive_weights(encoded, 0.1)
    keep = torch.rand(2, 64).argsort(1)[:, :16]
    visible = torch.cat([encoded[:, :1], masking.take(encoded[:, 1:], keep)], dim=1)
    chosen = everywhere.gather(1, keep)
    assert torch.allclose(droppos.attentive_weights(visible, 0.1), chosen / chosen.sum(1, keepdim=True), atol=1e-6)
    assert not droppos.attentive_weights(encoded.requires_grad_(), 0.1).requires_grad


# --- closed forms


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("attentive", ["full", "none"])
def test_equal_logits_cost_the_log_of_the_positions(sigma, attentive):
    made = randomised(sigma=sigma, attentive=attentive)
    torch.nn.init.zeros_(made.decoder.predict.weight)
    torch.nn.init.constant_(made.decoder.predict.bias, 0.7)
    assert made.loss(batch())["loss"].item() == pytest.approx(math.log(64), rel=1e-6)


def test_no_loss_is_below_the_entropy_of_the_labels():
    made = task()
    truth, weights = torch.arange(64).view(4, 16), torch.rand(4, 16)
    entropy = torch.special.entr(made.labels).sum(1)[truth]
    floor = (entropy * weights).sum() / weights.sum()
    best = losses.masked_cross_entropy(made.labels.log().clamp(min=-80)[truth], truth, weights, made.labels)
    assert best.item() == pytest.approx(floor.item(), rel=1e-5)
    for seed in range(5):
        logits = torch.randn(4, 16, 64, generator=torch.Generator().manual_seed(seed))
        assert losses.masked_cross_entropy(logits, truth, weights, made.labels) > floor


def test_a_constant_image_leaves_nothing_to_tell_patches_by():
    made = randomised()
    logits, keep, dropped = predicted(made, torch.full((2, 3, 32, 32), 0.4), *noises(made))
    for n in range(2):
        alike = logits[n][dropped[n]]
        assert torch.allclose(alike, alike[:1].expand_as(alike), rtol=0, atol=1e-4)
        guess = alike.argmax(1)
        assert (guess == keep[n][dropped[n]]).sum() <= 1


def test_a_guess_from_the_positions_that_are_left_hits_one_in_those_not_shown():
    made, hits = task(), []
    for seed in range(40):
        patch_noise, position_noise = (
            torch.rand(32, count, generator=torch.Generator().manual_seed(10 * seed + count)) for count in (64, 16)
        )
        mask, slots = masking.split(patch_noise, made.visible), masking.split(position_noise, made.kept)
        shown = masking.take(mask.keep[..., None], slots.keep)[..., 0]  # true positions that are left
        guesses = torch.rand(32, 16, 64, generator=torch.Generator().manual_seed(seed))
        logits = guesses.scatter(2, shown[:, None].expand(-1, 16, -1), -1.0)
        hits.append(losses.masked_accuracy(logits, mask.keep, slots.mask).item())
    # 40 x 32 x 12 guesses: a standard error of 0.001
    assert np.mean(hits) == pytest.approx(1 / (64 - 4), abs=0.004)


# --- counts, and what is given


@pytest.mark.parametrize(
    ("ratio", "position", "counts"), [(0.75, 0.75, (16, 12)), (0.5, 0.75, (32, 24)), (0, 1, (64, 64))]
)
def test_exactly_the_ratios_are_hidden_and_dropped(ratio, position, counts):
    made = task(mask_ratio=ratio, position_ratio=position)
    seen = []
    made.encoder.model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    made.loss(batch())
    assert seen == [(6, 1 + counts[0], 32), (6, 65, 32)]  # what is trained, and the whole image for the weights
    slots = masking.split(torch.rand(5, made.visible), made.kept)
    assert (slots.mask.sum(1) == counts[1]).all()


def test_the_true_row_of_a_dropped_position_is_never_read():
    made = randomised(attentive="none")
    given = noises(made, 1)
    logits, keep, dropped = predicted(made, images(1), *given)
    with torch.no_grad():
        made.encoder.model.pos_embed[:, 1 + keep[0][dropped[0]]] = 1e3
    assert torch.equal(predicted(made, images(1), *given)[0], logits)
    with torch.no_grad():
        made.encoder.model.pos_embed[:, 1 + keep[0][~dropped[0]]] *= -1.0
    assert not torch.allclose(predicted(made, images(1), *given)[0], logits, atol=1e-3)


def test_visible_patches_are_a_set():
    made = randomised()
    patch_noise, position_noise = noises(made, 1)
    mask, slots = masking.split(patch_noise, made.visible), masking.split(position_noise, made.kept)
    tokens = masking.take(made.encoder.embed(images(1)), mask.keep)
    rows = droppos.without_positions(made.encoder.positions[mask.keep], slots.mask.bool(), made.position_token)
    order = torch.randperm(16)

    def logits(placed: Tensor) -> Tensor:
        return made.decoder(made.encoder.run(made.encoder.with_class(placed)))

    assert torch.allclose(logits((tokens + rows)[:, order]), logits(tokens + rows)[:, order], rtol=1e-3, atol=1e-4)


def test_wrong_positions_are_those_of_other_dropped_patches():
    made = task(dropped="wrong")
    slots = masking.split(torch.rand(3, 16), 4)
    rows = torch.arange(48.0).view(3, 16, 1)
    wrong = droppos.wrong_positions(rows, slots)
    dropped = slots.mask.bool()
    assert torch.equal(wrong[~dropped], rows[~dropped])
    assert (wrong[dropped] != rows[dropped]).all()
    for n in range(3):
        assert set(wrong[n][dropped[n]].flatten().tolist()) == set(rows[n][dropped[n]].flatten().tolist())
    assert torch.isfinite(made.loss(batch())["loss"])
    assert not any("position_token" in name for name, _ in made.named_parameters())


def test_removed_pixels_reach_the_weights_alone():
    made = randomised()
    given = noises(made)
    pixels = images().requires_grad_()
    logits, keep, _ = predicted(made, pixels, *given)
    logits.square().sum().backward()
    reached = patches.patchify(pixels.grad, 4).abs().amax(-1) > 0
    assert torch.equal(reached, torch.zeros_like(reached).scatter_(1, keep, True))


# --- gradients


def test_gradients_reach_everything_but_the_positions_and_only_through_dropped_slots():
    made = randomised()
    captured = []
    made.decoder.register_forward_hook(lambda _, __, output: captured.append(output))
    captured_gradient = []
    terms = made.loss_of(images(), *noises(made))
    captured[0].register_hook(captured_gradient.append)
    terms["loss"].backward()
    without = {name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert without == {"encoder.model.pos_embed"}
    dropped = masking.split(noises(made)[1], made.kept).mask.bool()
    assert (captured_gradient[0][~dropped] == 0).all()
    assert (captured_gradient[0][dropped].abs().amax(1) > 0).all()


def test_the_weights_pass_no_gradient():
    made = randomised(sigma=0.0)
    pixels, (patch_noise, position_noise) = images(), noises(made)
    made.loss_of(pixels, patch_noise, position_noise)["loss"].backward()
    gradient = made.encoder.model.blocks[0].mlp.fc1.weight.grad.clone()

    mask = masking.split(patch_noise, made.visible)
    tokens = masking.take(made.encoder.embed(pixels), mask.keep)
    fixed = made.weights(pixels, tokens, tokens, mask).detach().clone()
    made.zero_grad()
    logits, keep, dropped = predicted(made, pixels, patch_noise, position_noise)
    losses.masked_cross_entropy(logits, keep, dropped * fixed).backward()
    assert torch.allclose(made.encoder.model.blocks[0].mlp.fc1.weight.grad, gradient, rtol=1e-4, atol=1e-7)


def test_confident_patches_can_be_left_out():
    made = randomised(ignore_confident=True, attentive="none", sigma=1.0)
    logits = torch.zeros(1, 16, 64)
    keep = torch.arange(16)[None]
    logits[0, 3, 3] = 20.0
    unsure = made._unsure(logits, keep)
    assert unsure[0].tolist() == [slot != 3 for slot in range(16)]
    assert torch.isfinite(made.loss(batch())["loss"])


# --- pixels too


def test_both_losses_come_from_the_same_encoded_patches():
    made = randomised(reconstruction=True, position_weight=0.05)
    calls = []
    made.encoder.model.norm.register_forward_hook(lambda *_: calls.append(1))
    terms = made.loss(batch())
    assert len(calls) == 2  # trained pass and attentive pass
    assert set(terms) == {"loss_position", "loss_reconstruction", "accuracy", "accuracy_attentive"}
    alone = randomised()
    alone.load_state_dict({k: v for k, v in made.state_dict().items() if not k.startswith("pixels.")})
    assert terms["loss_position"].item() == pytest.approx(0.05 * alone.loss(batch())["loss"].item(), rel=1e-6)
    (terms["loss_position"] + terms["loss_reconstruction"]).backward()
    without = {name for name, p in made.named_parameters() if p.grad is None}
    assert without == {"encoder.model.pos_embed"}


# --- the schedule of the labels


def test_labels_sharpen_epoch_by_epoch_and_survive_a_resume():
    made, widths = task(), []
    for epoch in range(4):
        made.enter_epoch(Progress(0, 10 * epoch, 40, epoch, 10 * epoch), resumed=False)
        widths.append(made.sigma.item())
        if epoch == 2:
            saved = {name: value.clone() for name, value in made.state_dict().items()}
    assert widths == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert torch.equal(made.labels, positions.neighbourhood((8, 8), widths[-1]))

    again = task()
    again.load_state_dict(saved)
    again.enter_epoch(Progress(0, 25, 40, 2, 25), resumed=True)
    assert again.sigma.item() == pytest.approx(0.5)
    assert torch.equal(again.labels, positions.neighbourhood((8, 8), 0.5))
    again.enter_epoch(Progress(0, 30, 40, 3, 30), resumed=False)
    assert again.sigma.item() == pytest.approx(0.25)

    again.enter_epoch(Progress(1, 0, 40, 0, 40), resumed=False)  # the next stage begins
    assert again.sigma.item() == 1.0
    fixed = task(sigma_decay=False)
    fixed.enter_epoch(Progress(0, 30, 40, 3, 30), resumed=False)
    assert fixed.sigma.item() == 1.0


# --- around the loss


def test_noise_comes_from_the_key_alone():
    made = task(attentive="none")
    given = batch()
    loss = made.loss(given)["loss"].item()
    halves = [{name: values[part] for name, values in given.items()} for part in (slice(3), slice(3, 6))]
    assert np.mean([made.loss(half)["loss"].item() for half in halves]) == pytest.approx(loss, rel=1e-6)
    assert made.loss({**given, "key": given["key"] + 1})["loss"].item() != pytest.approx(loss, rel=1e-6)


def test_pictures_show_where_patches_are_believed_to_belong():
    made, given = randomised(), batch(10)
    picture = made.show(given)["positions"]
    assert picture.shape == (8 * 34 - 2, 3 * 34 - 2, 3)
    assert np.array_equal(picture[:32, :32], given["image"][0].numpy())


def test_patches_laid_out_at_their_own_places_are_the_image():
    everything = torch.arange(64).expand(2, 64)
    assert torch.equal(rearranged(images(), everything, everything, 4), images())
    together = rearranged(images(), everything[:, :2], torch.zeros(2, 2, dtype=torch.int64), 4)
    assert torch.allclose(together[:, :, :4, :4], (images()[:, :, :4, :4] + images()[:, :, :4, 4:8]) / 2)
    assert (together[:, :, 4:] == 0).all()


def test_paper_recipe_decays_tokens_and_clips_each_tensor():
    stage = droppos.paper().stages[0]
    made = task()
    decayed = {id(p) for group in optim.groups(made, stage) if group["weight_decay"] > 0 for p in group["params"]}
    assert id(made.position_token) in decayed
    assert (stage.clip_tensor_norm, stage.clip_norm) == (5.0, None)
    assert stage.resolved(2048).peak_lr == pytest.approx(1.2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, "leaves none of 64 patches"),
        ({"position_ratio": 0.0}, "drops none of the positions of 16"),
        ({"sigma": -1.0}, "width of position labels"),
        ({"mask_ratio": 0.0, "reconstruction": True}, "needs removed patches"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        task(**options)
