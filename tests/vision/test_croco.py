"""CroCo: the published numbers, an independent implementation in float64, what must not leak, what it learns to use."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unlabel import optim, seeds
from unlabel.data import Draw
from unlabel.errors import UsageError
from unlabel.nn import masking, patches, positions
from unlabel_vision import views
from unlabel_vision.encoders.rope_vit import rope_vit
from unlabel_vision.encoders.vit import vit
from unlabel_vision.tasks import croco
from unlabel_vision.tasks.croco import CroCo, binocular, pair_views
from unlabel_vision.tasks.croco.binocular import BinocularDecoder

DECODER = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
SIZES = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 4}
KINDS = ["sincos", "rotary"]


def task(kind: str = "sincos", **options) -> CroCo:
    torch.manual_seed(0)
    encoder = vit(**SIZES, class_token=False, pool="avg") if kind == "sincos" else rope_vit(**SIZES)
    return CroCo(encoder, **{**DECODER, "mask_ratio": 0.75, **options})


def randomised(kind: str = "sincos", scale: float = 0.4, **options) -> CroCo:
    """Every trainable weight random, so that a part that does nothing shows."""
    made = task(kind, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return made


def images(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def noise(count: int = 3, seed: int = 0, length: int = 16) -> Tensor:
    return torch.rand(count, length, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    first, second = (torch.from_numpy(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)) for _ in range(2))
    return {"view1": first, "view2": second, "key": torch.arange(count) * 977 + seed}


# --- published numbers


def test_masks_match_golden(shared):
    data = np.load(shared / "golden/vision-croco/random_mask.npz")
    ours = croco.random_mask(torch.from_numpy(data["in/noise"]), 0.9)
    assert np.array_equal(ours.numpy(), data["out/mask"])


def test_losses_match_golden(shared):
    data = {name: torch.from_numpy(v) for name, v in np.load(shared / "golden/vision-croco/masked_mse.npz").items()}
    prediction, target, mask = (data[f"in/{name}"] for name in ("pred", "target", "mask"))
    for name, chosen, norm_pix in (("norm_masked", mask, True), ("raw_masked", mask, False), ("norm_all", None, True)):
        ours = croco.masked_mse(prediction, target, chosen, norm_pix)
        assert ours.item() == pytest.approx(data[f"out/{name}"].item(), rel=1e-4, abs=2e-5)


def test_paper_recipe_has_the_published_size():
    with torch.device("meta"):
        made = CroCo(vit(class_token=False, pool="avg"))
    sizes = [sum(p.numel() for p in part.parameters() if p.requires_grad) for part in (made, made.encoder)]
    assert sizes == [pytest.approx(120.08e6, rel=5e-5), pytest.approx(85.65e6, rel=5e-5)]


def test_version_two_has_the_published_size():
    with torch.device("meta"):
        options = croco.paper_v2().task.options
        made = CroCo(rope_vit(**croco.paper_v2().encoder.options), **options)
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(417.9e6, rel=2e-4)


@pytest.mark.slow
def test_paper_recipe_costs_what_was_published():
    with torch.device("meta"):
        made = CroCo(vit(class_token=False, pool="avg"), second_view="other")  # as costly, and nothing is watched
        view, values = torch.zeros(1, 3, 224, 224), torch.zeros(1, 196)
    with FlopCounterMode(display=False) as counter:
        made.loss_of(view, view, values)
    assert counter.get_total_flops() / 2e9 == pytest.approx(26.6, rel=0.02)


def test_paper_recipe_stops_at_half_of_its_schedule():
    stage = croco.paper().stages[0].resolved(1000 * 256)
    assert (stage.steps, stage.horizon, stage.warmup) == (400_000, 800_000, 40_000)
    assert stage.peak_lr == pytest.approx(1.5e-4)
    middle = (400_000 - 40_000) / (800_000 - 40_000)
    expected = 1.5e-4 * 0.5 * (1 + math.cos(math.pi * middle))
    assert optim.learning_rate(stage, 400_000) == pytest.approx(expected)


# --- an independent implementation: one pair at a time, in float64


def normalised(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred**2).mean(-1, keepdim=True) + 1e-6
    return centred / spread.sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def turned(x: Tensor, where: list[tuple[int, int]]) -> Tensor:
    """Each head's first half by the row, its second half by the column; (L, width)."""
    out = torch.empty_like(x)
    half, pairs = x.shape[1] // 2, x.shape[1] // 4
    for token, place in enumerate(where):
        for axis in (0, 1):
            for i in range(pairs):
                angle = place[axis] * 100.0 ** (-i / pairs)
                a, b = axis * half + i, axis * half + pairs + i
                out[token, a] = x[token, a] * math.cos(angle) - x[token, b] * math.sin(angle)
                out[token, b] = x[token, a] * math.sin(angle) + x[token, b] * math.cos(angle)
    return out


def mixed(query: Tensor, key: Tensor, value: Tensor, heads: int, where=None, where_keys=None) -> Tensor:
    width, outputs = query.shape[1] // heads, []
    for head in range(heads):
        q, k, v = (part[:, head * width :][:, :width] for part in (query, key, value))
        if where is not None:
            q, k = turned(q, where), turned(k, where_keys)
        scores = (q @ k.T / math.sqrt(width)).exp()
        outputs.append(scores / scores.sum(1, keepdim=True) @ v)
    return torch.cat(outputs, dim=1)


def self_attended(x, weights, name, heads, where=None):
    query, key, value = linear(x, weights, f"{name}.qkv").chunk(3, dim=1)
    return linear(mixed(query, key, value, heads, where, where), weights, f"{name}.proj")


def mlp(x, weights, name):
    hidden = linear(x, weights, f"{name}.fc1")
    return linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), weights, f"{name}.fc2")


def code(place: int, dim: int) -> Tensor:
    row, column = divmod(place, 4)
    angles = [[p / 10000 ** (i / (dim // 4)) for i in range(dim // 4)] for p in (column, row)]
    numbers = [f(a) for some in angles for f in (math.sin, math.cos) for a in some]
    return torch.tensor(numbers, dtype=torch.float64)


def pixels_of(image: Tensor, place: int) -> Tensor:
    top, left = 8 * (place // 4), 8 * (place % 4)
    return image[:, top : top + 8, left : left + 8]


def encoded(weights, image, keep, rotary):
    projection = weights["encoder.model.patch_embed.proj.weight"].flatten(1)
    x = torch.stack([projection @ pixels_of(image, place).flatten() for place in keep])
    x = x + weights["encoder.model.patch_embed.proj.bias"]
    where = [divmod(place, 4) for place in keep] if rotary else None
    if not rotary:
        x = x + torch.stack([code(place, 32) for place in keep])
    for number in range(2):
        block = f"encoder.model.blocks.{number}"
        x = x + self_attended(normalised(x, weights, f"{block}.norm1"), weights, f"{block}.attn", 4, where)
        x = x + mlp(normalised(x, weights, f"{block}.norm2"), weights, f"{block}.mlp")
    return normalised(x, weights, "encoder.model.norm")


def prediction_of(weights, first, second, keep, rotary, norm_memory):
    seen = linear(encoded(weights, first, keep, rotary), weights, "decoder.embed")
    memory = linear(encoded(weights, second, range(16), rotary), weights, "decoder.embed")
    rows = [weights["decoder.mask_token"][0, 0]] * 16
    for number, place in enumerate(keep):
        rows[place] = seen[number]
    x, everywhere = torch.stack(rows), [divmod(place, 4) for place in range(16)]
    where = everywhere if rotary else None
    if not rotary:
        table = torch.stack([code(place, 16) for place in range(16)])
        x, memory = x + table, memory + table
    for number in range(2):
        block = f"decoder.blocks.{number}"
        x = x + self_attended(normalised(x, weights, f"{block}.norm1"), weights, f"{block}.attn", 2, where)
        own = normalised(memory, weights, f"{block}.norm_y") if norm_memory else memory
        query = linear(normalised(x, weights, f"{block}.norm2"), weights, f"{block}.cross_attn.projq")
        key, value = (linear(own, weights, f"{block}.cross_attn.{name}") for name in ("projk", "projv"))
        x = x + linear(mixed(query, key, value, 2, where, where), weights, f"{block}.cross_attn.proj")
        x = x + mlp(normalised(x, weights, f"{block}.norm3"), weights, f"{block}.mlp")
    return linear(normalised(x, weights, "decoder.norm"), weights, "decoder.predict")


def reference(weights, first, second, values, rotary, norm_memory, norm_pix):
    total, hidden = torch.zeros((), dtype=torch.float64), 0
    for one, two, row in zip(first.double(), second.double(), values.tolist(), strict=True):
        order = sorted(range(16), key=lambda place: row[place])
        keep = [place for place in range(16) if order[place] >= 12]
        prediction = prediction_of(weights, one, two, keep, rotary, norm_memory)
        for place in set(range(16)) - set(keep):
            target = pixels_of(one, place).permute(1, 2, 0).flatten()
            if norm_pix:
                variance = ((target - target.mean()) ** 2).sum() / 191
                target = (target - target.mean()) / (variance + 1e-6).sqrt()
            total = total + ((prediction[place] - target) ** 2).mean()
            hidden += 1
    return total / hidden


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "norm_memory", "norm_pix"),
    [("sincos", True, True), ("sincos", False, False), ("rotary", True, True)],
)
def test_loss_and_every_gradient_match_an_independent_implementation(kind, norm_memory, norm_pix):
    made = randomised(kind, 0.3, norm_memory=norm_memory, norm_pix=norm_pix)
    weights = {n: p.detach().double().requires_grad_() for n, p in made.named_parameters() if p.requires_grad}
    expected = reference(weights, images(2), images(2, 1), noise(2), kind == "rotary", norm_memory, norm_pix)
    expected.backward()

    ours = made.loss_of(images(2), images(2, 1), noise(2))["loss"]
    ours.backward()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, weight in weights.items():
        gradient = made.get_parameter(name).grad
        # float32 against float64: within 1e-4 of the largest entry
        assert (gradient - weight.grad).abs().max() < 1e-4 * weight.grad.abs().max() + 1e-9, name


# --- section 8 of the method card, point by point


def test_exactly_so_many_patches_are_seen_in_their_order_and_others_each_time():
    made = task(mask_ratio=0.9)
    mask = made.mask(noise(64))
    assert mask.keep.shape == (64, 2)
    assert (mask.mask.sum(1) == 14).all()
    assert (mask.keep[:, 1:] > mask.keep[:, :-1]).all()
    assert len({tuple(row) for row in mask.keep.tolist()}) > 32
    assert int(0.9 * 196) == 176
    assert masking.kept_count(196, 0.9) == 19  # which is not this rule
    assert (~croco.random_mask(noise(4, length=196), 0.9)).sum(1).tolist() == [20] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_see_no_hidden_pixel_and_every_pixel_of_the_second_view(kind):
    made = randomised(kind)
    first, second = images().requires_grad_(), images(seed=1).requires_grad_()
    mask = made.mask(noise())
    prediction = made.predict(made.encode_views(first, second, mask))
    (prediction * torch.randn_like(prediction)).sum().backward()
    gradient = patches.patchify(first.grad, 8)
    assert (gradient[mask.mask == 1] == 0).all()
    assert (gradient[mask.mask == 0].abs().amax(1) > 0).all()
    assert (second.grad != 0).all()


def shifted_pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Views of 4 x 4 patches of one colour each; the second is the first, moved by one patch to the right."""
    wide = torch.randn(count, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    wide = wide.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return wide[..., 4:].contiguous(), wide[..., :16].contiguous()


def same_pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    first, _ = shifted_pairs(count, seed)
    return first, first


def taught(make_pairs, steps: int, **options) -> CroCo:
    """A small network after some updates; rotary, which learns where to look in a tenth of the time."""
    torch.manual_seed(0)
    encoder = rope_vit(image_size=16, patch_size=4, dim=32, depth=1, heads=4)
    options = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4, "mask_ratio": 0.75, **options}
    made = CroCo(encoder, norm_pix=False, **options)
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 20) * (1 - step / steps)
        first, second = make_pairs(32, step)
        made.loss_of(first, second, noise(32, step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return made.eval()


@pytest.fixture(scope="module")
def matcher() -> CroCo:
    """Learnt on pairs whose second view is moved by one patch."""
    return taught(shifted_pairs, 120)


@pytest.mark.slow
def test_the_second_view_is_what_lowers_the_loss(matcher):
    blind = taught(shifted_pairs, 40, second_view="none")
    first, second = shifted_pairs(64, 10_000)
    with torch.no_grad():
        true = matcher.loss_of(first, second, noise(64))["loss"].item()
        other = matcher.loss_of(first, second.roll(1, 0), noise(64))["loss"].item()
        alone = blind.loss_of(first, second, noise(64))["loss"].item()
    assert alone > 0.9  # colours cannot be guessed: without the second view the error is their variance, 1
    assert true < 0.5 * alone  # a quarter of the patches has left the second view
    assert other > alone


@pytest.mark.slow
def test_hidden_patches_look_where_they_have_moved(matcher):
    first, second = shifted_pairs(64, 10_000)
    mask = matcher.mask(noise(64))
    with torch.no_grad():
        seen = matcher.encode_views(first, second, mask)
        maps = matcher.decoder.attention(seen.first, seen.restore, seen.second)
    place = torch.arange(16)
    inside = (place % 4 < 3)[None] & (mask.mask == 1)  # whose content is still in the second view
    right = [(looks.argmax(-1) == place + 1)[inside].float().mean().item() for looks in maps]
    assert max(right) > 0.9


@pytest.mark.slow
def test_an_identical_second_view_is_copied():
    made = taught(same_pairs, 120)
    first, second = same_pairs(64, 10_000)
    with torch.no_grad():
        assert made.loss_of(first, second, noise(64))["loss"].item() < 0.05


@pytest.mark.parametrize("norm_memory", [True, False])
def test_the_memory_passes_unchanged_and_each_block_normalises_it_by_itself(norm_memory):
    made = randomised(norm_memory=norm_memory)
    seen, normal = [], []
    for block in made.decoder.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
        block.norm_y.register_forward_hook(lambda _, __, output: normal.append(output))
    made.predict(made.encode_views(images(), images(seed=1), made.mask(noise())))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(normal[0], normal[1]) != norm_memory
    assert any("norm_y" in name for name, _ in made.named_parameters()) == norm_memory


@torch.no_grad()
def test_rotary_attention_depends_on_differences_of_places_alone():
    made = randomised("rotary").double()
    first, second, mask = images().double(), images(seed=1).double(), made.mask(noise())
    before = made.predict(made.encode_views(first, second, mask))
    for part, width in ((made.encoder, 8), (made.decoder, 8)):
        moved = positions.rotary(width, positions.places((4, 4)) + torch.tensor([3.0, -7.0]), dtype=torch.float64)
        part.cos, part.sin = moved.cos, moved.sin
    after = made.predict(made.encode_views(first, second, mask))
    assert torch.allclose(before, after, atol=1e-5)  # the tables were float32 before
    made.decoder.cos = made.decoder.cos.flip(0)
    assert not torch.allclose(before, made.predict(made.encode_views(first, second, mask)), atol=1e-2)


def test_predicting_zeros_shows_the_unbiased_variance_and_only_hidden_patches_count():
    target = patches.patchify(3 * images() + 1, 8)
    mask = croco.random_mask(noise(), 0.75)
    assert croco.masked_mse(torch.zeros_like(target), target, mask).item() == pytest.approx(191 / 192, rel=1e-6)
    wild = torch.where(mask[..., None], 0.0, 1e3).expand_as(target)
    assert croco.masked_mse(wild, target, mask).item() == pytest.approx(191 / 192, rel=1e-6)


def test_crops_and_colours_differ_between_views_repeat_and_never_mirror():
    ramp = np.zeros((37, 37, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(37)[:, None] * 3, np.arange(37)[None] * 3
    crop = pair_views.PairCrop(32)
    offsets = []
    for index in range(40):
        made, again = (crop({"image": ramp, "second": ramp}, Draw(seeds.generator(0, 0, index))) for _ in range(2))
        assert made.keys() == {"view1", "view2"}
        for name, view in made.items():
            assert np.array_equal(view, again[name])
            row, column = view[0, 0, 0] // 3, view[0, 0, 1] // 3
            assert np.array_equal(view, ramp[row : row + 32, column : column + 32])
        offsets.append([int(view[0, 0, axis]) // 3 for view in made.values() for axis in (0, 1)])
    top1, left1, top2, left2 = np.array(offsets).T
    for values in (top1, left1, top2, left2):
        assert {0, 5} <= set(values.tolist()) <= set(range(6))
    assert abs(np.corrcoef(top1, top2)[0, 1]) < 0.5
    assert abs(np.corrcoef(left1, left2)[0, 1]) < 0.5

    flat = torch.full((8, 32, 32, 3), 100, dtype=torch.uint8)
    flat[..., 0] = 160
    first, second = task().colors.pair({"view1": flat, "view2": flat, "key": torch.arange(8)})
    assert ((first - second).abs().amax((1, 2, 3)) > 1e-3).all()


def test_jitter_is_the_published_one():
    colors = croco.CroCo(vit(**SIZES, class_token=False, pool="avg"), **DECODER).colors
    assert (colors.brightness, colors.contrast, colors.saturation, colors.hue) == (0.4, 0.4, 0.4, 0.0)
    assert (colors.jitter_p, colors.gray_p, colors.blur_p, colors.solarize_p) == (1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_reads_two_whole_views_without_the_mask_token(kind):
    trained = randomised(kind)
    made = task(kind)
    made.load_state_dict(trained.state_dict())
    first, second = images(), images(seed=1)
    layers = made.layers_of(first, second)
    assert (
        [layer.shape for layer in layers]
        == [(3, 16, 32), (3, 16, 16), (3, 16, 16)]
        == [(3, 16, width) for width in made.widths]
    )
    with torch.no_grad():
        made.decoder.mask_token.fill_(1e3)
    again = made.layers_of(first, second)
    assert all(torch.equal(one, other) for one, other in zip(layers, again, strict=True))
    everything = made.mask(noise())._replace(
        keep=torch.arange(16).expand(3, 16), restore=torch.arange(16).expand(3, 16)
    )
    masked = made.encode_views(first, second, everything)
    torch.testing.assert_close(made.decoder.outputs(*masked)[-1], layers[-1], rtol=1e-4, atol=1e-4)


# --- what is logged, shown, refused


def test_what_is_watched_is_the_same_network_with_another_or_no_second_view():
    made = randomised()
    terms = made.loss(batch())
    assert set(terms) == {"loss", "error_other", "error_none"}
    assert not terms["error_other"].requires_grad
    given = batch()
    first, second = made.colors.pair(given)
    values = seeds.uniform(given["key"], (16,))
    assert made.loss_of(first, second, values)["loss"].item() == pytest.approx(terms["loss"].item())
    other = made.loss_of(first, second.roll(1, 0), values)["loss"]
    assert other.item() == pytest.approx(terms["error_other"].item(), rel=1e-4)
    alone = made.predict(made.encode_views(first, None, made.mask(values)))
    error = croco.masked_mse(alone, patches.patchify(first, 8), made.mask(values).mask)
    assert error.item() == pytest.approx(terms["error_none"].item(), rel=1e-4)


def test_controls_look_at_another_pair_or_at_nothing():
    given = batch()
    truth = randomised().loss(given)
    assert randomised(second_view="other").loss(given)["loss"].item() == pytest.approx(
        truth["error_other"].item(), rel=1e-4
    )
    alone = randomised(second_view="none")
    assert alone.loss(given)["loss"].item() == pytest.approx(truth["error_none"].item(), rel=1e-4)
    changed = {**given, "view2": given["view2"].flip(0)}
    assert torch.equal(alone.loss(changed)["loss"], alone.loss(given)["loss"])


def test_gradients_reach_everything_but_the_position_tables():
    for kind in KINDS:
        made = task(kind)
        made.loss(batch())["loss"].backward()
        without = {name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
        assert without == ({"encoder.model.pos_embed"} if kind == "sincos" else set())


def test_noise_and_colours_come_from_the_key_alone():
    made, given = randomised(), batch()
    loss = made.loss(given)["loss"].item()
    halves = [{name: values[part] for name, values in given.items()} for part in (slice(3), slice(3, 6))]
    assert np.mean([made.loss(half)["loss"].item() for half in halves]) == pytest.approx(loss, rel=1e-5)
    assert made.loss({**given, "key": given["key"] + 1})["loss"].item() != pytest.approx(loss, rel=1e-5)


def test_half_precision_gives_nearly_the_same_loss():
    made = randomised("rotary", 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = made.loss(batch())["loss"]
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(made.loss(batch())["loss"].item(), rel=0.02)


@pytest.mark.slow
def test_a_compiled_loss_is_the_same():
    made = randomised("rotary", 0.1)
    compiled = torch.compile(made.loss, backend="aot_eager")
    ours, theirs = made.loss(batch()), compiled(batch())
    for name in ours:
        assert theirs[name].item() == pytest.approx(ours[name].item(), rel=1e-4)


def test_pictures_show_both_views_and_where_a_hidden_patch_looks():
    made, given = randomised(), batch(10)
    shown = made.show(given)
    assert shown["reconstruction"].shape == (8 * 34 - 2, 4 * 34 - 2, 3)
    assert shown["attention"].shape == (8 * 34 - 2, 2 * 34 - 2, 3)
    first, second = made.colors.pair(given)
    assert np.array_equal(shown["reconstruction"][:32, :32], views.to_pixels(first)[0])
    assert np.array_equal(shown["reconstruction"][:32, 34:66], views.to_pixels(second)[0])
    frames = (shown["attention"][:32, :32] != views.to_pixels(first)[0]).any(-1)
    assert 20 <= frames.sum() <= 28  # the border of one patch, but for what was red
    assert (shown["attention"][:32, :32][frames] == (255, 0, 0)).all()
    row, column = (int(index.min()) // 8 for index in frames.nonzero())
    assert made.mask(seeds.uniform(given["key"], (16,))).mask[0, 4 * row + column] == 1
    assert set(randomised(second_view="none").show(given)) == {"reconstruction"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 0.05}, "hides 0 of 16"),
        ({"mask_ratio": 1.0}, "hides 16 of 16"),
        ({"window": (0.8, 0.4)}, "two shares of the image"),
        ({"jitter": 1.4}, "outside"),
        ({"decoder_heads": 3}, "cannot share a width"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        task(**options)


def test_encoders_with_a_class_token_and_data_without_pairs_are_refused():
    with pytest.raises(UsageError, match="works without a class token"):
        CroCo(vit(**SIZES), **DECODER)
    image = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(UsageError, match="needs pairs of views"):
        task().transform()({"image": image}, Draw(np.random.default_rng(0)))


def test_hooks_are_equally_spaced_and_end_at_the_last_block():
    assert binocular.hooks(8) == [2, 4, 7]
    assert binocular.hooks(12) == [3, 7, 11]
    assert binocular.hooks(3) == [0, 1, 2]
    assert binocular.hooks(2) == [0, 1]
    assert binocular.hooks(1) == [0]


def test_attention_maps_are_those_of_the_forward_pass():
    torch.manual_seed(0)
    decoder = BinocularDecoder(32, 4, 192, 16, 2, 2)
    first, second = torch.randn(2, 2, 16, 32)
    memory = decoder.embed(second) + decoder.table
    looks = decoder.attention(first, None, second)
    assert [tuple(one.shape) for one in looks] == [(2, 16, 16)] * 2
    assert torch.allclose(looks[0].sum(-1), torch.ones(2, 16))
    block = decoder.blocks[0]
    tokens = block.norm2(block.within(decoder.embed(first) + decoder.table))
    weights = block.cross_attn.weights(tokens, block.norm_y(memory))
    values = block.cross_attn.projv(block.norm_y(memory)).unflatten(-1, (2, 8)).transpose(1, 2)
    expected = block.cross_attn.proj((weights @ values).transpose(1, 2).flatten(2))
    assert torch.allclose(block.cross_attn(tokens, block.norm_y(memory)), expected, atol=1e-6)
    assert torch.allclose(looks[0], weights.mean(1))
