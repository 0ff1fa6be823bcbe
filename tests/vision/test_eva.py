"""EVA: the published numbers, an independent student, and a teacher that sees all and is nowhere saved."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil

import numpy as np
import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional

from unlabel import Catalog, Run, UsageError, compose, launch, optim
from unlabel.data import Draw
from unlabel.recipe import Stage
from unlabel_vision import views
from unlabel_vision.datasets.digits import Digits
from unlabel_vision.encoders.eva import eva_vit
from unlabel_vision.encoders.vit import vit
from unlabel_vision.evaluations.teacher_cosine import teacher_cosine
from unlabel_vision.tasks import eva
from unlabel_vision.tasks.eva import EVA, PairedCrop, PairedView

SMALL = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 4, "mlp_ratio": 2.5}


def task(encoder=None, *, relative: bool = False, **options) -> EVA:
    torch.manual_seed(0)
    made = encoder or eva_vit(**SMALL, relative_positions=relative)
    return EVA(made, **{"teacher": "hog", "min_block": 1, **options})


def randomised(**options) -> EVA:
    """Every weight random, so that a part that does nothing shows."""
    made = task(**options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def masks(count: int = 2, seed: int = 0) -> Tensor:
    """As many hidden in no two of the first rows."""
    noise = torch.rand(count, 16, generator=torch.Generator().manual_seed(seed))
    return noise.argsort(1).argsort(1) < torch.arange(4, 4 + count)[:, None]


def batch(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return {"image": torch.from_numpy(pixels), "mask": masks(count, seed), "key": torch.arange(count) * 977 + seed}


# --- masks


def test_block_masks_have_the_published_statistics(shared):
    golden = np.load(shared / "golden/vision-eva/block_mask_stats.npz")
    draw = random.Random(0)
    drawn = np.stack([eva.block_mask(16, 16, 105, draw) for _ in range(3000)])
    counts = drawn.sum((1, 2))
    least, mean, most, full = golden["count_min_mean_max_fracfull"]
    assert counts.max() == most
    assert abs(counts.min() - least) <= 3  # of another sample of masks
    assert counts.mean() == pytest.approx(mean, abs=0.1)
    assert (counts == 105).mean() == pytest.approx(full, abs=0.03)
    assert np.abs(drawn.mean(0) - golden["marginal"]).max() < 0.03


@pytest.mark.parametrize(("side", "count", "block"), [(16, 105, 16), (8, 26, 4), (4, 7, 1), (14, 80, 16)])
def test_masks_hide_at_most_what_is_asked_for_and_repeat(side, count, block):
    draw = random.Random(3)
    drawn = [eva.block_mask(side, side, count, draw, min_block=block) for _ in range(50)]
    assert all(0 < mask.sum() <= count for mask in drawn)
    assert len({mask.tobytes() for mask in drawn}) > 45
    again = random.Random(3)
    assert all((eva.block_mask(side, side, count, again, min_block=block) == mask).all() for mask in drawn)


class Recorded(random.Random):
    """Remembers what is drawn, to be told once more."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.drawn: list[tuple[str, float, float, float]] = []

    def uniform(self, a, b):
        value = super().uniform(a, b)
        self.drawn.append(("uniform", a, b, value))
        return value

    def randint(self, a, b):
        value = super().randint(a, b)
        self.drawn.append(("randint", a, b, value))
        return value


def test_a_mask_is_the_published_procedure_draw_by_draw():
    for seed in range(8):
        draw = Recorded(seed)
        mask = eva.block_mask(16, 16, 105, draw)
        told, covered = iter(draw.drawn), set()
        while len(covered) < 105:
            left, added = 105 - len(covered), 0
            for _ in range(10):
                kind, low, high, area = next(told)
                assert (kind, low, high) == ("uniform", 16, left)  # reversed bounds where fewer than 16 are left
                kind, low, high, aspect = next(told)
                assert kind == "uniform"
                assert (low, high) == (math.log(0.3), math.log(1 / 0.3))
                height = round(math.sqrt(area * math.exp(aspect)))
                width = round(math.sqrt(area / math.exp(aspect)))
                if height >= 16 or width >= 16:
                    continue
                kind, low, high, top = next(told)
                assert (kind, low, high) == ("randint", 0, 16 - height)
                kind, low, high, first = next(told)
                assert (kind, low, high) == ("randint", 0, 16 - width)
                new = {(y, x) for y in range(top, top + height) for x in range(first, first + width)} - covered
                if 0 < len(new) <= left:
                    covered |= new
                    added = len(new)
                    break
            if not added:
                break
        assert next(told, None) is None
        assert {tuple(place) for place in np.argwhere(mask).tolist()} == covered


def test_the_papers_share_hides_the_authors_number_of_patches():
    with torch.device("meta"):
        encoder = vit(image_size=224, patch_size=14, dim=32, depth=1, heads=4)
        assert EVA(encoder, teacher_dim=8).count == 105
        assert EVA(vit(image_size=32, patch_size=4, dim=32, depth=1, heads=4), teacher_dim=8).count == 26


# --- the loss


def test_the_loss_matches_golden(shared):
    data = {key: torch.from_numpy(v) for key, v in np.load(shared / "golden/vision-eva/loss.npz").items()}
    everywhere = torch.ones(7)
    ours = eva.negative_cosine(data["in/out"], data["in/target"], everywhere)
    assert ours.item() == pytest.approx(data["out/loss"].item(), rel=1e-4, abs=2e-5)


def test_the_loss_is_a_cosine():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(3, 5, 12, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randn(3, 5, 12, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 5, generator=generator) < 0.5
    loss = eva.negative_cosine(prediction, target, mask)
    for scaled in (
        eva.negative_cosine(7 * prediction, target, mask),
        eva.negative_cosine(prediction, 0.1 * target, mask),
    ):
        assert scaled.item() == pytest.approx(loss.item(), rel=1e-9)
    assert eva.negative_cosine(3 * target, target, mask).item() == pytest.approx(-1, rel=1e-9)
    assert eva.negative_cosine(-target, target, mask).item() == pytest.approx(1, rel=1e-9)

    loss.backward()
    assert (prediction.grad[~mask] == 0).all()
    along = (prediction.grad * prediction).sum(-1)
    assert along.abs().max() < 1e-12 < prediction.grad[mask].norm(dim=-1).min()


def test_the_loss_is_a_mean_over_tokens_and_nothing_hidden_is_no_nan():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 6, 4, generator=generator)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[0, :1], mask[1, :4] = True, True  # and none of the third
    values = [
        -float(torch.dot(prediction[n, i], target[n, i]) / prediction[n, i].norm() / target[n, i].norm())
        for n, i in mask.nonzero().tolist()
    ]
    assert eva.negative_cosine(prediction, target, mask).item() == pytest.approx(sum(values) / 5, rel=1e-5)
    prediction.requires_grad_()
    nothing = eva.negative_cosine(prediction, target, torch.zeros(3, 6, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0
    assert (prediction.grad == 0).all()


# --- the student


def by_hand(made: EVA, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The student out of the paper's words and its state dict: all tokens, and predictions at masked patches."""
    state = {name: value.double() for name, value in made.state_dict().items()}
    net = {name.removeprefix("encoder.model."): value for name, value in state.items()}
    windows = pixels.double().unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(len(pixels), 16, -1)
    tokens = windows @ net["patch_embed.proj.weight"].flatten(1).T + net["patch_embed.proj.bias"]
    for n, place in mask.nonzero().tolist():
        tokens[n, place] = state["mask_token"][0, 0]
    tokens = torch.cat([net["cls_token"].expand(len(pixels), -1, -1), tokens], dim=1) + net["pos_embed"]

    bias = torch.zeros(4, 17, 17, dtype=torch.float64)
    if "rel_pos_bias.relative_position_bias_table" in net:
        table = net["rel_pos_bias.relative_position_bias_table"]
        for i in range(16):
            for j in range(16):
                down, right = i // 4 - j // 4 + 3, i % 4 - j % 4 + 3
                bias[:, 1 + i, 1 + j] = table[down * 7 + right]
        bias[:, 0, 1:], bias[:, 1:, 0], bias[:, 0, 0] = table[-3][:, None], table[-2][:, None], table[-1]

    def norm(values: Tensor, name: str) -> Tensor:
        return functional.layer_norm(values, (32,), net[f"{name}.weight"], net[f"{name}.bias"], 1e-6)

    for number in range(2):
        block = {name.removeprefix(f"blocks.{number}."): w for name, w in net.items()}
        query, key, value = (norm(tokens, f"blocks.{number}.norm1") @ block["attn.qkv.weight"].T).chunk(3, -1)
        query, value = query + block["attn.q_bias"], value + block["attn.v_bias"]
        heads = []
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(8) + bias[head]
            heads.append(scores.softmax(-1) @ value[..., part])
        tokens = tokens + torch.cat(heads, -1) @ block["attn.proj.weight"].T + block["attn.proj.bias"]
        hidden = norm(tokens, f"blocks.{number}.norm2") @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"]
        tokens = tokens + functional.gelu(hidden) @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]
    tokens = norm(tokens, "norm")
    return tokens, (tokens[:, 1:] @ state["head.weight"].T + state["head.bias"])[mask]


@pytest.mark.parametrize("relative", [False, True])
@torch.no_grad()
def test_the_student_is_the_papers(relative):
    made = randomised(relative=relative).eval()
    pixels, mask = images(), masks()
    tokens, predicted = by_hand(made, pixels, mask)
    torch.testing.assert_close(made.tokens(pixels, mask).double(), tokens, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(made.predict(pixels, mask)[mask].double(), predicted, atol=5e-5, rtol=1e-4)
    names = [name for name, _ in made.named_parameters()]
    assert not any("k_bias" in name or "qkv.bias" in name for name in names)
    assert sum(name.endswith(("q_bias", "v_bias")) for name in names) == 4


def test_the_network_has_the_published_size():
    with torch.device("meta"):
        made = EVA(eva_vit(), teacher_dim=768)
    assert sum(p.numel() for p in made.parameters()) == 1_012_229_632


@pytest.mark.parametrize("relative", [False, True])
@torch.no_grad()
def test_timm_runs_the_same_weights(relative):
    made = randomised(relative=relative).eval().encoder
    for pool in ("token", "avg"):
        snippet = eva_vit(**SMALL, relative_positions=relative, pool=pool).snippet
        other = timm.create_model(snippet.name, **snippet.options).eval()
        other.load_state_dict(made.exported())
        made.pool = pool
        torch.testing.assert_close(other(images()), made(images()), atol=1e-5, rtol=1e-5)


def test_attention_in_parts_is_the_blocks_own():
    from unlabel_vision.encoders.patch_encoder import merged, project

    made = randomised().encoder.eval()
    tokens = made.with_class(made.embed(images()))

    def attend(attention, given: Tensor) -> Tensor:
        query, key, value = project(attention, given)
        return merged(attention, functional.scaled_dot_product_attention(query, key, value))

    torch.testing.assert_close(made.run(tokens, [attend, None]), made.run(tokens), atol=1e-5, rtol=1e-4)
    weights = made.attention(made.model.blocks[0], tokens)
    _, _, value = project(_parts(made.model.blocks[0]), made.model.blocks[0].norm1(tokens))
    inside = merged(_parts(made.model.blocks[0]), weights @ value)
    torch.testing.assert_close(
        inside, made.model.blocks[0].attn(made.model.blocks[0].norm1(tokens)), atol=1e-5, rtol=1e-4
    )


def _parts(block):
    from unlabel_vision.encoders.eva import _Parts

    return _Parts(block.attn)


def test_relative_positions_need_whole_images():
    made = eva_vit(**SMALL, relative_positions=True)
    with pytest.raises(UsageError, match="needs all patches"):
        made.tokens(images(), torch.arange(4).expand(2, -1))


def test_first_weights_are_the_authors():
    torch.manual_seed(0)
    encoder = eva_vit(image_size=32, patch_size=8, dim=128, depth=6, heads=4, mlp_ratio=4.0)
    made = EVA(encoder, teacher="hog")
    whole = 0.015 * 0.5396  # of a normal distribution that is cut at one deviation
    for values in (encoder.model.pos_embed, encoder.model.patch_embed.proj.weight, made.head.weight, made.mask_token):
        assert values.std().item() == pytest.approx(whole, rel=0.15 if values.numel() == 128 else 0.05)
        assert values.abs().max() <= 0.015
    for block, expected in zip(encoder.model.blocks, (0.0057, 0.0041, 0.0033, 0.0029, 0.0026, 0.0023), strict=True):
        assert block.attn.proj.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert block.mlp.fc2.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert block.mlp.fc1.weight.std().item() == pytest.approx(whole, rel=0.05)
        assert (block.mlp.fc1.bias == 0).all()


def test_fixed_positions_stay():
    encoder = vit(image_size=32, patch_size=8, dim=32, depth=1, heads=4)
    encoder.fix_positions()
    before = encoder.model.pos_embed.clone()
    assert torch.equal(task(encoder).encoder.model.pos_embed, before)


# --- no leak


def test_hidden_pixels_reach_nothing_and_visible_ones_do():
    made = randomised()
    pixels, mask = images().requires_grad_(), masks()
    made.predict(pixels, mask).square().sum().backward()
    reached = pixels.grad.unfold(2, 8, 8).unfold(3, 8, 8).abs().amax((1, 4, 5)).flatten(1) > 0
    assert torch.equal(reached, ~mask)


def test_the_teacher_sees_the_hidden_pixels_and_is_no_part_of_the_task():
    made = randomised(teacher="hog").train()
    one = batch()
    other = {**one, "image": one["image"].clone()}
    hidden = one["mask"].view(6, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
    other["image"][hidden] = 255 - other["image"][hidden]
    before, after = made.targets(one), made.targets(other)
    assert not before.requires_grad
    changed = (before - after).abs().amax(-1) > 1e-3
    assert changed[one["mask"]].all()
    prediction = made.predict(views.to_float(one["image"]), one["mask"])
    assert torch.equal(prediction, made.predict(views.to_float(other["image"]), one["mask"]))

    assert not any("teacher" in name for name in [*made.state_dict(), *dict(made.named_modules())])
    assert not made.teacher.network.training
    assert copy.deepcopy(made).teacher is made.teacher


def test_gradients_reach_every_weight():
    made = randomised()
    terms = made.loss(batch())
    terms["loss"].backward()
    without = {name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert without == set()
    assert terms["cosine"].item() == pytest.approx(-terms["loss"].item())
    unit = functional.normalize(made.targets(batch()).flatten(0, 1), dim=-1)
    best = max(float((unit @ functional.normalize(torch.randn(48), dim=0)).mean()) for _ in range(50))
    assert best <= terms["constant"].item() <= 1
    assert float((unit @ functional.normalize(unit.mean(0), dim=0)).mean()) == pytest.approx(terms["constant"].item())


def test_a_student_that_is_its_own_teacher_agrees(tmp_path):
    encoder = randomised().encoder.eval()
    _exported(encoder, tmp_path / "teacher")
    made = task(copy.deepcopy(encoder), teacher=str(tmp_path / "teacher"))
    made.encoder.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        made.head.weight.copy_(torch.eye(32))
        one = batch()
        nothing = torch.zeros(6, 16, dtype=torch.bool)
        prediction = made.predict(views.to_float(one["image"]), nothing)
        loss = eva.negative_cosine(prediction, made.targets(one), ~nothing)
    assert loss.item() == pytest.approx(-1, abs=1e-5)


def _exported(encoder, folder) -> None:
    """What `unlabel export` writes of an EVA encoder of this file's size."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({name: value.contiguous() for name, value in encoder.exported().items()}, folder / "encoder.safetensors")
    text = json.dumps({"encoder": {"name": "vision/eva_vit", **SMALL}})
    (folder / "encoder.json").write_text(text)


# --- the schedule and the groups


def test_the_schedule_matches_golden(shared):
    golden = np.load(shared / "golden/vision-eva/lr_schedule_150ep_4it.npz")["lr"]
    stage = eva.paper().stages[0].model_copy(update={"batch_size": 1}).resolved(4)
    ours = np.array([optim.learning_rate(stage, step) for step in range(600)])
    assert np.allclose(ours, golden, rtol=1e-10, atol=0)
    assert ours[0] == 0
    assert ours[7] == 1e-3


def test_an_inclusive_warm_up_of_one_update_starts_at_the_bottom():
    stage = Stage(steps=10, warmup_steps=1, warmup_inclusive=True, lr=1.0, warmup_start_lr=0.25).resolved(100)
    assert [optim.learning_rate(stage, step) for step in (0, 1)] == [0.25, 1.0]


def test_what_is_not_decayed_is_what_the_authors_spare():
    made = task()
    stage = eva.paper().stages[0].resolved(10_000)
    names = {parameter: name for name, parameter in made.named_parameters()}
    decayed = {names[p] for group in optim.groups(made, stage) if group["weight_decay"] for p in group["params"]}
    assert "mask_token" in decayed
    assert all(name == "mask_token" or name.endswith("weight") for name in decayed)
    assert not any("norm" in name for name in decayed)


def test_layers_are_those_of_the_encoder():
    made = task(relative=True)
    assert made.layers == 2
    wanted = {"encoder.model.patch_embed.proj.weight": 0, "encoder.model.cls_token": 0, "encoder.model.pos_embed": 0}
    wanted |= {"encoder.model.blocks.1.attn.q_bias": 2, "encoder.model.norm.weight": 3, "mask_token": 3, "head.bias": 3}
    wanted["encoder.model.rel_pos_bias.relative_position_bias_table"] = 3
    assert {name: made.layer_of(name) for name in wanted} == wanted


# --- crops


def ramp(height: int = 60, width: int = 90) -> np.ndarray:
    """Red tells the column, green the row."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([columns * 255 / (width - 1), rows * 255 / (height - 1), 0 * rows], axis=2)
    return image.round().astype(np.uint8)


@pytest.mark.parametrize("crops", [0, 3])
def test_student_and_teacher_see_the_same_crop_and_flip(crops):
    crop = PairedCrop(32, 48, (0.2, 1.0), 4, 7, 1, crops)
    flips = set()
    for seed in range(20):
        found = crop({"image": ramp()}, Draw(np.random.default_rng(seed)))
        small = found["image"].astype(float)
        large = found["teacher_image"].astype(float)
        assert (small.shape, large.shape) == ((32, 32, 3), (48, 48, 3))
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            assert np.abs(small[corner] - large[corner]).max() < 6  # centres of larger and smaller pixels
        assert np.abs(small.mean((0, 1)) - large.mean((0, 1))).max() < 1.5
        flips.add(bool(small[0, 0, 0] > small[0, -1, 0]))
        assert found["mask"].shape == (16,)
    assert flips == {True, False}


def test_without_a_number_crops_never_come_again_and_with_one_they_do():
    for crops, expected in ((0, 60), (3, 3)):
        crop = PairedCrop(32, 32, (0.2, 1.0), 4, 7, 1, crops)
        found = [crop({"image": ramp()}, Draw(np.random.default_rng(seed))) for seed in range(60)]
        assert len({one["image"].tobytes() for one in found}) == expected
        assert len({one["mask"].tobytes() for one in found}) > 30  # the same crop is hidden in other ways
        assert "teacher_image" not in found[0]
    assert len({one["digest"].tobytes() for one in found}) == 3
    other = crop({"image": 255 - ramp()}, Draw(np.random.default_rng(0)))
    assert other["digest"].tobytes() not in {one["digest"].tobytes() for one in found}


def test_the_evaluations_view_is_the_same_part_for_both():
    found = PairedView(32, 64)({"image": ramp()}, Draw(np.random.default_rng(0)))
    assert found["teacher_image"].shape == (64, 64, 3)
    assert np.abs(found["image"].mean((0, 1)) - found["teacher_image"].mean((0, 1))).max() < 1.5


# --- a decoder


def test_with_a_decoder_the_encoder_sees_what_is_left_alone():
    made = task(vit(image_size=32, patch_size=8, dim=32, depth=2, heads=4), mask_ratio=0.75, decoder_depth=1,
                decoder_dim=16, decoder_heads=2)  # fmt: skip
    seen = []
    made.encoder.model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    one = {name: value for name, value in batch().items() if name != "mask"}
    terms = made.loss(one)
    assert seen == [(6, 1 + 4, 32)]
    assert terms["hidden"].item() == 0.75
    terms["loss"].backward()
    assert made.transform()({"image": ramp()}, Draw(np.random.default_rng(0))).keys() == {"image"}

    pixels, mask = images().requires_grad_(), made.masks(batch(2))
    made.predict(pixels, mask).square().sum().backward()
    reached = pixels.grad.unfold(2, 8, 8).unfold(3, 8, 8).abs().amax((1, 4, 5)).flatten(1) > 0
    assert torch.equal(reached, ~mask)


# --- whole runs


@pytest.fixture(scope="module")
def teacher_run(tmp_run, tmp_path_factory):
    """A small trained teacher, and a student of it."""
    place = tmp_path_factory.mktemp("eva")
    catalog = Catalog.installed()
    shutil.copytree(tmp_run("vision/mae", steps=2).folder, place / "teacher")
    teacher = Run(place / "teacher", catalog)
    chosen = compose.compose("vision/eva", catalog, name="tiny", steps=3, settings=[f"task.teacher={teacher.folder}"])
    student = launch.train(chosen, out=place / "student", catalog=catalog, evaluate=True)
    return teacher, student


@pytest.mark.slow
def test_a_run_says_what_its_teacher_was(teacher_run):
    teacher, student = teacher_run
    options = student.recipe.task.options
    assert options["teacher"] == str(teacher.folder)
    assert options["teacher_dim"] == 32
    assert len(options["teacher_hash"]) == 64
    assert student.evaluations["settled"] == {
        name: options[name] for name in ("teacher", "teacher_hash", "teacher_dim")
    }
    found = student.evaluations["after"]["vision/teacher_cosine"]
    assert -1 <= found["cosine"] <= 1
    assert found["constant"] > 0
    again = launch.train(student.recipe, out=student.folder.parent / "again", evaluate=False)
    assert again.recipe == student.recipe
    assert [line["loss"] for line in again.metrics if "loss" in line] == [
        line["loss"] for line in student.metrics if "loss" in line
    ]


@pytest.mark.slow
def test_another_teacher_is_noticed_and_a_finished_student_needs_none(teacher_run, tmp_path):
    teacher, student = teacher_run
    wrong = compose.with_overrides(student.recipe, [f"task.teacher={student.folder}"], Catalog.installed())
    with pytest.raises(UsageError, match=r"is not the one of this recipe.*teacher_hash=null"):
        launch.train(wrong, out=tmp_path / "wrong", evaluate=False)
    assert not (tmp_path / "wrong").exists()

    hidden = teacher.folder.rename(teacher.folder.with_name("gone"))
    try:
        features = Run(student.folder).encoder(images())
        assert features.shape == (2, 32)
        assert Run(student.folder).evaluate("knn")["knn"]["accuracy"] > 0
        with pytest.raises(UsageError, match="expected timm:NAME"):
            Run(student.folder).evaluate("vision/teacher_cosine")
    finally:
        hidden.rename(teacher.folder)


@pytest.mark.slow
def test_two_tasks_settle_what_each_found(tmp_path):
    catalog = Catalog.installed()
    words = ["task.vision/eva.teacher=hog", "task.vision/eva.min_block=1"]
    chosen = compose.compose(
        "vision/mae+vision/eva", catalog, name="tiny", encoder="vision/vit", steps=2, settings=words
    )
    made = launch.train(chosen, out=tmp_path / "both", catalog=catalog, evaluate=False)
    mae, eva_ref = made.recipe.tasks
    assert eva_ref.options["teacher_dim"] == 48
    assert "teacher_dim" not in mae.options
    assert set(made.evaluations["settled"]) == {"eva.teacher", "eva.teacher_hash", "eva.teacher_dim"}


@pytest.mark.slow
def test_compiled_and_bf16_losses_are_the_plain_one():
    made, one = randomised(), batch()
    plain = made.loss(one)["loss"]
    compiled = torch.compile(made.loss, backend="eager")(one)["loss"]
    assert compiled.item() == pytest.approx(plain.item(), rel=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made.loss(one)["loss"]
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(plain.item(), abs=0.02)


@pytest.mark.parametrize("relative", [False, True])
def test_pictures_show_six_columns(relative):
    made = task(relative=relative)
    picture = made.show(batch(3))["features"]
    assert picture.shape == (3 * 34 - 2, 6 * 34 - 2, 3)
    assert picture.std() > 10
    plain = task(vit(image_size=32, patch_size=8, dim=32, depth=1, heads=4))
    assert plain.show(batch(3))["features"].shape == (3 * 34 - 2, 5 * 34 - 2, 3)


def test_other_tasks_are_not_judged_by_a_teacher(tmp_path):
    from unlabel import Frozen
    from unlabel.engine import Engine
    from unlabel_vision.tasks.mae import MAE

    made = MAE(
        vit(image_size=32, patch_size=8, dim=32, depth=1, heads=4), decoder_dim=16, decoder_depth=1, decoder_heads=2
    )
    with pytest.raises(UsageError, match="judges vision/eva, not MAE"):
        teacher_cosine(Frozen(made, Digits(), Engine("cpu", "fp32")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 0.0}, "hides 0 of 16 patches"),
        ({"mask_ratio": 1.0}, "hides 16 of 16 patches"),
        ({"min_block": 0}, "min_block=0"),
        ({"crops": -1}, "crops=-1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        task(**options)


def test_clip_pixels_are_normalised_as_clips():
    made = task(eva_vit(**SMALL, statistics="clip"))
    seen = []
    made.encoder.model.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    one = batch()
    made.loss(one)
    made.encode(one)
    expected = (one["image"][0, 0, 0].float() / 255 - torch.tensor(views.CLIP_MEAN)) / torch.tensor(views.CLIP_STD)
    for pixels in seen:
        torch.testing.assert_close(pixels[0, :, 0, 0], expected, atol=1e-5, rtol=1e-5)
    assert len(seen) == 2
    assert str(views.CLIP_MEAN) in made.encoder.usage()
