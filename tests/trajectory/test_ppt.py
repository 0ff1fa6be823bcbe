"""PPT's three stages: reference figures, the straightforward formulation, and what each stage must not touch."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabel import Catalog, Recipe, build, compose, data, seeds
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.task import Progress
from unlabel_trajectory import forecasting, naming
from unlabel_trajectory.encoders.gpt import TrackGPT
from unlabel_trajectory.tasks import next_position, ppt
from unlabel_trajectory.tasks.ppt import PPT

SIZES = {"dim": 16, "depth": 2, "heads": 4, "hidden": 64, "dropout": 0.1, "head_dim": 24}
CPU = Engine("cpu", "fp32")


def whole(**options: Any) -> PPT:
    seeds.seed(0)
    encoder = TrackGPT(dim=16, depth=2, heads=4, hidden=24)
    return PPT(encoder, **{"head_dim": 24, **options})


def tracks(count: int = 6, seed: int = 1) -> Tensor:
    """Walks, relative to the last observed position."""
    steps = torch.randn(count, 20, 2, generator=torch.Generator().manual_seed(seed))
    return forecasting.relative((0.3 * steps + torch.tensor([0.4, 0.1])).cumsum(1), 8)


def batch(track: Tensor, version: int = 0) -> dict[str, Tensor]:
    """A batch whose samples' keys all ask for one version."""
    keys = seeds.keys(0, torch.zeros(200, dtype=torch.int64), torch.arange(200))
    wanted = keys[forecasting.versions(keys) == version][: len(track)]
    assert len(wanted) == len(track)
    return {"track": track, "key": wanted, "row": torch.arange(len(track))}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "golden/trajectory-ppt/stage1_next_position.npz", allow_pickle=False) as case:
        return {name: torch.from_numpy(case[name]) for name in case}


@pytest.fixture(scope="module")
def networks(plain: ModuleType) -> tuple[Any, Any, Any]:
    """The straightforward networks of the three stages, with weights off their start, in evaluation mode."""
    seeds.seed(0)
    found = [kind(**SIZES).eval() for kind in (plain.PlainNextPosition, plain.PlainDestination, plain.PlainPPT)]
    for network in found:
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return tuple(found)


@pytest.fixture
def task(networks: tuple[Any, Any, Any]) -> PPT:
    """Ours with the same weights."""
    return naming.build(*(network.state_dict() for network in networks))


# Reference figures


def first_stage(golden: dict[str, Tensor]) -> PPT:
    """A task with the weights of the reference's first stage."""
    weights = {name.removeprefix("sd/"): value for name, value in golden.items() if name.startswith("sd/")}
    task = PPT(TrackGPT(dim=16, depth=2, heads=4, hidden=64), head_dim=24).eval()
    found = naming.renamed(weights, "I")
    missing, unexpected = task.load_state_dict(found, strict=False)
    assert not unexpected
    assert not {name for name in missing if name.startswith(("encoder.", "next_head."))}
    return task


def test_next_positions_are_the_references(golden: dict[str, Tensor]) -> None:
    task = first_stage(golden)
    track = forecasting.relative(golden["trajectory"], 8)
    assert torch.allclose(track, golden["trajectory_relative"], atol=1e-6)
    predicted, features = next_position.predict(task.encoder, task.next_head, track[:, :-1])
    assert torch.allclose(features, golden["features"], rtol=1e-4, atol=1e-5)
    assert torch.allclose(predicted, golden["pred"], rtol=1e-4, atol=1e-5)

    found = task.loss(batch(golden["trajectory"]))
    assert found["loss"].item() == pytest.approx(float(golden["loss"]), rel=1e-5)
    assert found["ade"].item() == pytest.approx(float(golden["ade"]), rel=1e-5)
    found["loss"].backward()
    gradients = [parameter.grad for parameter in task.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).item()
    assert norm == pytest.approx(float(golden["grad_global_norm"]), rel=1e-4)
    rows = task.encoder.positions.grad.abs().sum(1).nonzero().flatten()
    assert rows.tolist() == golden["position_rows_used"].tolist() == list(range(1, 20))


# The straightforward formulation


def test_destinations_and_their_gradients_are_those_of_the_plain_formulation(networks: Any, plain: ModuleType) -> None:
    second = networks[1]
    task = PPT(TrackGPT(dim=16, depth=2, heads=4, hidden=64), head_dim=24).eval()
    task.load_state_dict(naming.renamed(second.state_dict(), "II"), strict=False)
    task._enter("II")
    track = tracks()
    found = task.loss(batch(track))
    expected = second.loss(track)
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    found["loss"].backward()
    second.zero_grad()
    expected.backward()
    compare_gradients(task, second, "II")
    rows = task.encoder.positions.grad.abs().sum(1).nonzero().flatten().tolist()
    assert rows == [*range(1, 9), 19]
    feature, _ = task.candidates(track[:, :8])
    assert torch.allclose(feature, second.features(track[:, :8])[:, -1], rtol=1e-4, atol=1e-5)


def compare_gradients(task: PPT, network: torch.nn.Module, stage: str) -> None:
    expected = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    found = dict(task.named_parameters())
    for name, gradient in naming.renamed(expected, stage).items():
        assert torch.allclose(found[name].grad, gradient, rtol=1e-4, atol=1e-6), name


def test_trajectories_distillation_and_gradients_are_those_of_the_plain_formulation(task: PPT, networks: Any) -> None:
    first, second, third = networks
    track = tracks()
    found, expected = task.loss(batch(track)), third.terms(track, first, second)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name
    total = third.loss(track, first, second)
    assert found["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    found["loss"].backward()
    third.zero_grad()
    total.backward()
    compare_gradients(task, third, "III")
    assert all(parameter.grad is None for parameter in task.teachers.parameters())


def test_twenty_trajectories_at_once_are_those_of_twenty_passes(task: PPT, networks: Any, monkeypatch: Any) -> None:
    past = tracks(30)[:, :8]
    with torch.no_grad():
        looped = networks[2].forecast(past)
    assert torch.allclose(task.forecast(past), looped, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(ppt, "_CACHED", 40)  # two tracks at a time
    assert torch.allclose(task.forecast(past), looped, rtol=1e-4, atol=1e-5)
    shift = torch.tensor([20.0, -3.0])
    assert torch.allclose(task.forecast(past + shift), looped + shift, rtol=1e-4, atol=1e-4)


def test_what_is_distilled_belongs_to_the_same_steps_on_both_sides(task: PPT) -> None:
    """Teacher and student speak about steps 8 to 19: a step later changes the teacher's last feature not at all."""
    track = tracks()
    taught, end = task.teachers(track, 8)
    assert taught.shape == (6, 12, 16)
    assert end.shape == (6, 16)
    for step in range(20):  # step + 1, counted from one
        changed = track.clone()
        changed[:, step] += 1
        after, _ = task.teachers(changed, 8)
        unchanged = [bool(torch.equal(after[:, k], taught[:, k])) for k in range(12)]
        assert unchanged == [8 + k < step + 1 for k in range(12)]
    features = task.trajectory.features(track[:, :8], track[:, None, -1])
    assert features.shape == taught.shape


def test_every_output_sees_the_destination(task: PPT) -> None:
    track = tracks()
    ends = track[:, -1:]
    before = task.trajectory.features(track[:, :8], ends)
    after = task.trajectory.features(track[:, :8], ends + 1)
    assert ((before - after).abs().amax(-1) > 0).all()


def test_the_last_position_is_the_destination_where_nothing_is_added(task: PPT) -> None:
    torch.nn.init.zeros_(task.trajectory.last[-1].weight)
    torch.nn.init.zeros_(task.trajectory.last[-1].bias)
    past, ends = tracks()[:, :8], torch.randn(6, 1, 2)
    found = task.trajectory.read_out(task.trajectory.features(past, ends), ends[:, 0])
    assert torch.equal(found[:, -1], ends[:, 0])


def test_the_authors_names_are_all_known_and_no_others(networks: Any) -> None:
    unused = {"AR_Model.transformer.wte.weight": torch.zeros(2, 16), "AR_Model.social.x.weight": torch.zeros(1)}
    assert naming.renamed({**networks[0].state_dict(), **unused}, "I")
    with pytest.raises(UsageError, match=r"'traj_encoder_1\.weight' is no weight of the authors' stage II"):
        naming.renamed(networks[0].state_dict(), "II")
    smaller = {**networks[2].state_dict()}
    del smaller["traj_decoder_9.bias"]
    with pytest.raises(UsageError, match=r"1 names differ, among them trajectory.first.bias"):
        naming.load(whole(head_dim=24), networks[0].state_dict(), networks[1].state_dict(), smaller)


def test_sizes_are_the_papers() -> None:
    task = PPT(TrackGPT())
    counted = {name: sum(p.numel() for p in module.parameters()) for name, module in task.named_children()}
    encoder, branch = counted["encoder"], counted["destination"]
    assert encoder + counted["next_head"] == pytest.approx(0.61e6, rel=0.01)
    # the authors count their unused table of two rows as well
    assert encoder + branch == pytest.approx(1.24e6, rel=0.02)
    alignment = counted["align_next"] + counted["align_destination"]
    assert encoder + branch + counted["trajectory"] + alignment == pytest.approx(2.50e6, rel=0.02)


@pytest.mark.parametrize("part", ["I", "II", "III"])
def test_scaled_pixels_are_what_metres_are(part: str, task: PPT) -> None:
    """With positions divided by 28, the networks see the same, and what comes out is in the data's unit again."""
    metres, held_out = batch(tracks(), 2), tracks(40, seed=4)
    task._enter(part)
    loss, score = task.loss(metres), task.score(held_out)
    feature, futures = task.encode(metres), task.forecast(held_out[:, :8])
    task.scale = 28.0
    pixels = {**metres, "track": 28 * metres["track"]}
    for name, value in task.loss(pixels).items():
        assert value.item() == pytest.approx(loss[name].item(), rel=1e-4), name
    assert task.score(28 * held_out).item() == pytest.approx(28 * score.item(), rel=1e-4)
    assert torch.allclose(task.encode(pixels), feature, atol=1e-4)
    assert torch.allclose(task.forecast(28 * held_out[:, :8]), 28 * futures, rtol=1e-4, atol=1e-3)
    with pytest.raises(UsageError, match=r"task\.scale=0: expected a number above 0; 1 leaves positions as they are"):
        whole(scale=0.0)


# Stages in the loop


def tiny(*settings: str) -> Recipe:
    return compose.compose("trajectory/ppt", Catalog.installed(), name="tiny", settings=settings)


class Steps:
    """The loop's updates without its files: a task, and updates of its stages on demand."""

    def __init__(self, *settings: str):
        catalog = Catalog.installed()
        self.recipe = tiny(*settings)
        self.task = build.build(self.recipe, catalog, CPU)
        assert isinstance(self.task, PPT)
        self.samples = build.build_dataset(self.recipe.dataset, catalog)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    def stage(self, name: str, updates: int = 3) -> PPT:
        number = [stage.name for stage in self.recipe.stages].index(name)
        stage = self.recipe.stages[number].resolved(len(self.samples))
        self.task.train()
        self.task.enter_stage(stage)
        self.optimizers = self.task.optimizers(stage)
        for step, (found, _) in enumerate(islice(data.batches(self.samples, stage, CPU, seed=number), updates)):
            seeds.seed(number, step)
            self.task.training_step([found], self.optimizers, CPU, stage)
        return self.task


def copies(task: PPT, prefix: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items() if name.startswith(prefix)}


def unchanged(before: dict[str, Tensor], task: PPT) -> bool:
    return all(torch.equal(task.state_dict()[name], value) for name, value in before.items())


def test_the_warm_up_leaves_the_encoder_bit_identical() -> None:
    steps = Steps()
    before = copies(steps.stage("I"), "encoder.")
    branch = copies(steps.task, "destination.")
    task = steps.stage("II warm-up", 10)
    assert unchanged(before, task)
    assert not any(torch.equal(task.state_dict()[name], value) for name, value in branch.items())
    trained = {id(parameter) for parameter in task.destination.parameters()}
    assert {id(parameter) for parameter in steps.optimizers["main"].state} == trained
    steps.stage("II")
    assert not unchanged(before, task)


def test_weights_are_handed_over_by_name_when_a_stage_begins() -> None:
    steps = Steps()
    task = steps.stage("I")
    learnt = {name.removeprefix("encoder."): value for name, value in copies(task, "encoder.").items()}
    steps.stage("II warm-up")
    assert all(torch.equal(task.teachers.next_position.state_dict()[name], value) for name, value in learnt.items())
    steps.stage("II")
    assert all(torch.equal(task.teachers.next_position.state_dict()[name], value) for name, value in learnt.items())
    # stage III begins, with a learning rate of zero, so that what was handed over can still be seen
    second = {name.removeprefix("encoder."): value for name, value in copies(task, "encoder.").items()}
    prompt = copies(task, "destination.prompt.")
    third = steps.recipe.stages[3]
    steps.recipe = steps.recipe.model_copy(
        update={"stages": [*steps.recipe.stages[:3], third.model_copy(update={"lr": 0.0})]}
    )
    steps.stage("III", 1)
    for module in (task.teachers.destination, task.trajectory.encoder, task.encoder):
        assert all(torch.equal(module.state_dict()[name], value) for name, value in second.items())
    assert torch.equal(task.trajectory.prompts, prompt["destination.prompt.token"].expand(1, 11, -1))
    assert torch.equal(task.trajectory.prompt_in.weight, prompt["destination.prompt.into.weight"])
    assert torch.equal(task.teachers.prompt.token, prompt["destination.prompt.token"])
    assert task.taught_by == {"next", "destination"}


def test_teachers_neither_learn_nor_drop_anything() -> None:
    steps = Steps()
    for name in ("I", "II warm-up", "II"):
        steps.stage(name)
    steps.stage("III", 1)
    before = copies(steps.task, "teachers.")
    task = steps.stage("III", 5)
    assert unchanged(before, task)
    assert all(parameter.grad is None for parameter in task.teachers.parameters())
    assert task.training
    assert not any(module.training for module in task.teachers.modules())
    everything = {id(p) for group in steps.optimizers["main"].param_groups for p in group["params"]}
    assert not everything & {id(parameter) for parameter in task.teachers.parameters()}


def test_the_destination_branch_has_a_rate_of_its_own() -> None:
    recipe = ppt.paper()
    task = PPT(TrackGPT(dim=16, depth=1), head_dim=8)
    task.begun[:3] = True
    third = recipe.stages[3].model_copy(update={"epochs": None, "steps": 1}).resolved(1000)
    task.enter_stage(third)
    names = {parameter: name for name, parameter in task.named_parameters()}
    rates = {
        names[parameter]: third.lr * group["lr_scale"]
        for group in task.optimizers(third)["main"].param_groups
        for parameter in group["params"]
    }
    for name, rate in rates.items():
        slow = name.startswith(("encoder.", "destination."))
        assert rate == pytest.approx(1e-7 if slow else 1.5e-3), name
    assert {name.split(".")[0] for name in rates} == {
        "encoder", "destination", "trajectory", "align_next", "align_destination"
    }  # fmt: skip
    assert [stage.lr for stage in recipe.stages] == [1e-3, 1e-3, 1e-4, 1.5e-3]
    assert {
        (stage.optimizer.name, stage.clip_norm, stage.weight_decay, stage.schedule.name) for stage in recipe.stages
    } == {("adam", 1.0, 0.0, "constant")}


def test_what_teachers_said_once_is_what_they_say_now() -> None:
    """Remembered features of every track and version, against the teachers run on the batch."""
    long = [f"stages.3.steps={10**4}"]  # long enough to be worth remembering
    steps = Steps(*long)
    for name in ("I", "II"):
        steps.stage(name, 1)
    task = steps.stage("III", 1)
    assert task._cache is not None
    stage = steps.recipe.stages[3].resolved(len(steps.samples))
    for found, _ in islice(data.batches(steps.samples, stage, CPU, seed=9), 5):
        remembered = task._remembered(found)
        track = forecasting.augmented(found["track"], found["key"], 8)
        after, end = task.teachers(track, 8)
        assert torch.allclose(remembered["taught_next"], after, atol=1e-6)
        assert torch.allclose(remembered["taught_destination"], end, atol=1e-6)
    assert Steps("task.cache_gib=0", *long).stage("III", 1)._cache is None


@pytest.mark.parametrize(
    ("stages", "taught"),
    [
        (("III",), set()),
        (("II", "III"), {"destination"}),
        (("I", "III"), {"next"}),
        (("I", "II warm-up", "III"), {"next", "destination"}),
    ],
)
def test_a_stage_left_out_teaches_nothing(stages: tuple[str, ...], taught: set[str]) -> None:
    steps = Steps()
    for name in stages:
        task = steps.stage(name, 1)
    assert task.taught_by == taught
    assert all(p.requires_grad == ("next" in taught) for p in task.align_next.parameters())
    seeds.seed(1)
    terms = task.loss(batch(tracks()))
    assert {name for name in terms if name.startswith("distil")} == {f"distil_{name}" for name in taught}


def test_the_best_weights_of_a_stage_count() -> None:
    """A stage whose weights get worse after the first look ends with those of the first look."""
    task = whole(checks=2)
    task._enter("I")
    task._held_out = tracks(40, seed=4)
    task.after_update(Progress(0, 5, 10, 0, 5))
    good = {name: value.clone() for name, value in task.state_dict().items() if name.startswith("encoder.")}
    score = task.best_score.item()
    with torch.no_grad():
        task.next_head.bias.add_(10)
        task.encoder.input.weight.add_(1)
    task.after_update(Progress(0, 6, 10, 0, 6))
    assert not unchanged(good, task)
    task.after_update(Progress(0, 10, 10, 0, 10))
    assert unchanged(good, task)
    assert task.best_score.item() == score == task.score(task._held_out).item()


def test_scores_are_those_the_authors_select_by(networks: Any, task: PPT) -> None:
    held_out = tracks(50)
    past, future = held_out[:, :8], held_out[:, 8:]
    with torch.no_grad():
        errors = torch.linalg.vector_norm(networks[2].forecast(past) - future[:, None], dim=-1)
        ends = torch.linalg.vector_norm(networks[2].destinations(past)[1] - held_out[:, -1:], dim=-1)
    expected = 3 * errors.mean(-1).amin(1).mean() + errors[:, :, -1].amin(1).mean()
    assert task.score(held_out).item() == pytest.approx(expected.item(), rel=1e-4)
    task._enter("II")
    assert task.score(held_out).item() == pytest.approx(ends.amin(1).mean().item(), rel=1e-4)
    task.train()
    assert task.score(held_out).item() == pytest.approx(ends.amin(1).mean().item(), rel=1e-4)
    assert task.training


def test_a_stage_of_another_name_is_refused_with_the_nearest() -> None:
    wrong = tiny("stages.1.name=II warmup").stages[1]
    with pytest.raises(UsageError, match=r"has no stage 'II warmup'; did you mean II warm-up.*named I, II warm-up"):
        whole().enter_stage(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["I", "III"])
def test_the_loss_is_one_graph_for_the_compiler(part: str, task: PPT) -> None:
    """No break in it, and the same figures; in evaluation mode, where nothing is random."""
    task._enter(part)
    compiled = torch.compile(task.loss, backend="aot_eager", fullgraph=True)
    found, expected = compiled(batch(tracks(), 3)), task.loss(batch(tracks(), 3))
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-5
    )
    found["loss"].backward()


@pytest.mark.parametrize("part", ["I", "II", "III"])
def test_bfloat16_computes_positions_in_float32(part: str, task: PPT) -> None:
    task._enter(part)
    exact = task.loss(batch(tracks()))["loss"].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = task.loss(batch(tracks()))
    assert rounded["loss"].dtype == torch.float32
    assert rounded["loss"].item() == pytest.approx(exact, rel=0.03)


def test_pictures_show_scenes_in_turn(task: PPT) -> None:
    scenes = torch.tensor([0, 0, 0, 4, 4, 9])
    found = task.show({**batch(tracks()), "scene": scenes})
    assert list(found) == [
        "forecast, scene 0, track 0",
        "forecast, scene 4, track 0",
        "forecast, scene 9, track 0",
        "forecast, scene 0, track 1",
        "forecast, scene 4, track 1",
        "forecast, scene 0, track 2",
    ]
    for image in found.values():
        assert image.dtype == np.uint8
        assert image.shape == (256, 256, 3)
        colours = {tuple(pixel) for pixel in image.reshape(-1, 3)[::7].tolist()}
        assert len(colours) > 20
