"""MP3: the published attention, sets that stay sets, and what a masked patch may look at."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unlabel import Ref, optim
from unlabel.errors import UsageError
from unlabel.nn import losses, masking, transformer
from unlabel_vision import views
from unlabel_vision.encoders.vit import vit
from unlabel_vision.tasks import mp3
from unlabel_vision.tasks.mp3 import MP3

SMALL = {"image_size": 32, "patch_size": 4, "dim": 32, "depth": 3, "heads": 4, "class_token": False, "pool": "avg"}


def task(**options) -> MP3:
    torch.manual_seed(0)
    return MP3(vit(**SMALL), **options)


def randomised(**options) -> MP3:
    """Every trainable weight random, so that a part that does nothing shows."""
    made = task(**options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return made


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def noise(count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 64, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return {"image": torch.from_numpy(pixels), "key": torch.arange(count) * 977 + seed}


def in_place(logits: Tensor, order: Tensor) -> Tensor:
    """Logits in the patches' own order."""
    return torch.empty_like(logits).scatter_(1, order[..., None].expand_as(logits), logits)


def masked(made: MP3, pixels: Tensor, visible: Tensor) -> Tensor:
    """The same network as a plain transformer with a key mask: logits in the patches' own order."""
    stack = transformer.Transformer(32, 3, 4)
    stack.blocks.load_state_dict(made.encoder.model.blocks.state_dict())
    return made.head(made.encoder.model.norm(stack(made.encoder.embed(pixels), visible)))


# --- published numbers


def test_full_context_matches_golden(shared):
    data = np.load(shared / "golden/vision-mp3/vision_full_context.npz")
    weights = {key[2:]: torch.from_numpy(data[key]) for key in data.files if key.startswith("w/")}
    made = task(mask_ratio=0.0)
    head = {name.removeprefix("pos_head."): weights.pop(name) for name in ("pos_head.weight", "pos_head.bias")}
    made.head.load_state_dict(head)
    report = made.encoder.model.load_state_dict(weights, strict=False)
    assert (report.missing_keys, report.unexpected_keys) == (["pos_embed"], [])
    logits, order = made.predict(torch.from_numpy(data["in/imgs"]), noise(3))
    expected = torch.from_numpy(data["out/logits"])
    assert torch.allclose(in_place(logits, order), expected, rtol=1e-4, atol=2e-5)
    everything = torch.ones(3, 64, dtype=torch.bool)
    assert torch.allclose(masked(made, torch.from_numpy(data["in/imgs"]), everything), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("ratio", [0.3, 0.75, 0.95])
def test_gathered_and_masked_attention_agree_with_all_gradients(ratio):
    made = randomised(mask_ratio=ratio)
    logits, order = made.predict(images(), noise())
    probe = torch.randn(2, 64, 64)
    (in_place(logits, order) * probe).sum().backward()

    other = copy.deepcopy(made)
    other.zero_grad()
    visible = masking.context(noise(), ratio)
    assert int(visible[0].sum()) == made.context == 64 - int(ratio * 64)
    stack = transformer.Transformer(32, 3, 4)
    stack.blocks.load_state_dict(made.encoder.model.blocks.state_dict())
    model = other.encoder.model
    reference = other.head(model.norm(stack(model.patch_embed(images()), visible)))
    (reference * probe).sum().backward()

    assert torch.allclose(in_place(logits, order), reference, rtol=1e-4, atol=1e-5)
    found = {name.removeprefix("encoder.model."): p.grad for name, p in made.named_parameters()}
    expected = {**{f"blocks.{n}": p.grad for n, p in stack.blocks.named_parameters()}}
    expected |= {n.removeprefix("encoder.model."): p.grad for n, p in other.named_parameters() if "blocks" not in n}
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        if name == "pos_embed":
            assert gradient is found[name] is None
            continue
        if name.endswith("qkv.bias"):  # a key's bias has no gradient but rounding
            gradient, found[name] = (value.view(3, 32)[[0, 2]] for value in (gradient, found[name]))
        assert (gradient - found[name]).abs().max() <= 1e-5 * max(1.0, gradient.abs().max()), name


def test_padding_changes_nothing():
    """Sequences of 20 and 15 frames: the same losses, token by token, with more padding, whatever is in it."""
    torch.manual_seed(0)
    embed, stack, head = torch.nn.Linear(16, 32), transformer.Transformer(32, 3, 4), torch.nn.Linear(32, 20)
    frames, values = torch.randn(2, 20, 16), torch.rand(2, 20)
    valid = torch.arange(20) < torch.tensor([20, 15])[:, None]

    def logits(frames: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        return head(stack(embed(frames), masking.context(values, 0.5, valid)))

    wild = torch.where(valid[..., None], frames, 1e3)
    first, second = logits(frames, values, valid), logits(wild, values, valid)
    assert torch.equal(first[valid], second[valid])
    longer = [torch.cat([part, part[:, :7]], dim=1) for part in (frames, values)]
    third = logits(*longer, torch.arange(27) < torch.tensor([20, 15])[:, None])
    assert torch.allclose(third[:, :20][valid], first[valid], rtol=1e-5, atol=1e-5)
    truth = torch.arange(20).expand(2, 20)
    whole = losses.masked_cross_entropy(first, truth, valid.float())
    assert whole.item() == pytest.approx(torch.nn.functional.cross_entropy(first[valid], truth[valid]).item(), rel=1e-6)


def test_the_published_cost():
    with torch.device("meta"):
        made, image, values = MP3(vit(class_token=False, pool="avg")), torch.zeros(1, 3, 224, 224), torch.zeros(1, 196)
    with FlopCounterMode(display=False) as counter:
        made.loss_of(image, values)
    assert counter.get_total_flops() / 2e9 == pytest.approx(14.7, rel=0.02)


# --- what depends on what


def test_patches_are_a_set():
    made = randomised()
    order = torch.randperm(64)
    cut = images().unfold(2, 4, 4).unfold(3, 4, 4).reshape(2, 3, 64, 4, 4)
    shuffled = cut[:, :, order].view(2, 3, 8, 8, 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 32, 32)
    plain = in_place(*made.predict(images(), noise()))
    assert torch.allclose(in_place(*made.predict(shuffled, noise()[:, order])), plain[:, order], rtol=1e-4, atol=1e-5)


def test_masked_patches_are_seen_by_nobody_not_even_themselves_as_keys():
    made = randomised()
    pixels = images().requires_grad_()
    logits, order = made.predict(pixels, noise())
    hidden = order[:, made.context :]

    def reached(slot: int | slice) -> Tensor:
        gradient = torch.autograd.grad(logits[:, slot].square().sum(), pixels, retain_graph=True)[0]
        return gradient.unfold(2, 4, 4).unfold(3, 4, 4).abs().amax((1, 4, 5)).flatten(1) > 0

    context = reached(slice(0, made.context))
    assert not context.gather(1, hidden).any()
    for slot in (made.context, 63):
        seen = reached(slot)
        assert seen.gather(1, order[:, : made.context]).all()
        expected = torch.zeros(2, 64 - made.context, dtype=torch.bool)
        expected[:, slot - made.context] = True  # its own content, through the residual stream
        assert torch.equal(seen.gather(1, hidden), expected)


def test_equal_masked_patches_have_equal_logits():
    made = randomised()
    order = noise(1).argsort(1)[0]
    first, second = order[-1].item(), order[-2].item()
    pixels = images(1)
    cell = [
        (slice(None), slice(4 * (p // 8), 4 * (p // 8) + 4), slice(4 * (p % 8), 4 * (p % 8) + 4))
        for p in (first, second)
    ]
    pixels[0][cell[0]] = pixels[0][cell[1]]
    logits, _ = made.predict(pixels, noise(1))
    assert torch.allclose(logits[0, -1], logits[0, -2], rtol=0, atol=1e-6)


# --- closed forms


@pytest.mark.parametrize("options", [{}, {"sigma": 1.0}, {"only_masked": True}, {"mask_ratio": 0.0}])
def test_equal_logits_cost_the_log_of_the_positions(options):
    made = randomised(**options)
    torch.nn.init.zeros_(made.head.weight)
    torch.nn.init.zeros_(made.head.bias)
    assert made.loss(batch())["loss"].item() == pytest.approx(math.log(64), rel=1e-6)


def test_a_constant_image_cannot_be_better_than_chance():
    made = randomised()
    terms = made.loss_of(torch.full((2, 3, 32, 32), 0.3), noise())
    logits, _ = made.predict(torch.full((2, 3, 32, 32), 0.3), noise())
    assert torch.allclose(logits, logits[:, :1].expand_as(logits), rtol=0, atol=1e-4)
    assert terms["accuracy"].item() == pytest.approx(1 / 64)
    assert terms["loss"].item() >= math.log(64)


def test_only_masked_patches_enter_the_loss_if_asked():
    made = randomised(only_masked=True)
    logits, order = made.predict(images(), noise())
    rest = slice(made.context, None)
    expected = torch.nn.functional.cross_entropy(logits[:, rest].flatten(0, 1), order[:, rest].flatten())
    assert made.loss_of(images(), noise())["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_accuracies_are_of_the_patches_they_name():
    made = randomised()
    terms = made.loss_of(images(), noise())
    whole = terms["accuracy_context"] * made.context + terms["accuracy_masked"] * (64 - made.context)
    assert terms["accuracy"].item() == pytest.approx(whole.item() / 64, rel=1e-5)


# --- downstream


def shuffled_pixels(given: dict[str, Tensor]) -> dict[str, Tensor]:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    cut = given["image"].unfold(1, 4, 4).unfold(2, 4, 4).reshape(-1, 64, 3, 4, 4)[:, order]
    back = cut.view(-1, 8, 8, 3, 4, 4).permute(0, 1, 4, 2, 5, 3).reshape(-1, 32, 32, 3)
    return {**given, "image": back}


@pytest.mark.parametrize("kind", ["absolute", "relative", "none"])
def test_features_know_no_position_before_fine_tuning_and_only_without_a_table_after(kind):
    made = randomised(finetune_positions=kind)
    before, shuffled = made.encode(batch()), made.encode(shuffled_pixels(batch()))
    assert torch.allclose(before, shuffled, rtol=1e-4, atol=1e-5)
    exported = made.encoder.model(views.to_float(batch()["image"]))
    assert torch.allclose(before, exported, rtol=1e-4, atol=1e-5)

    tuned = copy.deepcopy(made).requires_grad_(True)  # as fine-tuning does
    features = tuned.encode(batch())
    features.square().sum().backward()
    learnt = {name for name, p in tuned.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert ("encoder.model.pos_embed" in learnt) == (kind == "absolute")
    assert ("relative" in learnt) == (kind == "relative")
    with torch.no_grad():
        for name in learnt & {"encoder.model.pos_embed", "relative"}:
            tuned.get_parameter(name).normal_()
    same = torch.allclose(tuned.encode(batch()), tuned.encode(shuffled_pixels(batch())), rtol=1e-3, atol=1e-4)
    assert same == (kind == "none")


def test_a_displacement_has_one_number_wherever_it_starts():
    places = mp3.relative_places(3)
    assert places.shape == (9, 9)
    for source in range(9):
        for target in range(9):
            down, right = target // 3 - source // 3, target % 3 - source % 3
            assert places[source, target] == (down + 2) * 5 + right + 2


# --- around the loss


def test_gradients_reach_everything_but_the_position_table():
    for kind in ("absolute", "relative"):
        made = task(finetune_positions=kind)
        made.loss(batch())["loss"].backward()
        without = {name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
        assert without == {"encoder.model.pos_embed"} | ({"relative"} if kind == "relative" else set())
        assert not any(p.requires_grad for name, p in made.named_parameters() if name in without)


def test_contexts_come_from_the_key_alone():
    made, given = randomised(), batch()
    loss = made.loss(given)["loss"].item()
    halves = [{name: values[part] for name, values in given.items()} for part in (slice(3), slice(3, 6))]
    assert np.mean([made.loss(half)["loss"].item() for half in halves]) == pytest.approx(loss, rel=1e-6)
    assert made.loss({**given, "key": given["key"] + 1})["loss"].item() != pytest.approx(loss, rel=1e-6)


def test_pictures_show_context_and_where_patches_are_believed_to_belong():
    made, given = randomised(), batch(10)
    picture = made.show(given)["positions"]
    assert picture.shape == (8 * 34 - 2, 3 * 34 - 2, 3)
    for row in range(8):
        whole, context = (picture[34 * row : 34 * row + 32, 34 * k : 34 * k + 32] for k in range(2))
        same = (whole == context).reshape(8, 4, 8, 4, 3).all(axis=(1, 3, 4))
        assert same.sum() == made.context


def test_paper_recipe_is_deits():
    stage = mp3.paper().stages[0].resolved(50000)
    assert (stage.peak_lr, stage.clip_norm) == (pytest.approx(1e-3), 1.0)
    assert stage.optimizer == Ref("adamw")  # with its own betas, (0.9, 0.999)
    made = task()
    spared = {id(p) for group in optim.groups(made, stage) if group["weight_decay"] == 0 for p in group["params"]}
    assert id(made.head.weight) not in spared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, r"outside \[0, 1\), so no patch is context"),
        ({"mask_ratio": 0.0, "only_masked": True}, "makes all 64 patches context"),
        ({"sigma": -2.0}, "width of position labels"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        task(**options)


def test_a_class_token_is_refused():
    with pytest.raises(UsageError, match="vision/mp3 works without a class token"):
        MP3(vit(image_size=32, patch_size=4, dim=32, depth=1, heads=4))


@pytest.mark.slow
def test_sixteen_images_are_learnt_by_heart():
    torch.manual_seed(0)
    made = MP3(vit(**{**SMALL, "patch_size": 8, "dim": 64, "depth": 2}), mask_ratio=0.5)
    optimizer = torch.optim.AdamW(made.parameters(), lr=2e-3, weight_decay=0.0)
    right = []
    for step in range(120):
        values = torch.rand(16, 16, generator=torch.Generator().manual_seed(step))
        terms = made.loss_of(images(16), values)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        right.append(terms["accuracy"].item())
    assert right[0] < 0.2  # one in sixteen by chance
    assert np.mean(right[-10:]) > 0.95
