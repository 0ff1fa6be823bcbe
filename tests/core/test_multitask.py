"""Several tasks on one encoder: what is shared is shared and nothing else; updates are those that were asked for."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
import torch
from echo import WIDTH, Echo, Linear, Noises
from pulls import Drift, Pull, Raw, Vector, Whole, shaped
from torch import Tensor

from unlabel import build, checkpoint, compose, joining, loop, seeds
from unlabel.catalog.plugins import Catalog, Offer, Plugin
from unlabel.data import Draw, Reader, Views
from unlabel.engine import Engine
from unlabel.errors import RunError, UsageError
from unlabel.joint import Joint
from unlabel.logs import Metrics, Observer
from unlabel.recipe import Combination, Execution, Group, Recipe, Ref, Stage, load
from unlabel.task import Sample
from unlabel.testing.fixtures import TwoProcesses

CPU = Engine("cpu", "fp32")


def catalog() -> Catalog:
    here = "pulls"
    tasks = {
        "test/echo": "echo:Echo",
        "test/drift": f"{here}:Drift",
        "test/pull": f"{here}:Pull",
        "other/pull": f"{here}:Whole",
        "test/own_step": f"{here}:OwnStep",
        "test/own_optimizers": f"{here}:OwnOptimizers",
        "test/picky": f"{here}:Picky",
        "test/reinitialising": f"{here}:Reinitialising",
    }
    offers = [Offer("tasks", name, target, "test") for name, target in tasks.items()]
    offers += [
        Offer("encoders", "test/linear", "echo:Linear", "test"),
        Offer("encoders", "test/vector", f"{here}:Vector", "test"),
        Offer("datasets", "test/noises", "echo:Noises", "test"),
    ]
    return Catalog([Plugin("test", "unlabel-test", "0", offers)])


def pulls(*directions: tuple[float, ...], scales: tuple[float, ...] = (), **options: object) -> Joint:
    encoder = Vector()
    parts = {
        f"p{number}": Pull(encoder, direction=direction, scale=scales[number] if scales else 1.0)
        for number, direction in enumerate(directions)
    }
    return Joint({"encoder": encoder}, parts, **options)


def step(task: Joint, stage: Stage | None = None, value: float = 1.0, batches: int = 1) -> dict[str, Tensor]:
    """One update by plain gradient descent of rate 1, so that the weights move by minus the gradient."""
    stage = (stage or Stage(steps=1, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)).resolved(100)
    batch = {"x": torch.full((4, 2), value), "key": torch.arange(4)}
    return task.training_step([batch] * batches, task.optimizers(stage), CPU, stage)


# One update


def test_the_sum_moves_along_the_sum_of_the_gradients():
    task = pulls((1.0, 0.0, 2.0), (0.0, 3.0, -1.0))
    weights = {"loss_p0": 2.0, "loss_p1": 0.5}
    stage = Stage(steps=1, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, weights=weights)
    metrics = step(task, stage)
    assert task.encoder.weight.tolist() == [-2.0, -1.5, -3.5]
    assert [task.part(name).head.item() for name in ("p0", "p1")] == [-1.0, 0.5]
    assert metrics["loss"] == pytest.approx(2 * 6 + 0.5 * 6)
    assert set(metrics) == {"loss", "loss_p0", "loss_p1", "p0.along", "p1.along", "gradient_norm"}


def test_pareto_moves_along_the_gradients_times_their_weights():
    directions = torch.tensor([[1.0, 0.2, 2.0], [0.0, 3.0, -1.0], [0.5, 0.5, 0.1]])
    task = pulls(*map(tuple, directions.tolist()), combine="pareto")
    metrics = step(task)
    alpha = torch.stack([metrics[f"alpha_p{number}"] for number in range(3)])
    unit = directions / directions.norm(dim=1, keepdim=True)
    shortest = alpha.float() @ unit
    assert alpha.sum().item() == pytest.approx(1)
    assert (unit @ shortest >= shortest @ shortest - 1e-6).all()  # the weights are those of the normalised gradients
    assert torch.allclose(-task.encoder.weight, alpha.float() @ directions, rtol=1e-6)  # the step is of the raw ones
    heads = torch.stack([1 - task.part(f"p{number}").head[0] for number in range(3)])
    assert torch.allclose(heads, alpha.float(), rtol=1e-6)  # a head gets its own part's gradient, times the weight
    assert metrics["cosine_p0_p1"] == pytest.approx(float(unit[0] @ unit[1]))
    assert task.encoder.unused.tolist() == task.encoder.frozen.tolist() == [1.0, 1.0]


def test_opposed_tasks_stand_still_where_their_gradients_meet():
    task = pulls((1.0, 0.0, 0.0), (-2.0, 0.0, 0.0), combine="pareto", normalise="none")
    metrics = step(task)
    assert metrics["alpha_p0"] == pytest.approx(2 / 3)
    assert task.encoder.weight.abs().max() < 1e-6
    assert metrics["cosine_p0_p1"] == pytest.approx(-1)
    task = pulls((1.0, 0.0, 0.0), (-2.0, 0.0, 0.0), combine="pareto", update="normalised")
    step(task)
    assert task.encoder.weight.abs().max() < 1e-6


def test_the_normalised_update_descends_where_the_authors_does_not():
    """A long and a short gradient that nearly oppose each other: raw, the long one wins."""
    long, short = (-10.0, 1.0, 0.0), (1.0, 0.1, 0.0)
    moved = {}
    for update in ("authors", "normalised"):
        task = pulls(long, short, combine="pareto", update=update)
        step(task)
        moved[update] = [float(-task.encoder.weight.detach() @ torch.tensor(each)) for each in (long, short)]
    assert moved["authors"][1] < 0  # the short one's loss rises
    assert min(moved["normalised"]) > 0


def test_the_scale_of_a_loss_does_not_change_the_weights():
    one = step(pulls((1.0, 0.3, 0.0), (0.2, 1.0, 1.0), combine="pareto"))
    other = step(pulls((1.0, 0.3, 0.0), (0.2, 1.0, 1.0), scales=(1000.0, 1.0), combine="pareto"))
    assert one["alpha_p0"] == pytest.approx(float(other["alpha_p0"]), abs=1e-6)


def test_a_head_of_weight_zero_does_not_move_not_even_by_momentum():
    stage = Stage(steps=9, optimizer="adamw", lr=0.1, weight_decay=0.0).resolved(100)
    task = pulls((1.0, 0.0, 0.0), (2.0, 0.1, 0.0), combine="pareto", normalise="none")
    optimizers = task.optimizers(stage)
    batch = {"x": torch.ones(4, 2), "key": torch.arange(4)}
    task.combine = "sum"
    task.training_step([batch], optimizers, CPU, stage)  # gives the head a momentum
    before = task.part("p1").head.item()
    task.combine = "pareto"
    metrics = task.training_step([batch], optimizers, CPU, stage)
    assert metrics["alpha_p1"] == 0
    assert task.part("p1").head.item() == before
    assert task.part("p0").head.item() < 1


def test_an_encoder_that_is_not_trained_leaves_equal_weights():
    stage = Stage(steps=1, optimizer="sgd", lr=1.0, momentum=0.0, groups=[Group(pattern="encoder.*", freeze=True)])
    task = pulls((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), combine="pareto")
    metrics = step(task, stage)
    assert [metrics["alpha_p0"], metrics["alpha_p1"]] == [0.5, 0.5]
    assert task.encoder.weight.tolist() == [0.0] * 3
    assert task.encoder.weight.grad is None  # or it would pile up until the encoder thaws
    assert task.part("p0").head.item() == 0.5


@pytest.mark.parametrize("combine", ["sum", "pareto"])
def test_micro_batches_add_up(combine):
    whole, parts = (pulls((1.0, 0.3, 0.0), (0.2, 1.0, 1.0), combine=combine) for _ in range(2))
    one, three = step(whole), step(parts, batches=3)
    assert torch.allclose(whole.encoder.weight, parts.encoder.weight)
    assert one.keys() == three.keys()
    assert all(float(one[name]) == pytest.approx(float(three[name]), abs=1e-6) for name in one)


@pytest.mark.parametrize("combine", ["sum", "pareto"])
def test_two_processes_move_as_one_on_all_samples(combine: str, two_processes: TwoProcesses) -> None:
    """Their gradients are averaged before weights are sought: averaged weights would be of no problem at all."""
    x = [[1.0, 0.5, 2.0], [2.0, 0.1, 1.0], [-0.5, 3.0, 0.5], [0.5, 2.0, -1.0]]
    weight, alpha = shaped(combine, x)
    for half_weight, half_alpha in two_processes(shaped, combine, x):
        assert half_weight == pytest.approx(weight, rel=1e-6)
        assert half_alpha == pytest.approx(alpha, rel=1e-6)
    if combine == "pareto":
        halves = [shaped(combine, half)[1] for half in (x[:2], x[2:])]
        assert halves[0] != pytest.approx(alpha, abs=0.02), "or solving alone would pass"


def test_several_losses_of_a_part_and_their_weights():
    encoder = Vector()
    task = Joint({"encoder": encoder}, {"a": Pull(encoder), "b": Whole(encoder)}, combine="pareto")
    weights = {"loss_b_far": 0.0, "loss_a": 3.0}
    metrics = step(task, Stage(steps=1, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, weights=weights))
    assert {"loss_a", "loss_b_near", "loss_b_far", "alpha_a", "alpha_b"} <= set(metrics)
    assert metrics["loss"] == pytest.approx(3 * 6 + 6)
    with pytest.raises(UsageError, match="did you mean loss_b_far"):
        step(task, Stage(steps=1, weights={"loss_b_fare": 1.0}))


def test_processor_precision_does_not_matter_to_the_weights():
    task = pulls((1.0, 0.3, 0.0), (0.2, 1.0, 1.0), combine="pareto")
    stage = Stage(steps=1, optimizer="sgd", lr=1.0, momentum=0.0).resolved(9)
    batch = {"x": torch.ones(4, 2), "key": torch.arange(4)}
    metrics = task.training_step([batch], task.optimizers(stage), Engine("cpu", "bf16"), stage)
    assert metrics["alpha_p0"] == pytest.approx(0.5, abs=1e-5)


# What each part sees


def joint(**options: object) -> Joint:
    encoder = Linear()
    return Joint({"encoder": encoder}, {"echo": Echo(encoder), "drift": Drift(encoder)}, **options)


def test_every_part_sees_its_own_view_of_a_sample_that_is_read_once():
    reads = []

    class Counting(Noises):
        def __getitem__(self, index: int) -> Sample:
            reads.append(index)
            return super().__getitem__(index)

    task = joint()
    positions = [(0, 3), (0, 8)]
    batch, _ = Reader(Counting(), task.transform(), 5).read(positions)
    alone, _ = Reader(Noises(), task.part("echo").transform(), 5).read(positions)
    assert reads == [3, 8]
    assert set(batch) == {"echo:x", "drift:x", "index", "key"}
    echo, drift = task.view("echo", batch), task.view("drift", batch)
    assert set(echo) == set(drift) == {"x", "index", "key"}
    assert all(torch.equal(echo[field], alone[field]) for field in alone)  # the first sees what it would see alone
    assert not torch.equal(echo["x"], drift["x"])
    assert not (echo["key"] == drift["key"]).any()
    assert (drift["key"] >= 0).all()


def test_parts_without_transforms_need_no_views_and_share_what_is_nobodys():
    encoder = Linear()
    task = Joint({"encoder": encoder}, {"a": Raw(encoder), "b": Raw(encoder)})
    assert task.transform() is None
    x, offset = torch.ones(2, WIDTH), torch.ones(1)
    batch = {"x": x, "offset": offset, "key": torch.arange(2)}
    assert task.view("b", batch)["x"] is x
    assert task.view("b", batch)["offset"] is offset
    mixed = Joint({"encoder": encoder}, {"a": Raw(encoder), "b": Echo(encoder)}).transform()
    seen = mixed({"x": x[0].numpy()}, Draw(seeds.generator(1)))
    assert isinstance(seen, Views)
    assert (seen["a"]["x"] == 1).all()


def test_losses_are_those_of_the_parts_alone():
    task = joint().eval()  # no dropout
    batch, _ = Reader(Noises(), task.transform(), 5).read([(0, index) for index in range(8)])
    seeds.seed(1)
    terms = task.loss(batch)
    seeds.seed(1)
    alone = {label: task.part(label).loss(task.view(label, batch)) for label in ("echo", "drift")}
    assert {"loss_echo", "echo.size", "loss_drift", "drift.size"} == set(terms)
    assert all(torch.equal(terms[f"loss_{label}"], alone[label]["loss"]) for label in alone)


def test_features_are_the_first_parts_and_evaluations_everyones():
    encoder = Vector()
    task = Joint({"encoder": encoder}, {"a": Pull(encoder), "b": Whole(encoder)})
    assert task.evaluations == ("knn", "linear_probe")
    assert not task.gathers
    x = torch.randn(3, 2)
    assert task.encode({"x": x}) is x
    assert joint().gathers


# A run


class StopAt(Observer):
    """Sends this process a signal after an update."""

    def __init__(self, update: int) -> None:
        self.update = update

    def log(self, progress, metrics: Mapping[str, float]) -> None:  # type: ignore[no-untyped-def]
        if progress.total_step == self.update:
            os.kill(os.getpid(), signal.SIGTERM)


def chosen(**task: object) -> Recipe:
    stages = [
        Stage(name="head only", steps=3, batch_size=8, optimizer="sgd", lr=0.1),
        Stage(name="all", steps=9, batch_size=12, accumulate=2, lr=0.01, clip_norm=0.5),
    ]
    made = Recipe(
        task=Ref("test/echo+test/drift", **task),
        encoder=Ref("test/linear"),
        dataset=Ref("test/noises"),
        stages=stages,
    )
    return made.model_copy(update={"save_every": 2, "log_every": 1, "execution": Execution(workers=0)})


def train(folder: Path, what: Recipe, *observers: Observer) -> Joint:
    task = build.build(what, catalog(), CPU)
    folder.mkdir(exist_ok=True)
    start = max([int(path.name[-8:]) for path in folder.glob("checkpoints/*")], default=0)
    with closing(Metrics(folder, start)) as metrics:
        loop.train(loop.Training(what, task, Noises(), CPU, folder, [metrics, *observers]))
    assert isinstance(task, Joint)
    return task


@pytest.mark.parametrize("update", [2, 3, 7])
def test_a_resumed_run_ends_bit_identical_with_the_same_weights_in_its_log(tmp_path, update):
    what = chosen(combine="pareto", update="normalised")
    whole = train(tmp_path / "whole", what)
    with pytest.raises(loop.Interrupted):
        train(tmp_path / "cut", what, StopAt(update))
    again = train(tmp_path / "cut", what)
    left, right = whole.state_dict(), again.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert whole.part("echo").updates == 12  # every part's after_update ran

    def lines(folder: Path) -> list[dict[str, float]]:
        found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in one.items() if name != "samples_per_second"} for one in found]

    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")
    assert all("alpha_drift" in line and "cosine_echo_drift" in line for line in lines(tmp_path / "cut"))


def test_stages_and_epochs_reach_every_part(tmp_path):
    task = train(tmp_path, chosen())
    assert task.part("echo").entered == task.part("drift").entered == [(0, False), (0, False), (1, False), (2, False)]
    assert task.progress == task.part("echo").progress == task.part("drift").progress
    assert task.progress.total_step == 12
    before = build.build(chosen(), catalog(), CPU)
    frozen = chosen()
    frozen.stages = frozen.stages[:1]
    after = train(tmp_path / "first", frozen)
    assert torch.equal(after.encoder.weight, before.encoder.weight)  # a part froze it in this stage
    assert not torch.equal(after.part("drift").head[2].weight, before.part("drift").head[2].weight)


# Recipes


def test_what_a_part_no_longer_keeps_may_stand_in_a_joint_checkpoint(tmp_path):
    older, newer = joint(), joint()
    older.part("echo").register_buffer("epoch", torch.tensor(3))
    path = checkpoint.save(tmp_path, older, {}, CPU, checkpoint.Position("test/echo+test/drift", 0, 1, 1))
    with pytest.raises(RunError, match=r"parts\.echo\.epoch"):
        checkpoint.load_task(path, newer, CPU)

    class Leaner(Echo):
        obsolete = ("epoch",)

    encoder = Linear()
    newer = Joint({"encoder": encoder}, {"echo": Leaner(encoder), "drift": Drift(encoder)})
    checkpoint.load_task(path, newer, CPU)
    assert torch.equal(newer.encoder.weight, older.encoder.weight)


def test_a_recipe_survives_json_and_settings_reach_the_part(tmp_path):
    settings = ["task.test/drift.scale=0.25", "task.normalise=loss"]
    what = compose.with_overrides(chosen(combine="pareto"), settings, catalog())
    path = tmp_path / "recipe.json"
    path.write_text(what.to_json())
    again = load(path)
    assert again == what
    assert again.tasks == [Ref("test/echo"), Ref("test/drift", scale=0.25)]
    assert again.combination == Combination(how="pareto", normalise="loss")
    task = build.build(again, catalog(), CPU)
    assert (task.part("drift").scale, task.combine, task.normalise) == (0.25, "pareto", "loss")
    assert task.part("drift").encoder is task.part("echo").encoder is task.encoder


def test_what_the_data_determine_reaches_encoder_and_every_part_that_leaves_it_open():
    implied = {"dim": 7, "scale": 0.125, "unheard_of": 1}
    what = ref("test/pull+test/drift")
    what.tasks[0].options["scale"] = 2.0
    found = build.with_data(what, implied, catalog())
    assert found.encoder == Ref("test/vector", dim=7)
    assert found.tasks == [Ref("test/pull", scale=2.0), Ref("test/drift", scale=0.125)]
    assert build.with_data(ref("test/drift"), implied, catalog()).task == Ref("test/drift", scale=0.125)
    assert build.with_data(found, implied, catalog()) == found
    assert what.encoder.options == {}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("task.test/drift.scales=1", "task.test/drift.scales: test/drift has no keyword.*did you mean scale"),
        ("task.test/drift.scale=loud", "task.test/drift.scale: .*number"),
        ("task.test/drft.scale=1", "has no keyword 'test/drft'; did you mean test/drift"),
        ("task.combine=pareta", "combination.how: .*'sum' or 'pareto'"),
        ("task.combined=sum", "did you mean combine"),
        ("task.test/drift=3", "tasks.1: .*not 3"),
    ],
)
def test_settings_that_fit_no_part_are_refused(setting, message):
    with pytest.raises(UsageError, match=message):
        compose.with_overrides(chosen(), [setting], catalog())


def ref(name: str) -> Recipe:
    return Recipe(task=Ref(name), encoder=Ref("test/vector"), dataset=Ref("test/noises"), stages=[Stage(steps=1)])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test/pull+test/own_step", "own_step updates its networks in its own way.*train it alone"),
        ("test/own_optimizers+test/pull", "own_optimizers chooses its optimizers in its own way"),
        ("test/pull+test/picky", "test/picky, a part of test/pull.*: needs an encoder with ears, not Vector"),
        ("test/pull+", "expected different names joined by"),
        ("test/pull+test/pull", "expected different names joined by"),
        ("test/pull+test/pul", "no task is called 'test/pul'; did you mean"),
    ],
)
def test_what_cannot_be_joined_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        build.build(ref(name), catalog(), CPU)


def test_parts_that_share_more_than_the_encoder_are_refused():
    encoder = Vector()
    one, other = Pull(encoder), Pull(encoder)
    other.head = one.head
    with pytest.raises(UsageError, match="shares parameters with another part"):
        Joint({"encoder": encoder}, {"a": one, "b": other})


def test_names_that_end_alike_are_told_apart():
    task = build.build(ref("test/pull+other/pull"), catalog(), CPU)
    assert list(task.parts) == ["test_pull", "other_pull"]


def test_the_first_parts_first_weights_hold():
    for name in ("test/reinitialising+test/echo", "test/echo+test/reinitialising"):
        task = build.build(ref(name).model_copy(update={"encoder": Ref("test/linear")}), catalog(), CPU)
        seven = bool((task.encoder.weight == 7).all())
        assert seven == name.startswith("test/re")
        assert torch.equal(task.part("echo").teacher.weight, task.encoder.weight)


def test_recipes_are_put_together():
    one = chosen().model_copy(update={"task": Ref("test/echo", dropout=0.3)})
    one.stages[0].groups = [Group(pattern="head.*", lr_scale=2.0), Group(pattern="*.bias", weight_decay=0.0)]
    one.stages[1].weights = {"loss": 2.0}
    two = ref("test/drift").model_copy(update={"encoder": Ref("test/linear")})
    two.stages[0].groups = [Group(pattern="head.*", lr_scale=3.0), Group(pattern="encoder.*", freeze=True)]
    two.stages[0].weights = {"loss_far": 3.0}
    both = joining.join({"test/echo": one, "test/drift": two}, "tiny")
    assert both.tasks == [Ref("test/echo", dropout=0.3), Ref("test/drift")]
    assert [(group.pattern, group.lr_scale) for group in both.stages[0].groups] == [
        ("parts.echo.head.*", 2.0), ("*.bias", 1.0), ("parts.drift.head.*", 3.0)
    ]  # fmt: skip
    assert both.stages[1].weights == {"loss_echo": 2.0, "loss_drift_far": 3.0}
    assert [stage.steps for stage in both.stages] == [3, 9]
    assert joining.join({"test/echo": one}, "tiny") is one

    first, second = joining.part(both).values()
    assert first.task == one.task
    assert first.stages == one.stages
    assert second.task == two.task
    assert [group.pattern for group in second.stages[0].groups] == ["*.bias", "head.*"]  # and what is nobody's
    assert [stage.weights for stage in second.stages] == [{"loss_far": 3.0}] * 2
    assert joining.part(one) == {"test/echo": one}


def test_recipes_that_differ_need_a_choice():
    one, two = ref("test/pull"), chosen().model_copy(update={"task": Ref("test/echo")})
    with pytest.raises(UsageError, match=r"test/echo trains in 2 stages \(head only, all\): name it first"):
        joining.join({"test/pull": one, "test/echo": two}, "tiny")
    recipes = {"test/echo": two, "test/pull": one}
    with pytest.raises(
        UsageError, match=r"tiny recipes of its parts differ .*choose one, e\.g\. --encoder test/linear"
    ):
        joining.join(recipes, "tiny")
    one.encoders = {"encoder": Ref("test/vector", dim=5)}
    assert joining.join(recipes, "tiny", encoders={"": "test/vector"}).encoder == Ref("test/vector", dim=5)
    one.dataset = Ref("test/noises", count=9)
    with pytest.raises(UsageError, match=r"test/pull: test/noises \(count=9\).*--data test/noises"):
        joining.join(recipes, "tiny", encoders={"": "test/vector"})
    assert joining.join(recipes, "tiny", encoders={"": "x"}, data="test/noises").dataset == Ref("test/noises")


def test_a_task_that_makes_its_parts_itself_has_one_name_and_settles_as_one() -> None:
    many = ref("test/many").model_copy(update={"task": Ref("test/many", combine="pareto")})
    assert build.with_provenance(many, pulls((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))) == many
