"""Fine-tuning: everything learns, the original does not, and the held-out part stays unseen."""

import copy

import pytest
import torch
from blobs import CLASSES, WIDTH, Blobs, Points, frozen

from unlabel import optim
from unlabel.errors import UsageError
from unlabel.evaluate.finetune import Classifier, finetune
from unlabel.evaluate.linear_probe import linear_probe
from unlabel.recipe import Stage

QUICK = {"epochs": 12, "batch_size": 32, "warmup_epochs": 1, "learning_rate": 0.2}


class Layerless(Points):
    """A task that does not know its layers."""

    def __init__(self):
        super().__init__()
        del self.layers


@pytest.mark.slow
def test_it_learns_what_a_linear_layer_cannot():
    class Xor(Blobs):
        def __init__(self):
            super().__init__(spread=1.0)
            self.labels = ((self.points[:, 0] > 0) ^ (self.points[:, 1] > 0)).astype("int64")
            self.classes = ("same", "different")

    class Narrow(Points):
        """Passes on the two coordinates that matter, through a network that starts as the identity."""

        def __init__(self):
            super().__init__()
            self.inside = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
            self.inside[2].weight.data.zero_()
            self.inside[2].bias.data.zero_()

        def encode(self, batch):
            rows = batch["x"][:, :2]
            return rows + self.inside(rows)

        def layer_of(self, name):
            return self.layers + 1

    view = frozen(Xor(), Narrow())
    assert linear_probe(view)["accuracy"] < 0.75
    assert finetune(view, **QUICK | {"epochs": 40, "weight_decay": 0.0})["accuracy"] > 0.85


def test_the_original_is_untouched():
    task = Points().train()
    before = copy.deepcopy(task.state_dict())
    view = frozen(task=task)
    rows, _ = view.features("train")
    finetune(view, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in task.parameters())
    assert view.features("train")[0] is rows


def test_every_parameter_that_encodes_learns_even_if_it_was_frozen():
    task = Points()
    task.requires_grad_(False)
    model = Classifier(task, 16, CLASSES)
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = optim.build(model, Stage(steps=10, lr=0.01, weight_decay=0.0))
    for _ in range(2):  # the head starts so small that the first update hardly reaches the rest
        model.encode({"x": torch.randn(8, WIDTH)}).logsumexp(dim=1).sum().backward()
        optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_lower_layers_learn_more_slowly():
    model = Classifier(Points(), 16, CLASSES)
    stage = Stage(steps=10, lr=1.0, layer_decay=0.5, weight_decay=0.1)
    scale = {
        id(p): (group["lr_scale"], group["weight_decay"])
        for group in optim.build(model, stage).param_groups
        for p in group["params"]
    }
    found = {name: scale[id(p)] for name, p in model.named_parameters()}
    assert found["task.blocks.0.weight"] == (0.25, 0.1)
    assert found["task.blocks.1.weight"] == (0.5, 0.1)
    assert found["task.norm.weight"] == (1.0, 0.0)
    assert found["head.weight"] == (1.0, 0.1)
    assert found["head.bias"] == (1.0, 0.0)


def test_a_task_without_layers_can_be_fine_tuned():
    result = finetune(frozen(Blobs(), Layerless()), **QUICK)
    assert result["accuracy"] > 0.8


def test_the_first_predictions_are_uniform():
    model = Classifier(Points(), 16, CLASSES).eval()
    scores = model.encode({"x": torch.randn(50, WIDTH)}).softmax(dim=1)
    assert (scores - 1 / CLASSES).abs().max() < 1e-3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_and_another_another():
    data = Blobs(spread=1.0)
    first, again, other = (finetune(frozen(data, seed=seed), **QUICK) for seed in (1, 1, 2))
    assert first == again
    assert first["loss"] != other["loss"]


def test_the_state_of_the_random_generator_does_not_matter():
    class Plain(Points):
        def finetune_transform(self):
            return None

    results = []
    for state in (5, 6):
        view = frozen(Blobs(spread=1.0), Plain())
        view.features("train"), view.features("test")  # so that nothing but training draws from here on
        torch.manual_seed(state)
        results.append(finetune(view, **QUICK))
    assert results[0] == results[1]


def test_reading_in_processes_gives_the_same_result():
    """Transforms seed torch's generator where they run; dropout here must not notice."""
    options = QUICK | {"epochs": 2}
    assert finetune(frozen(workers=1), **options) == finetune(frozen(workers=0), **options)


def test_the_copy_trains_in_training_mode_and_is_judged_in_evaluation_mode():
    modes = []

    class Watched(Points):
        def encode(self, batch):
            modes.append((torch.is_grad_enabled(), self.training, self.norm.training))
            return super().encode(batch)

    finetune(frozen(task=Watched()), **QUICK)
    assert set(modes) == {(True, True, True), (False, False, False)}


def test_held_out_labels_change_only_the_score():
    data = Blobs(spread=0.3)
    before = finetune(frozen(data), **QUICK)
    data.labels = data.labels.copy()
    data.labels[160:] = (data.labels[160:] + 1) % CLASSES
    after = finetune(frozen(data), **QUICK)
    assert before["accuracy"] > 0.8
    assert after["accuracy"] < 0.2  # the same predictions, now wrong
    assert after["loss"] == before["loss"]


def test_held_out_samples_change_nothing_in_training():
    data = Blobs()
    before = finetune(frozen(data), **QUICK)["loss"]
    data.points[160:] += 100
    assert finetune(frozen(data), **QUICK)["loss"] == before


def test_unlabelled_and_unreadable_samples_are_left_out():
    data = Blobs(bad=[2, 9])
    data.labels = data.labels.copy()
    data.labels[:40] = -1
    view = frozen(data)
    assert finetune(view, **QUICK)["accuracy"] > 0.8
    assert {entry["index"] for entry in view.bad} == {2, 9}


def test_label_smoothing_bounds_the_loss_from_below():
    """With a share s spread over K classes, no prediction has less than the entropy of the smoothed target."""
    smoothed = torch.tensor([1 - 0.6 + 0.6 / CLASSES] + [0.6 / CLASSES] * (CLASSES - 1))
    result = finetune(frozen(Blobs(spread=0.01)), **QUICK, label_smoothing=0.6)
    assert result["loss"] > torch.special.entr(smoothed).sum()
    assert finetune(frozen(Blobs(spread=0.01)), **QUICK, label_smoothing=0.0)["loss"] < 0.3


def test_an_encoder_without_gradient_is_a_usage_error():
    class Detached(Points):
        def encode(self, batch):
            return super().encode(batch).detach()

    with pytest.raises(UsageError, match=r"Detached\.encode passes no gradient"):
        finetune(frozen(task=Detached()), **QUICK)


def test_warm_up_longer_than_training_is_a_usage_error():
    with pytest.raises(UsageError, match="warm-up"):
        finetune(frozen(), epochs=3, warmup_epochs=5)
