"""Training on nodes: joint, two-stage, which update is judged, and what no weight may depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import unlabel
from networks import CLASSES, batch_of, blocks, encoder
from torch import Tensor

from unlabel import Catalog, Recipe, build, launch, loop
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel.task import Progress, Task
from unlabel_graph import nodes
from unlabel_graph.evaluations.node_classification import node_classification
from unlabel_graph.graph import Nodes
from unlabel_graph.nodes import NodeTask
from unlabel_graph.tasks.distance2labeled import Distance2Labeled
from unlabel_graph.tasks.edge_mask import EdgeMask
from unlabel_graph.tasks.node_property import NodeProperty
from unlabel_graph.tasks.supervised import Supervised

PRETEXT = (
    "node_property",
    "edge_mask",
    "pairwise_distance",
    "distance2clusters",
    "attribute_mask",
    "pairwise_attr_sim",
    "distance2labeled",
    "context_label",
    "ensemble_label",
    "corrected_label",
    "random_target",
)
OPTIONS: dict[str, dict[str, object]] = {
    "pairwise_distance": {"pairs_per_class": 30},
    "distance2clusters": {"clusters": 3},
    "pairwise_attr_sim": {"pairs_per_update": 40},
    "context_label": {"labels": "lp"},
    "corrected_label": {"labels": "lp", "corrections": 20},
}
CATALOG = Catalog.installed()


def _trained(chosen: Recipe, dataset: Nodes, folder: Path, **changes: object) -> Task:
    """Run a recipe on a dataset through the real loop."""
    engine = Engine("cpu", "fp32")
    rare = {"save_every": 1000, "monitor_every": 1000, **changes}
    chosen = build.with_data(chosen, dataset.implies(), CATALOG).model_copy(update=rare)
    task = build.build(chosen, CATALOG, engine)
    folder.mkdir(exist_ok=True)
    loop.train(loop.Training(chosen, task, dataset.split("train"), engine, folder, []))
    return task


def _weights(task: Task, *names: str) -> dict[str, Tensor]:
    return {name: value for name, value in task.state_dict().items() if name.partition(".")[0] in names}


def _supervised(steps: int) -> Recipe:
    from unlabel_graph.tasks import supervised

    chosen = supervised.tiny()
    return chosen.model_copy(update={"stages": [chosen.stages[0].model_copy(update={"steps": steps})]})


@pytest.mark.parametrize("name", PRETEXT)
def test_lambda_0_is_plain_classification_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Except for the two tasks that train on other inputs, whose representations must differ."""
    dataset = blocks()
    chosen = nodes.joint(f"graph/{name}", 0.0, steps=6, hidden=8, **OPTIONS.get(name, {}))
    joint = _trained(chosen, dataset, tmp_path / "joint")
    plain = _trained(_supervised(6), dataset, tmp_path / "plain")
    ours, theirs = (_weights(task, "encoder", "classifier", "best") for task in (joint, plain))
    same = all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert ours.keys() == theirs.keys()
    assert same == (name not in ("edge_mask", "attribute_mask"))


@pytest.mark.parametrize("name", PRETEXT)
def test_training_lowers_the_loss_and_every_task_reaches_encoder_and_head(name: str) -> None:
    dataset = blocks()
    task = CATALOG.load("tasks", f"graph/{name}")(encoder(), **({"classes": CLASSES} | OPTIONS.get(name, {})))
    optimizer = torch.optim.Adam(task.parameters(), lr=0.02)
    batch, losses = batch_of(dataset), []
    for step in range(60):
        torch.manual_seed(step)
        terms = task.loss(batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        if not step:
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.parameters())
        optimizer.step()
        losses.append(float(terms["loss"].detach()))
    assert np.mean(losses[-10:]) < 0.97 * np.mean(losses[:3])


@pytest.mark.parametrize("name", PRETEXT)
def test_a_run_stopped_anywhere_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    dataset = blocks()
    chosen = nodes.two_stage(f"graph/{name}", steps=4, hidden=8, **OPTIONS.get(name, {}))
    straight = _trained(chosen, dataset, tmp_path / "straight")
    for total in (2, 6):  # in the first stage, and in the second
        folder = tmp_path / f"stopped{total}"
        with pytest.raises(KeyboardInterrupt):
            _stopped(chosen, dataset, folder, total)
        resumed = _trained(chosen, dataset, folder)
        for key, value in straight.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key]), key


def _stopped(chosen: Recipe, dataset: Nodes, folder: Path, total: int) -> None:
    """The same run, saved after every update, until it is cut off."""
    engine = Engine("cpu", "fp32")
    chosen = build.with_data(chosen, dataset.implies(), CATALOG).model_copy(
        update={"save_every": 1, "monitor_every": 99}
    )
    task = build.build(chosen, CATALOG, engine)
    after = task.after_update

    def cut(progress: Progress) -> None:
        after(progress)
        if progress.total_step == total + 1:  # the checkpoint of `total` is the last one
            raise KeyboardInterrupt

    task.after_update = cut
    folder.mkdir()
    loop.train(loop.Training(chosen, task, dataset.split("train"), engine, folder, []))


def test_two_stages_train_one_objective_each(tmp_path: Path) -> None:
    dataset = blocks()
    chosen = nodes.two_stage("graph/node_property", steps=3, hidden=8)
    engine = Engine("cpu", "fp32")
    chosen = build.with_data(chosen, dataset.implies(), CATALOG)
    task = build.build(chosen, CATALOG, engine)
    first, second = (stage.resolved(len(dataset)) for stage in chosen.stages)
    batch = batch_of(dataset)

    def moved(stage: object) -> set[str]:
        task.enter_stage(stage)
        optimizers = task.optimizers(stage)
        before = {name: value.clone() for name, value in task.named_parameters()}
        task.training_step([batch], optimizers, engine, stage)
        return {
            name.partition(".")[0] for name, value in task.named_parameters() if not torch.equal(before[name], value)
        }

    assert moved(first) == {"encoder", "head"}
    assert moved(second) == {"encoder", "classifier", "best"}


def test_joint_loss_is_on_one_forward_pass_with_one_mask() -> None:
    """Head and classifier see the same dropped units: what is dropped reaches neither."""
    task = NodeProperty(encoder(), supervised=True, classes=CLASSES)
    seen: dict[str, Tensor] = {}
    task.head.register_forward_hook(lambda module, args, output: seen.update(head=args[0]))
    task.classifier.register_forward_hook(lambda module, args, output: seen.setdefault("classifier", args[0]))
    calls: list[int] = []
    task.encoder.register_forward_hook(lambda module, args, output: calls.append(1))
    terms = task.loss(batch_of(blocks()))
    assert set(terms) >= {"loss_supervised", "loss_pretext"}
    assert len(calls) == 1
    assert seen["head"] is seen["classifier"]
    assert 0.3 < float((seen["head"] == 0).float().mean()) < 0.9


# Which update is judged


def _progress(number: int) -> Progress:
    return Progress(0, number, 100, number, number)


def test_the_update_best_on_validation_nodes_is_judged_and_of_equals_the_later(tmp_path: Path) -> None:
    dataset = blocks(nodes=150)
    batch = batch_of(dataset)
    task = Supervised(encoder(), classes=CLASSES)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.05)
    labels = batch["validation_label"]
    history = []
    for number in range(1, 26):
        torch.manual_seed(number)
        optimizer.zero_grad()
        task.loss(batch)["loss"].backward()
        optimizer.step()
        task.progress = _progress(number)
        with torch.no_grad():
            task.eval()
            logits = task._latest(batch)
            task.train()
        known = labels >= 0
        history.append((float((logits.argmax(dim=1) == labels)[known].float().mean()), number, logits))
    accuracy, number, logits = max(history, key=lambda entry: entry[:2])
    found, update = task.eval().classify(batch)
    assert update == number
    assert torch.equal(found, logits)
    assert len({entry[0] for entry in history}) > 3

    result = node_classification(Frozen(task, dataset, Engine("cpu", "fp32")))
    test = torch.from_numpy(dataset.masks["test"])
    truth = torch.from_numpy(dataset.labels)
    assert result["accuracy"] == pytest.approx(float((logits.argmax(dim=1) == truth)[test].float().mean()))
    assert result["validation"] == pytest.approx(accuracy)
    assert result["update"] == number


@pytest.mark.parametrize("made", [Supervised, EdgeMask])
def test_validation_labels_choose_and_change_no_weight(made: type[NodeTask], tmp_path: Path) -> None:
    dataset = blocks()
    labels = dataset.labels.copy()
    chosen = dataset.masks["validation"] | dataset.masks["test"]
    labels[chosen] = np.random.default_rng(0).permutation(labels[chosen])
    other = Nodes(replace(dataset.graph, labels=labels, masks=dataset.masks), "test")
    name = "supervised" if made is Supervised else "edge_mask"
    plan = _supervised(8) if made is Supervised else nodes.joint(f"graph/{name}", 1.0, steps=8, hidden=8)
    first, second = (_trained(plan, data, tmp_path / str(n)) for n, data in enumerate((dataset, other)))
    for key, value in _weights(first, "encoder", "classifier", "head").items():
        assert torch.equal(value, _weights(second, "encoder", "classifier", "head")[key])


@pytest.mark.parametrize("name", PRETEXT)
def test_no_pretext_loss_depends_on_a_label_that_is_not_given(name: str) -> None:
    """Whatever the labels of validation and test nodes are, what is drawn, aimed at and lost is the same."""
    dataset = blocks()
    labels = dataset.labels.copy()
    hidden = np.flatnonzero(~dataset.masks["train"])
    labels[hidden] = np.random.default_rng(0).permutation(labels[hidden])
    other = Nodes(replace(dataset.graph, labels=labels, masks=dataset.masks), "test")
    losses = []
    for data in (dataset, other):
        made = encoder()  # seeds torch
        task = CATALOG.load("tasks", f"graph/{name}")(made, **({"classes": CLASSES} | OPTIONS.get(name, {})))
        terms = [task.loss(batch_of(data))["loss"] for _ in range(2)]
        losses.append(
            torch.stack([*terms, *(g.sum() for g in torch.autograd.grad(sum(terms), task.head.parameters()))])
        )
    assert torch.equal(*losses)
    assert not np.array_equal(labels, dataset.labels)


def test_without_validation_nodes_the_last_update_is_judged() -> None:
    batch = batch_of(blocks(validation_per_class=0))
    task = Supervised(encoder(), classes=CLASSES)
    task.loss(batch)
    task.progress = _progress(1)
    assert task.classify(batch)[1] == 1
    assert task.best_accuracy == -1


def test_a_task_of_its_own_has_no_classifier_and_says_so() -> None:
    task = NodeProperty(encoder())
    assert "loss" in task.loss(batch_of(blocks()))
    assert task.evaluations == ("linear_probe", "knn")
    with pytest.raises(UsageError, match=r"--set task\.supervised=true"):
        task.classify(batch_of(blocks()))
    with pytest.raises(UsageError, match=r"--set task\.classes=NUMBER"):
        NodeProperty(encoder(), supervised=True)


def test_objectives_that_do_not_exist_or_do_not_fit_are_refused() -> None:
    stage = nodes.two_stage("graph/node_property").stages[1]
    with pytest.raises(UsageError, match=r"needs --set task\.supervised=true"):
        NodeProperty(encoder()).enter_stage(stage)
    wrong = stage.model_copy(update={"options": {"objective": "supervise"}})
    with pytest.raises(UsageError, match="did you mean supervised"):
        NodeProperty(encoder(), supervised=True, classes=CLASSES).enter_stage(wrong)


def test_targets_from_labels_need_labels() -> None:
    dataset = blocks()
    unlabelled = Nodes(replace(dataset.graph, labels=None), "test")
    with pytest.raises(UsageError, match="targets from training labels, and the data have none"):
        Distance2Labeled(encoder(), classes=CLASSES).loss(batch_of(unlabelled))


def test_features_are_those_of_the_asked_nodes_and_the_picture_shows_them() -> None:
    dataset = blocks()
    task = NodeProperty(encoder()).eval()
    whole = task.encode(batch_of(dataset))
    part = {**dataset.context(), **dataset.split("test").table()}
    assert torch.equal(task.encode(part), whole[part["node"]])
    picture = task.show(batch_of(dataset))["representations"]
    assert picture.dtype == np.uint8
    assert picture.shape == (480, 480, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == CLASSES + 2, "white, grey, a colour a class"


def test_tasks_on_one_encoder_are_judged_by_the_classifier_among_them(tmp_path: Path) -> None:
    answer = unlabel(
        "train", "graph/edge_mask+graph/supervised", "--recipe", "tiny", "--out", tmp_path / "run", "--steps", 3
    )
    assert answer.code == 0, answer.err
    assert "graph/node_classification" in answer.out + answer.err


@pytest.mark.slow
def test_quick_recipes_lift_the_probe_above_random_features(tmp_path: Path) -> None:
    found = launch.train("graph/distance2clusters", out=tmp_path / "run", catalog=CATALOG)
    assert found.evaluations["after"]["graph/node_classification"]["accuracy"] > 0.6
    before, after = (found.evaluations[when]["linear_probe"]["accuracy"] for when in ("before", "after"))
    assert after > before + 0.02
