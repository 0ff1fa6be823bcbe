"""Optimizers: groups, layer-wise rates, LARS, schedules."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unlabel import optim
from unlabel.errors import UsageError
from unlabel.recipe import Group, Stage
from unlabel.task import Task


class Pair(Task):
    """Two linear maps that share nothing, a norm, a token, a tied copy of the first map, a frozen teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.predictor = nn.Linear(3, 3)
        self.token = nn.Parameter(torch.ones(1, 1, 3))
        self.tied = self.encoder
        self.teacher = nn.Linear(4, 3).requires_grad_(False)


class Layers(Pair):
    """The same with the layers of a network of one block: encoder 0, predictor block 0, the rest last."""

    layers = 1

    def layer_of(self, name: str) -> int:
        return {"encoder": 0, "predictor": 1}.get(name.partition(".")[0], 2)


def _stage(**changes) -> Stage:
    return Stage(**{"steps": 100, "horizon": 100, "lr": 0.1, **changes})


def _settings_of(task: Task, optimizer: torch.optim.Optimizer, key: str) -> dict[str, object]:
    """One entry of the group of each parameter, by the parameter's name."""
    names = {parameter: name for name, parameter in task.named_parameters()}
    return {names[p]: group[key] for group in optimizer.param_groups for p in group["params"]}


# --- schedules


def test_warmup_cosine_matches_golden(shared):
    data = np.load(shared / "golden/vision-mae/lr_schedule.npz")
    ours = np.array([optim.warmup_cosine(epoch, 800, 40, peak=2.4e-3) for epoch in data["epoch"]])
    assert np.allclose(ours, data["lr"][:, 0], rtol=1e-12, atol=0)
    assert np.allclose(ours * 0.65, data["lr"][:, 1], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "middle"),
    [("warmup_cosine", {}, 0.6), ("linear", {}, 0.6), ("polynomial", {"power": 2.0}, 0.2 + 0.8 * 0.25)],
)
def test_schedules_pass_through_start_peak_middle_and_end(name, options, middle):
    schedule = getattr(optim, name)
    values = [schedule(step, 110, 10, start=0.1, end=0.2, **options) for step in (0, 5, 10, 60, 110, 200)]
    assert values == pytest.approx([0.1, 0.55, 1.0, middle, 0.2, 0.2], rel=1e-12)


def test_step_decay_multiplies_at_each_milestone():
    values = [optim.step_decay(step, 100, milestones=(0.07, 0.6, 0.9), gamma=0.1) for step in (0, 6, 7, 59, 60, 89, 90)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001], rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["warmup_cosine", "linear"]),
    horizon=st.integers(1, 300),
    share=st.floats(0, 1),
    end=st.floats(0, 1),
)
def test_schedules_rise_then_fall_and_stay_within_their_ends(name, horizon, share, end):
    warmup = int(share * horizon)
    values = [getattr(optim, name)(step, horizon, warmup, end=end) for step in range(horizon + 3)]
    assert values[:warmup] == sorted(values[:warmup])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert min(values[warmup:]) >= end * (1 - 1e-12)
    assert max(values) <= 1.0
    assert values[-1] == pytest.approx(end)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, [0.0, 0.1, 0.2, 0.2, 0.2]),
        ({"schedule": "cosine", "min_lr": 0.02}, [0.0, 0.1, 0.2, 0.02 + 0.18 / 2, 0.02]),
        ({"schedule": "linear", "min_lr": 0.02}, [0.0, 0.1, 0.2, 0.11, 0.02]),
        ({"schedule": "polynomial", "power": 2.0}, [0.0, 0.1, 0.2, 0.05, 0.0]),
        ({"schedule": "step", "milestones": (0.5, 0.8)}, [0.0, 0.1, 0.2, 0.02, 0.002]),
        ({"schedule": "constant", "warmup_start_lr": 0.1}, [0.1, 0.15, 0.2, 0.2, 0.2]),
    ],
)
def test_a_stage_scales_the_peak_with_the_batch_and_follows_its_schedule(options, expected):
    stage = _stage(warmup_steps=20, batch_size=512, lr_batch_size=256, **options)
    rates = [optim.learning_rate(stage, step) for step in (0, 10, 20, 60, 100)]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_set_lr_multiplies_by_each_groups_scale_and_keeps_fixed_ones():
    task = Pair()
    rules = [Group(pattern="encoder.*", lr_scale=0.5), Group(pattern="predictor.*", fixed_lr=True, lr_scale=3.0)]
    stage = _stage(groups=rules, schedule="linear")
    main, plain = optim.build(task, stage), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    optim.set_lr({"main": main, "other": plain}, stage, 50)
    rates = _settings_of(task, main, "lr")
    assert rates["encoder.weight"] == rates["encoder.bias"] == pytest.approx(0.025)
    assert rates["predictor.weight"] == pytest.approx(0.3)
    assert rates["token"] == plain.param_groups[0]["lr"] == pytest.approx(0.05)


# --- groups


def test_weight_decay_spares_vectors_and_biases_but_not_tokens():
    task = Pair()
    decay = _settings_of(task, optim.build(task, _stage(weight_decay=0.05)), "weight_decay")
    assert {name for name, value in decay.items() if value == 0.05} == {"encoder.weight", "predictor.weight", "token"}
    assert set(decay.values()) == {0.0, 0.05}
    decay = _settings_of(task, optim.build(task, _stage(weight_decay=0.05, decay_vectors=True)), "weight_decay")
    assert set(decay.values()) == {0.05}


def test_each_trainable_parameter_is_taken_once_and_frozen_ones_never():
    task = Pair()
    task.head = nn.Linear(3, 3)
    stage = _stage(groups=[Group(pattern="head.*", freeze=True)])
    taken = [id(p) for group in optim.build(task, stage).param_groups for p in group["params"]]
    expected = [task.encoder.weight, task.encoder.bias, task.norm.weight, task.norm.bias]
    expected += [task.predictor.weight, task.predictor.bias, task.token]
    assert sorted(taken) == sorted(map(id, expected))


def test_the_last_matching_rule_counts():
    task = Pair()
    rules = [Group(pattern="*", lr_scale=0.5, weight_decay=0.3), Group(pattern="token", weight_decay=0.0)]
    optimizer = optim.build(task, _stage(groups=rules))
    scale, decay = _settings_of(task, optimizer, "lr_scale"), _settings_of(task, optimizer, "weight_decay")
    assert (scale["encoder.weight"], decay["encoder.weight"]) == (0.5, 0.3)
    assert (scale["encoder.bias"], decay["encoder.bias"]) == (0.5, 0.0)
    assert (scale["token"], decay["token"]) == (1.0, 0.0)


def test_layer_decay_scales_each_layer():
    task = Layers()
    stage = _stage(layer_decay=0.65, groups=[Group(pattern="token", lr_scale=2.0)])
    scale = _settings_of(task, optim.build(task, stage), "lr_scale")
    assert scale["encoder.weight"] == scale["encoder.bias"] == pytest.approx(0.65**2)
    assert scale["predictor.weight"] == pytest.approx(0.65)
    assert scale["norm.weight"] == 1.0
    assert scale["token"] == 2.0


def test_layer_scales_of_three_blocks_are_the_published_powers():
    scales = [optim.layer_scale(layer, 3, 0.65) for layer in range(5)]
    assert scales == pytest.approx([0.65**4, 0.65**3, 0.65**2, 0.65, 1.0], rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamv"}, "did you mean"),
        ({"optimizer": "lbfgs"}, "'lbfgs' is unknown"),
        ({"groups": [Group(pattern="predicter.*")]}, "matches no parameter"),
        ({"groups": [Group(pattern="*", freeze=True)]}, "no trainable parameter"),
        ({"layer_decay": 0.65}, "does not say which layer"),
    ],
)
def test_wrong_stages_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        optim.build(Pair(), _stage(**changes))


# --- optimizers


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars", "RMSprop", "nadam"])
def test_every_optimizer_descends_and_its_state_continues_exactly(name):
    def error(task, seed):
        values = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed))
        return ((task.predictor(task.norm(task.encoder(values))) + task.token) ** 2).mean()

    def run(task, optimizer, steps):
        for step in steps:
            error(task, step).backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cat([p.detach().flatten() for p in task.parameters()])

    torch.manual_seed(0)
    task, stage = Pair(), _stage(optimizer=name, lr=0.01)
    optimizer = optim.build(task, stage)
    start = error(task, seed=99)
    run(task, optimizer, range(3))
    other = Pair()
    other.load_state_dict(task.state_dict())
    resumed = optim.build(other, stage)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # the dict shares memory with the optimizer
    through = run(task, optimizer, range(3, 6))
    assert torch.equal(run(other, resumed, range(3, 6)), through)
    assert error(task, seed=99) < start


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_fused_kernels_give_the_plain_update(name):
    stage = _stage(optimizer=name, betas=(0.8, 0.9), eps=1e-6, momentum=0.7, nesterov=True, weight_decay=0.1)
    outcomes = []
    for fused in (True, False):
        torch.manual_seed(0)
        task = Pair().double()
        optimizer = optim.build(task, stage)
        assert all(group["fused"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for _ in range(3):
            for parameter in task.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        outcomes.append(torch.cat([p.detach().flatten() for p in task.parameters()]))
    assert torch.allclose(outcomes[0], outcomes[1], rtol=1e-12, atol=1e-14)


def test_fields_of_the_stage_reach_the_optimizer():
    optimizer = optim.build(Pair(), _stage(betas=(0.8, 0.95), eps=1e-6, batch_size=128, lr_batch_size=256))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)
    assert all(group["eps"] == 1e-6 for group in optimizer.param_groups)
    assert all(group["lr"] == 0.05 for group in optimizer.param_groups)
    lars = optim.build(Pair(), _stage(optimizer="lars", trust_coefficient=0.02, momentum=0.8))
    assert all(group["trust_coefficient"] == 0.02 and group["momentum"] == 0.8 for group in lars.param_groups)


# --- LARS


def _lars_by_hand(weight, gradients, *, lr, decay, momentum, trust, adapted):
    """The published update of one tensor in float64 (joint denominator, 1-D tensors plain)."""
    weight, velocity = weight.astype(np.float64), np.zeros(weight.shape)
    for gradient in gradients:
        update = gradient.astype(np.float64)
        if adapted:
            update = update + decay * weight
            update = update * trust * np.linalg.norm(weight) / np.linalg.norm(update)
        velocity = momentum * velocity + update
        weight = weight - lr * velocity
    return weight


def test_lars_matches_golden(shared):
    data = np.load(shared / "golden/vision-survey/lars_lightly.npz")
    weight, bias = nn.Parameter(torch.from_numpy(data["w0.weight"])), nn.Parameter(torch.from_numpy(data["w0.bias"]))
    optimizer = optim.LARS(
        [{"params": [weight], "weight_decay": float(data["weight_decay"])}, {"params": [bias]}],
        lr=float(data["lr"]),
        momentum=float(data["momentum"]),
        trust_coefficient=float(data["trust"]),
        adapt="decayed",
        denominator="sum",
        eps=1e-8,
    )
    for step in range(3):
        weight.grad, bias.grad = (torch.from_numpy(data[f"g{step}.{name}"]) for name in ("weight", "bias"))
        optimizer.step()
        assert np.allclose(weight.detach().numpy(), data[f"w{step + 1}.weight"], rtol=1e-5, atol=1e-6)
        assert np.allclose(bias.detach().numpy(), data[f"w{step + 1}.bias"], rtol=1e-5, atol=1e-6)


def test_lars_by_default_adapts_and_decays_matrices_only():
    generator = np.random.default_rng(0)
    start = {"matrix": generator.normal(size=(4, 6)), "vector": generator.normal(size=4)}
    gradients = {name: [generator.normal(size=value.shape) for _ in range(3)] for name, value in start.items()}
    parameters = {name: nn.Parameter(torch.from_numpy(value.copy())) for name, value in start.items()}
    optimizer = optim.LARS(parameters.values(), lr=0.3, weight_decay=0.01)
    for step in range(3):
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(gradients[name][step].copy())
        optimizer.step()
        assert torch.equal(parameters["matrix"].grad, torch.from_numpy(gradients["matrix"][step]))
    for name, parameter in parameters.items():
        by_hand = _lars_by_hand(
            start[name], gradients[name], lr=0.3, decay=0.01, momentum=0.9, trust=0.001, adapted=name == "matrix"
        )
        assert np.allclose(parameter.detach().numpy(), by_hand, rtol=1e-12, atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3))
def test_lars_steps_do_not_depend_on_the_size_of_the_gradient(scale):
    weight = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
    weight.grad = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3) * scale
    optim.LARS([weight], lr=1.0, trust_coefficient=0.1).step()
    assert (weight - 1).norm().item() == pytest.approx(0.1 * 3, rel=1e-9)


def test_lars_does_not_divide_by_zero():
    empty, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    empty.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optim.LARS([empty, still], lr=0.5).step()
    assert torch.equal(empty.detach(), torch.full((2, 2), -0.5))  # factor 1: a plain step
    assert torch.equal(still.detach(), torch.ones(2, 2))


def test_clipped_lars_never_exceeds_plain_sgd():
    small, large = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    small.grad, large.grad = torch.full((2, 2), 1e-6), torch.full((2, 2), 10.0)
    optim.LARS([small, large], lr=0.5, trust_coefficient=0.02, clip_lr=True).step()
    assert torch.allclose(1 - small.detach(), torch.full((2, 2), 0.5e-6), rtol=0.2)  # float32 spacing at 1 is 6e-8
    assert torch.allclose(1 - large.detach(), torch.full((2, 2), 10 * 0.02 * 0.1), rtol=1e-5)  # trust |w| / |g|


def test_lars_looks_ahead_with_nesterov():
    weight = nn.Parameter(torch.ones(3))
    plain = torch.ones(3, requires_grad=True)
    ours = optim.LARS([weight], lr=0.1, momentum=0.9, nesterov=True)
    theirs = torch.optim.SGD([plain], lr=0.1, momentum=0.9, nesterov=True)
    for step in range(3):
        weight.grad = plain.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
        ours.step(), theirs.step()
    assert torch.allclose(weight.detach(), plain.detach(), rtol=1e-6)


def test_unknown_variants_of_lars_are_refused():
    with pytest.raises(UsageError, match="adapt"):
        optim.LARS([nn.Parameter(torch.ones(1))], lr=0.1, adapt="weights")
    with pytest.raises(UsageError, match="denominator"):
        optim.LARS([nn.Parameter(torch.ones(1))], lr=0.1, denominator="other")


def test_horizon_may_lie_beyond_the_last_step():
    stage = _stage(steps=50, horizon=100)
    assert optim.learning_rate(stage, 50) == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi / 2)))
