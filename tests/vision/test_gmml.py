"""GMML: the published corruption, a loop as its oracle, and a loss of corrupted pixels alone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unlabel import Catalog, Ref, Stage, compose, optim, recipe
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.session import Session
from unlabel_vision import views
from unlabel_vision.encoders.vit import vit
from unlabel_vision.tasks import gmml
from unlabel_vision.tasks.gmml import GMML, block_corruption

SIZE = (32, 32)
ENCODER = "vision/vit"
PLAIN = ["execution.precision=fp32", "execution.workers=0", "monitor_every=100"]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.installed()


def task(**options) -> GMML:
    torch.manual_seed(0)
    encoder = vit(image_size=32, patch_size=4, dim=32, depth=4, heads=4, pool="avg")
    return GMML(encoder, **{"blocks": (1, 2, 4), "jitter": 0.0, "blur": 0.0, **options})


def randomised(**options) -> GMML:
    """Every trainable weight random, so that a part that does nothing shows."""
    made = task(**options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return made


def images(count: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, count, 32, 32, 3), dtype=np.uint8)
    one, two = torch.from_numpy(pixels)
    return {"view1": one, "view2": two, "key": torch.arange(count) * 977 + seed}


def painted(blocks: list[list[int]], wanted: float, size: tuple[int, int] = SIZE) -> tuple[Tensor, int]:
    """The procedure as published: one rectangle after the other until enough is covered."""
    mask, used = torch.zeros(size, dtype=torch.bool), 0
    while mask.sum() < wanted and used < len(blocks):
        row, column, height, width = blocks[used]
        mask[row : row + height, column : column + width] = True
        used += 1
    return mask, used


# --- published numbers


def test_aliens_of_recorded_draws_match_golden(shared):
    data = np.load(shared / "golden/vision-gmml/replace_list.npz")
    clean = torch.from_numpy(data["in/clean"])
    numbers = iter(data["in/all_int_draws"].tolist())
    partners, masks = [], []
    for chance in data["in/uniform_draws"].tolist():
        partners.append(next(numbers))
        mask, draws = torch.zeros(SIZE, dtype=torch.bool), []
        while chance < 0.5 and mask.sum() < 0.3 * 1024:
            draws.append([next(numbers) for _ in range(4)])
            blocks = block_corruption.aligned(torch.tensor([draws]), SIZE)
            mask = block_corruption.cover(blocks, torch.tensor([0.3 * 1024]), SIZE)[0]
        masks.append(mask)
    assert next(numbers, None) is None
    alien = torch.from_numpy(data["in/uniform_draws"]) < 0.5
    mask = torch.stack(masks)

    ours = gmml.corrupted(clean, mask, None, torch.tensor(partners), alien)
    kept = torch.from_numpy(data["in/corrupt_prev"])
    ours = torch.where(alien[:, None, None, None], ours, kept)
    assert np.array_equal(ours.numpy(), data["out/corrupt"])
    expected = torch.where(alien[:, None, None, None], mask[:, None], torch.from_numpy(data["in/mask_prev"]).bool())
    assert np.array_equal(expected.numpy(), data["out/mask"].astype(bool))


@pytest.mark.parametrize(("name", "low", "high"), [("noise075", 0.5, 0.75), ("replace03", 0.3, 0.3)])
def test_corrupted_fractions_match_golden(shared, name, low, high):
    golden = np.load(shared / "golden/vision-gmml/mask_fraction_stats.npz")[f"{name}_min_mean_max"]
    generator = torch.Generator().manual_seed(0)
    draws = block_corruption.drawn(torch.rand(60, 256, 4, generator=generator), (224, 224))
    wanted = (low + (high - low) * torch.rand(60, generator=generator)) * 224 * 224
    mask = block_corruption.cover(block_corruption.aligned(draws, (224, 224)), wanted, (224, 224))
    share = mask.float().mean((1, 2))
    assert share.min() >= low
    assert share.mean().item() == pytest.approx(golden[1], abs=0.03)
    assert share.max() <= high + 0.3**2  # overshoot by one rectangle


def test_clipping_each_tensor_matches_golden(shared):
    data = np.load(shared / "golden/vision-gmml/per_param_clip.npz")
    model = torch.nn.Module()
    model.a, model.b = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((4, 3), (5,)))
    model.a.grad, model.b.grad = torch.from_numpy(data["in/ga"]), torch.from_numpy(data["in/gb"])
    norms = [p.grad.norm().item() for p in model.parameters()]
    assert norms == pytest.approx(data["out/norms"].tolist(), rel=1e-4)
    stage = gmml.paper().stages[0].resolved(512)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    Engine("cpu", "fp32").update(model, optimizer, stage)
    assert np.allclose(-model.a.detach().numpy(), data["out/ga"], rtol=1e-4, atol=2e-5)
    assert np.allclose(-model.b.detach().numpy(), data["out/gb"], rtol=1e-4, atol=2e-5)


def test_the_networks_have_the_published_size_and_cost():
    with torch.device("meta"):
        made = GMML(vit(dim=384, heads=6))
        image, mask = torch.zeros(1, 3, 224, 224), torch.zeros(1, 224, 224, dtype=torch.bool)
    assert sum(p.numel() for p in made.encoder.parameters()) == pytest.approx(21.67e6, rel=1e-3)
    assert sum(p.numel() for p in made.head.parameters()) == pytest.approx(0.74e6, rel=5e-3)
    with FlopCounterMode(display=False) as counter:
        made.loss_of(image, image, mask)
    assert counter.get_total_flops() / 2e9 == pytest.approx(4.6 + 0.14, rel=0.02)


# --- rectangles


@pytest.mark.parametrize("align", [1, 4])
def test_draws_keep_the_published_ranges(align):
    draws = block_corruption.drawn(torch.rand(20000, 4, generator=torch.Generator().manual_seed(0)), SIZE, align)
    assert draws.amin(0).tolist() == [0, 0, align, align]
    assert draws.amax(0).tolist() == [32 - align - 1, 32 - align - 1, 8, 8]  # floor(0.3 * 32) = 9 is excluded
    extremes = block_corruption.drawn(torch.tensor([[0.0] * 4, [1 - 2**-24] * 4]), SIZE, align)
    assert extremes.tolist() == [draws.amin(0).tolist(), draws.amax(0).tolist()]


def test_rectangles_are_snapped_cut_at_the_border_and_rounded():
    draws = torch.tensor([[5, 26, 6, 5], [30, 3, 8, 7], [0, 0, 6, 2]])
    assert block_corruption.aligned(draws, SIZE, 1).tolist() == [[5, 26, 6, 5], [30, 3, 2, 7], [0, 0, 6, 2]]
    # 26 -> 24; 6 / 4 and 2 / 4 are halves, which go to the even side: 2 and 0 blocks
    assert block_corruption.aligned(draws, SIZE, 4).tolist() == [[4, 24, 8, 4], [28, 0, 4, 8], [0, 0, 8, 0]]


@pytest.mark.parametrize(("align", "share"), [(1, 0.75), (1, 0.3), (4, 0.7)])
def test_all_at_once_is_the_loop_over_rectangles(align, share):
    u = torch.rand(20, 256, 4, generator=torch.Generator().manual_seed(0))
    blocks = block_corruption.aligned(block_corruption.drawn(u, SIZE, align), SIZE, align)
    wanted = torch.full((20,), share * 1024) - torch.arange(20)
    ours = block_corruption.cover(blocks, wanted, SIZE)
    for number in range(20):
        expected, used = painted(blocks[number].tolist(), float(wanted[number]))
        assert torch.equal(ours[number], expected)
        assert used < 200  # far from all that are drawn


def test_too_few_rectangles_are_all_used():
    blocks = torch.tensor([[[0, 0, 2, 2], [4, 4, 3, 1]]])
    assert block_corruption.cover(blocks, torch.tensor([900.0]), SIZE).sum() == 7
    assert block_corruption.cover(blocks, torch.tensor([4.0]), SIZE).sum() == 4


def test_isolated_patches_are_whole_and_just_enough():
    mask = block_corruption.scattered(torch.rand(5, 64), torch.tensor([16.0, 17, 307.2, 768, 1024]), 4)
    cells = mask.view(5, 8, 4, 8, 4).float().mean((2, 4))
    assert ((cells == 0) | (cells == 1)).all()
    assert cells.sum((1, 2)).tolist() == [1, 2, 20, 48, 64]


# --- corruption


def test_what_is_not_masked_stays_to_the_bit_and_aliens_keep_their_place():
    made, clean = task(), images(6)
    mask, given, alien = made.corrupt(clean, torch.arange(6) * 31, 0)
    assert 0 < alien.sum() < 6
    same = (given == clean).all(1)
    assert same[~mask].all()
    assert not same[mask & ~alien[:, None, None]].any()
    for number in alien.nonzero().flatten().tolist():
        lender = [k for k in range(6) if torch.equal(given[number][:, mask[number]], clean[k][:, mask[number]])]
        assert lender  # perhaps itself
    values = given.permute(0, 2, 3, 1)[mask & ~alien[:, None, None]]
    assert abs(values.mean()) < 0.05
    assert values.std().item() == pytest.approx(1, abs=0.05)


def test_branches_and_fractions_have_the_published_shares():
    made = task()
    mask, _, alien = made.corrupt(torch.zeros(800, 3, 32, 32), torch.arange(800), 0)
    share = mask.float().mean((1, 2))
    # a standard error of a share of a half over 800 draws is .018
    assert alien.float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert share[alien].min() >= 0.3
    assert share[alien].max() < 0.3 + 0.3**2
    assert share[~alien].min() >= 0.5
    assert share[~alien].mean().item() == pytest.approx(0.634, abs=0.02)


def test_an_image_may_be_kept_from_lending_itself_its_pixels():
    clean = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 32, 32)
    for itself in (True, False):
        made, own = task(alien=1.0, lends_itself=itself), 0
        for seed in range(20):
            mask, given, _ = made.corrupt(clean, torch.arange(8) + 100 * seed, 0)
            lent = torch.stack([given[n, 0][mask[n]][0] for n in range(8)])
            own += int((lent == torch.arange(8.0)).sum())
        assert (own > 5) if itself else (own == 0)


def test_corruption_depends_on_key_and_generator_alone():
    made, clean = task(), images(6)

    def corrupt(key: Tensor, view: int = 0) -> tuple[Tensor, ...]:
        torch.manual_seed(5)
        return made.corrupt(clean, key, view)

    first, again = corrupt(torch.arange(6)), corrupt(torch.arange(6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], corrupt(torch.arange(6), 1)[0])
    assert not torch.equal(first[0], corrupt(torch.arange(6) + 7)[0])


def test_zeros_and_isolated_patches_for_comparison():
    mask, given, alien = task(fill="zeros", shape="tokens", alien=0.0).corrupt(images(6), torch.arange(6), 0)
    assert not alien.any()
    assert (given.permute(0, 2, 3, 1)[mask] == 0).all()
    cells = mask.view(6, 8, 4, 8, 4).float().mean((2, 4))
    assert ((cells == 0) | (cells == 1)).all()


# --- loss


def test_the_loss_is_one_mean_over_the_corrupted_pixels():
    made = randomised()
    clean, given = images(), images(seed=1)
    mask = torch.rand(4, 32, 32) < torch.tensor([0.1, 0.9, 0.5, 0.0])[:, None, None]
    prediction = made.reconstruct(given)
    total, count = 0.0, 0
    for n, row, column in np.argwhere(mask.numpy()).tolist():
        total += (prediction[n, :, row, column] - clean[n, :, row, column]).abs().sum().item()
        count += 3
    assert made.loss_of(clean, given, mask)["loss"].item() == pytest.approx(total / count, rel=1e-5)
    everything = (prediction - clean).abs().mean().item()
    assert randomised(only_corrupted=False).loss_of(clean, given, mask)["loss"].item() == pytest.approx(
        everything, rel=1e-5
    )


def test_pixels_that_are_not_corrupted_get_no_gradient():
    prediction, mask = images().requires_grad_(), torch.rand(4, 32, 32) < 0.4
    gmml.masked_l1(prediction, images(seed=1), mask).backward()
    assert torch.equal(prediction.grad.abs().amax(1) > 0, mask)
    assert gmml.masked_l1(images(), images(), mask) == 0


def test_clean_pixels_under_noise_reach_the_target_only():
    made = randomised(alien=0.0)
    clean = images().requires_grad_()
    torch.manual_seed(0)
    mask, given, _ = made.corrupt(clean, torch.arange(4), 0)
    made.reconstruct(given).square().sum().backward()
    assert torch.equal(clean.grad.abs().amax(1) > 0, ~mask)


def test_features_are_the_mean_of_the_listed_blocks_normalised_once():
    made, given = randomised(), images()
    model = made.encoder.model
    tokens = made.encoder.with_class(made.encoder.embed(given) + made.encoder.positions)
    found = []
    for block in model.blocks:
        tokens = block(tokens)
        found.append(tokens)
    features = torch.nn.functional.layer_norm(
        (found[0] + found[1] + found[3]) / 3, (32,), model.norm.weight, model.norm.bias, 1e-6
    )[:, 1:]
    hidden = features
    for number in (0, 2, 4):
        hidden = torch.nn.functional.gelu(made.head.mlp[number](hidden))
    kernel, bias = made.head.pixels.weight, made.head.pixels.bias  # (32, 3, 4, 4)
    patches = torch.einsum("nld,dcij->nlcij", hidden, kernel) + bias[:, None, None]
    expected = patches.view(4, 8, 8, 3, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(4, 3, 32, 32)
    assert torch.allclose(made.reconstruct(given), expected, rtol=1e-4, atol=1e-4)


def test_both_crops_are_trained_on_and_gradients_reach_everything():
    made = task(jitter=0.3)
    seen = []
    made.encoder.model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    terms = made.loss(batch())
    terms["loss"].backward()
    assert seen == [(12, 65, 32)]
    assert 0.3 < terms["corrupted"] < 0.8
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters())


# --- schedules


def test_weight_decay_rises_along_half_a_cosine_as_in_version_0_1():
    old = recipe.load(Path(__file__).parent / "gmml_version_0_1.json")  # where nothing but its start is written
    stages = [stage.model_copy(update={"last_batch": "straddle"}) for stage in gmml.paper().stages]
    assert old == gmml.paper().model_copy(update={"stages": stages})
    stage = task().configure_stage(old.stages[0].resolved(512 * 2))
    values = [optim.weight_decay(stage, step) for step in range(1601)]
    by_hand = [0.4 + 0.5 * (0.04 - 0.4) * (1.0 + math.cos(math.pi * min(1.0, step / 1600))) for step in range(1601)]
    assert values == by_hand
    assert (values[0], values[800], values[1600]) == pytest.approx((0.04, 0.22, 0.4))
    assert all(a <= b for a, b in itertools.pairwise(values))


def test_a_recipe_may_say_otherwise_how_the_weight_decay_goes():
    own = Stage(steps=1, weight_decay=Ref("linear", start=0.1, end=0.2))
    assert task().configure_stage(own) is own
    for stage, made in ((Stage(steps=1, weight_decay=0), task()), (Stage(steps=1), task(final_weight_decay=None))):
        assert made.configure_stage(stage).weight_decay == stage.weight_decay


@pytest.mark.slow
def test_every_update_gets_its_weight_decay(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch):
    """Also one of two tasks on one encoder, whose stages are the first one's."""
    seen = []
    step = Engine.update
    monkeypatch.setattr(
        Engine,
        "update",
        lambda self, owner, optimizer, stage: (
            seen.append({round(group["weight_decay"], 9) for group in optimizer.param_groups}),
            step(self, owner, optimizer, stage),
        )[1],
    )
    for name in ("vision/gmml", "vision/gmml+vision/rotation"):
        seen.clear()
        chosen = compose.compose(name, catalog, name="tiny", encoder=ENCODER, steps=6, settings=PLAIN)
        Session(chosen, tmp_path / name.replace("/", "-"), catalog, evaluate=False, quiet=True, report=False).run()
        expected = [round(0.22 - 0.18 * math.cos(math.pi * number / 6), 9) for number in range(6)]
        assert seen == [{0.0, decay} for decay in expected]


def test_paper_recipe_follows_the_published_schedule():
    stage = gmml.paper().stages[0].resolved(512 * 10)
    rates = [optim.learning_rate(stage, step) for step in (0, 100, 8000)]
    assert rates == pytest.approx([0.0, 1e-3, 1e-6])
    assert (stage.optimizer, stage.clip_tensor_norm) == (Ref("adamw"), 3.0)  # betas (0.9, 0.999)


def test_the_rates_warm_up_ends_with_its_last_update_and_starts_again_at_the_peak():
    """As NumPy spaces the warm-up and the authors' formula what follows."""
    changes = {"epochs": None, "warmup_epochs": None, "steps": 110, "warmup_steps": 20, "batch_size": 256}
    stage = gmml.paper().stages[0].model_copy(update=changes).resolved(2560)
    cosine = [1e-6 + 0.5 * (5e-4 - 1e-6) * (1 + math.cos(math.pi * step / 90)) for step in range(90)]
    expected = [*np.linspace(0.0, 5e-4, 20), *cosine]
    assert [optim.learning_rate(stage, step) for step in range(110)] == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_the_head_reads_patches_and_the_class_token_learns_through_attention_alone():
    made, given = randomised(), images()
    captured = []
    made.encoder.model.norm.register_forward_hook(lambda _, __, output: captured.append(output) or output.retain_grad())
    made.reconstruct(given).square().sum().backward()
    assert (captured[0].grad[:, 0] == 0).all()
    assert (captured[0].grad[:, 1:].abs().amax(-1) > 0).all()
    assert made.encoder.model.cls_token.grad.abs().max() > 0
    assert made.encoder.model.pos_embed.grad[0, 1:].abs().amax(-1).min() > 0


def test_a_block_that_is_not_listed_counts_through_later_ones_alone():
    made, given = randomised(), images()  # blocks 1, 2 and 4
    encoder = made.encoder
    with torch.no_grad():
        before = encoder.outputs(encoder.with_class(encoder.embed(given) + encoder.positions))
        made.encoder.model.blocks[2].mlp.fc2.bias.add_(1.0)
        after = encoder.outputs(encoder.with_class(encoder.embed(given) + encoder.positions))
        mean = (before[0] + before[1] + after[3]) / 3
        expected = made.head(encoder.normalise(mean)[:, 1:])
        assert torch.allclose(made.reconstruct(given), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(before[3], after[3], atol=1e-2)


# --- around the loss


def test_pictures_show_clean_corrupted_and_restored():
    made, given = randomised(), batch(10)
    torch.manual_seed(0)
    picture = made.show(given)["reconstruction"]
    assert picture.shape == (8 * 34 - 2, 3 * 34 - 2, 3)
    assert np.array_equal(picture[:32, :32], given["view1"][0].numpy())
    changed = (picture[:32, :32] != picture[:32, 34:66]).any(-1).mean()
    assert 0.2 < changed < 0.8


def test_the_representation_is_that_of_the_whole_clean_image():
    made = randomised()
    given = {"image": batch(3)["view1"]}
    expected = made.encoder.model.forward_features(views.to_float(given["image"]))[:, 1:].mean(1)
    assert torch.allclose(made.encode(given), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": ()}, r"blocks=\[\] of an encoder of 4"),
        ({"blocks": (1, 2)}, "and the last, as later blocks would learn nothing"),
        ({"blocks": (0, 4)}, r"give some of 1\.\.4"),
        ({"ratio": 0.0}, r"ratio 0.0 is outside \(0, 1\]"),
        ({"align": 5}, "align=5 does not divide images of 32"),
        ({"align": 16}, "no room for blocks of 16 pixels"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        task(**options)
