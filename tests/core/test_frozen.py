"""Frozen teachers: outside of the task's state, on its device, known by hash; their features computed once."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlabel import Task, checkpoint
from unlabel.engine import Engine
from unlabel.frozen.features import Cache, digest
from unlabel.frozen.teacher import LazyTeacher, Teacher, fingerprint
from unlabel.storage import cache


class Counting(nn.Module):
    """A network with dropout that remembers how many samples it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5))
        self.seen: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(len(inputs))
        return self.layers(inputs)


def counting(*facts: object) -> Teacher:
    return Teacher("counting", Counting(), facts)


def rows(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32))


# --- a teacher, and the task that holds it


class Student(Task):
    """Learns from a teacher that is loaded when it is first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.loads = 0
        self.frozen = LazyTeacher(self._load)

    def _load(self) -> Teacher:
        self.loads += 1
        return counting()

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": (self.encoder(batch["x"]) - self.frozen.teacher(batch["x"])).square().mean()}


def test_a_teacher_is_in_no_state_optimizer_or_mode(tmp_path: Path) -> None:
    task = Student().train()
    task.loss({"x": rows(3)})["loss"].backward()
    network = task.frozen.teacher.network
    assert task.loads == 1
    assert set(task.state_dict()) == {"encoder.weight", "encoder.bias"} == {name for name, _ in task.named_parameters()}
    assert list(task.buffers()) == []
    task.train()
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(task.frozen.teacher(rows(3)), task.frozen.teacher(rows(3)))  # no dropout
    assert not task.frozen.teacher(rows(3)).requires_grad
    twin = copy.deepcopy(task)
    assert twin.frozen.teacher is task.frozen.teacher
    assert twin.encoder is not task.encoder
    saved = checkpoint.save(tmp_path, task, {}, Engine("cpu", "fp32"), checkpoint.Position("a/b", 0, 1, 1))
    assert set(load_file(saved / "task.safetensors")) == set(task.state_dict())


def test_a_teacher_goes_where_the_task_goes_loaded_before_or_after() -> None:
    before, after = Student(), Student()
    before.frozen.teacher  # noqa: B018  # loads it
    for task in (before, after):
        task.to("meta")
        assert {parameter.device.type for parameter in task.frozen.teacher.network.parameters()} == {"meta"}


def test_a_teacher_keeps_its_precision_and_layout_whatever_the_task_does() -> None:
    made = Teacher("convolution", nn.Conv2d(3, 4, 3))
    holder = LazyTeacher(lambda: made)
    strides = holder.teacher.network.weight.stride()
    holder.to(torch.float64)
    holder.to(memory_format=torch.channels_last)
    assert holder.teacher.network.weight.dtype == torch.float32
    assert holder.teacher.network.weight.stride() == strides


def test_loading_takes_nothing_from_the_steps_randomness() -> None:
    task = Student()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert task.frozen.teacher.name == "counting"  # loads it, which seeds and draws
    assert torch.equal(torch.rand(3), expected)


def test_the_hash_is_of_names_types_weights_and_facts() -> None:
    first = counting("a", [1, 2]).hash
    assert counting("a", [1, 2]).hash == first == fingerprint(Counting(), ["a", [1, 2]])
    assert counting("a", [2, 1]).hash != first
    changed = Counting()
    with torch.no_grad():
        changed.layers[0].bias[3] += 1e-6
    assert fingerprint(changed, ["a", [1, 2]]) != first
    assert fingerprint(Counting().double(), ["a", [1, 2]]) != first
    assert fingerprint(nn.Sequential(Counting()), ["a", [1, 2]]) != first


# --- features that are kept


def kept(teacher: Teacher, folder: Path, **options: str) -> Cache:
    return Cache(teacher, teacher, (4,), folder=folder, **options)


def digests(inputs: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(digest(row.numpy())) for row in inputs])


def test_features_are_computed_once_and_are_the_teachers(tmp_path: Path) -> None:
    made, inputs = counting(), rows(40)
    first = kept(made, tmp_path).features(inputs, digests(inputs))
    assert made.network.seen == [32, 32]
    assert torch.equal(kept(made, tmp_path).features(inputs, digests(inputs)), first)
    some = torch.tensor([39, 3, 17])
    assert torch.equal(kept(made, tmp_path).features(inputs[some], digests(inputs[some])), first[some])
    assert made.network.seen == [32, 32]
    torch.testing.assert_close(first, made(inputs), atol=1e-6, rtol=1e-6)
    assert not first.requires_grad

    fresh = kept(made, tmp_path / "other")
    for part in inputs.split(7):  # in another company
        assert torch.equal(fresh.features(part, digests(part)), kept(made, tmp_path).features(part, digests(part)))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied", "another shape", "text"])
def test_a_damaged_entry_is_computed_again(damage: str, tmp_path: Path) -> None:
    made, inputs = counting(), rows(3)
    entries = kept(made, tmp_path)
    first = entries.features(inputs, digests(inputs))
    path = entries.path(bytes(digests(inputs)[1].tolist()), torch.device("cpu"))
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-2] ^= 1
        path.write_bytes(content)
    elif damage == "another shape":
        save_file({"features": torch.zeros(5), "check": load_file(path)["check"]}, path)
    else:
        path.write_bytes({"truncated": content[:-9], "emptied": b"", "text": b"not a tensor" * 9}[damage])
    made.network.seen.clear()
    with pytest.warns(UserWarning, match="is damaged and is made again"):
        assert torch.equal(entries.features(inputs, digests(inputs)), first)
    assert made.network.seen == [32]
    assert torch.equal(entries.features(inputs, digests(inputs)), first)
    assert made.network.seen == [32]


def test_another_teacher_precision_and_option_have_entries_of_their_own(tmp_path: Path) -> None:
    inputs = rows(2)
    first = kept(counting(), tmp_path).features(inputs, digests(inputs))
    kept(counting("other"), tmp_path).features(inputs, digests(inputs))
    kept(counting(), tmp_path, options="layer 2").features(inputs, digests(inputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = kept(counting(), tmp_path).features(inputs, digests(inputs))
    assert 0 < (rough - first).abs().max() < 0.05
    assert len(list(tmp_path.iterdir())) == 4
    assert torch.equal(kept(counting(), tmp_path).features(inputs, digests(inputs)), first)


def test_a_cache_that_cannot_be_written_costs_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    made, inputs = counting(), rows(2)
    features = kept(made, tmp_path / "file" / "cache").features(inputs, digests(inputs))
    torch.testing.assert_close(features, made(inputs), atol=1e-6, rtol=1e-6)


def test_by_default_features_lie_with_all_that_can_be_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path))
    made, inputs = counting(), rows(2)
    Cache(made, made, (4,)).features(inputs, digests(inputs))
    assert [usage.owner for usage in cache.report()] == ["features"]


def test_digests_tell_contents_shapes_and_types_apart() -> None:
    one = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    other = one.copy()
    other[31, 31, 2] ^= 1
    assert np.array_equal(digest(one), digest(np.asfortranarray(one)))
    different = [one, other, one.reshape(16, 64, 3), one.view(np.int8), one.astype(np.float32)]
    assert len({digest(values).tobytes() for values in different}) == 5
    assert digest(one).shape == (16,)
