"""Features of a frozen encoder: right samples, right labels, and an undisturbed task."""

import copy

import numpy as np
import pytest
import torch
from blobs import WIDTH, Blobs, Points, frozen

from unlabel import seeds
from unlabel.data import Subset
from unlabel.errors import RunError, UsageError
from unlabel.evaluate.features import evaluating
from unlabel.evaluate.reading import flatten


class Exploded(Points):
    def encode(self, batch):
        return super().encode(batch) * float("inf")


class Asking(Blobs):
    def __getitem__(self, index):
        raise UsageError("pandas is missing")


class Unlabelled(Blobs):
    def split(self, name):
        part = super().split(name)
        part.labels = part.classes = None
        return part


def test_features_are_of_the_transformed_samples_in_order():
    data, task = Blobs(), Points()
    features, labels = frozen(data, task, batch_size=7).features("train")
    with torch.no_grad():
        expected = task.eval().encode({"x": torch.from_numpy(data.points[:160] / 2)})
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)  # another batch size rounds differently
    assert labels.tolist() == data.labels[:160].tolist()
    assert features.dtype == torch.float32


def test_reading_in_processes_gives_the_same_features():
    alone, _ = frozen(batch_size=16).features("test")
    spread, _ = frozen(batch_size=16, workers=1).features("test")
    assert torch.equal(alone, spread)


def test_features_leave_the_task_as_it_was():
    task = Points().train()
    task.teacher.eval()
    modes = [part.training for part in task.modules()]
    state = copy.deepcopy(task.state_dict())
    view = frozen(task=task)
    view.features("train")
    view.raw("test")

    assert [part.training for part in task.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in task.state_dict().items())  # batch statistics too
    assert all(parameter.grad is None for parameter in task.parameters())


def test_a_probe_may_learn_from_the_features():
    features, _ = frozen().features("train")
    weight = torch.ones(16, requires_grad=True)
    (features @ weight).sum().backward()  # tensors made in inference mode cannot be kept for a gradient
    assert weight.grad is not None


def test_asking_for_the_task_puts_it_into_evaluation_mode():
    assert not frozen(task=Points().train()).task.training


def test_features_are_computed_once():
    view = frozen()
    first, _ = view.features("train")
    for parameter in view.task.parameters():
        parameter.data.zero_()
    assert view.features("train")[0] is first


def test_another_task_gets_its_own_features():
    view = frozen()
    first, _ = view.features("train")
    other = Points()
    other.blocks[1].weight.data.neg_()
    other.blocks[1].bias.data.neg_()
    torch.testing.assert_close(view.of(other).features("train")[0], -first)
    assert view.features("train")[0] is first


def test_bad_samples_are_left_out_and_listed_once():
    data = Blobs(bad=[3, 5, 200])
    view = frozen(data, batch_size=2)
    features, labels = view.features("train")
    view.raw("train")
    view.features("test")

    assert len(features) == 158
    assert labels.tolist() == np.delete(data.labels[:160], [3, 5]).tolist()
    assert view.bad == [
        {"split": "train", "index": 3, "path": "point 3", "reason": "torn"},
        {"split": "train", "index": 5, "path": "point 5", "reason": "torn"},
        {"split": "test", "index": 40, "path": "point 200", "reason": "torn"},
    ]


def test_a_batch_of_bad_samples_only_is_no_batch():
    features, _ = frozen(Blobs(bad=[4, 5]), batch_size=2).features("train")
    assert len(features) == 158


def test_no_readable_sample_is_an_error_with_the_reason():
    with pytest.raises(RunError, match="torn"):
        frozen(Blobs(bad=range(240))).features("train")


def test_a_usage_error_is_no_bad_sample():
    with pytest.raises(UsageError, match="pandas"):
        frozen(Asking()).features("train")


def test_features_that_are_not_finite_are_an_error():
    with pytest.raises(RunError, match="160 of 160 train samples are NaN or infinite"):
        frozen(task=Exploded()).features("train")


def test_a_missing_held_out_part_says_how_to_get_one():
    with pytest.raises(UsageError, match=r"dataset\.holdout=0\.2"):
        frozen(Blobs(held_out=0)).features("test")


def test_missing_labels_are_said_before_anything_is_computed():
    view = frozen(Unlabelled(), task=Exploded())
    assert not view.has_labels()
    with pytest.raises(UsageError, match="no labels"):
        view.labelled("train")
    _, labels = view.of(Points()).features("train")
    assert set(labels.tolist()) == {-1}
    assert view.classes == ()


def test_unlabelled_samples_are_not_among_the_labelled():
    data = Blobs()
    data.labels = np.where(np.arange(240) % 3 == 0, -1, data.labels)
    rows, labels = frozen(data).labelled("train")
    assert len(rows) == len(labels) == int((data.labels[:160] >= 0).sum())
    assert labels.min() == 0


def test_classes_without_names_are_numbered():
    data = Blobs()
    data.classes = None
    assert frozen(data).classes == ("0", "1", "2", "3")


def test_a_limit_takes_a_fixed_random_subset():
    view = frozen(limit={"train": 50}, seed=4)
    chosen = view.indices("train")
    assert len(view.features("train")[0]) == 50
    assert len(view.features("test")[0]) == 80
    assert len(set(chosen.tolist())) == 50
    assert chosen.max() > 60  # not the first 50
    assert np.array_equal(chosen, frozen(limit={"train": 50}, seed=4).indices("train"))
    assert not np.array_equal(chosen, frozen(limit={"train": 50}, seed=5).indices("train"))


def test_a_limit_of_no_split_is_an_error():
    with pytest.raises(UsageError, match="did you mean train"):
        frozen(limit={"trian": 5})


def test_raw_inputs_are_the_transformed_samples_themselves():
    data = Blobs()
    rows, labels = frozen(data).raw("test")
    np.testing.assert_allclose(rows.numpy(), data.points[160:] / 2)
    assert labels.tolist() == data.labels[160:].tolist()


def test_flatten_averages_blocks_until_the_width_fits():
    values = torch.randint(0, 256, (3, 64, 128, 3), dtype=torch.uint8)
    blocks = values.double().reshape(3, 8, 8, 16, 8, 3).mean(dim=(2, 4))  # 8 x 16 x 3 = 384 numbers
    torch.testing.assert_close(flatten(values, width=600), blocks.flatten(1).float())


def test_flatten_bounds_odd_shapes_too():
    assert flatten(torch.randn(2, 7, 13, 5), width=20).shape[1] <= 20


def test_flatten_changes_nothing_that_is_small_enough():
    values = torch.randn(2, 4, 5)
    assert torch.equal(flatten(values, width=20), values.flatten(1))


def test_evaluating_gives_modes_back_after_an_error():
    task = Points().train()
    task.teacher.eval()

    def fail():
        with evaluating(task):
            assert not any(part.training for part in task.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert task.training
    assert not task.teacher.training


def test_batches_read_in_the_order_asked_for():
    view = frozen(Blobs(bad=[1]))
    batches = list(view.batches("train", None, order=[5, 1, 2], batch_size=2))
    assert [batch["index"].tolist() for batch in batches] == [[5], [2]]
    assert batches[0]["key"].tolist() == [seeds.key(0, 0, 5)]
    assert batches[0]["x"].shape == (1, WIDTH)
    assert "label" not in batches[0]


def test_a_subset_of_a_subset_keeps_its_names():
    data = Blobs()
    assert Subset(data.split("test"), [2]).name_of(0) == "point 162"


class Padded(Blobs):
    """Batches padded to a length of their own."""

    def collate(self, samples):
        width = WIDTH + len(samples)
        batch = super().collate(samples)
        return {"x": torch.nn.functional.pad(batch["x"], (0, width - WIDTH))}


class Cut(Points):
    def encode(self, batch):
        return super().encode({"x": batch["x"][:, :WIDTH]})


def test_samples_padded_to_different_lengths_have_features_and_no_raw_control():
    view = frozen(Padded(), Cut(), batch_size=50, keep_raw=True)
    assert len(view.features("train")[0]) == 160
    with pytest.raises(UsageError, match="58 numbers in one batch and 18 in another"):
        view.raw("train")
    with pytest.raises(UsageError, match="58 numbers in one batch and 18 in another"):
        frozen(Padded(), Cut(), batch_size=50).raw("train")
