"""How a dataset is tried: samples read here and elsewhere, scribbled over, compared with labels and table."""

from __future__ import annotations

import contextlib
import json
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from unlabel import data, seeds
from unlabel.data import Dataset, Reader, Subset
from unlabel.task import Sample
from unlabel.testing import network
from unlabel.testing.checks.promise import NotApplicable
from unlabel.testing.compare import digests
from unlabel.testing.component import Component
from unlabel.testing.processes import pair
from unlabel.testing.reading import positions, read

__all__ = ["DatasetTrial"]


class DatasetTrial(Component):
    """A dataset, built as a `tiny` recipe builds it, or with its defaults."""

    @cached_property
    def dataset(self) -> Dataset:
        """The whole of it."""
        return self.prepared(self.chosen_ref("dataset"))

    def connections(self) -> list[str]:
        """What building it and reading from it tries to connect to."""
        with network.refused() as tried, contextlib.suppress(network.NetworkRefused):
            dataset = self.prepared(self.chosen_ref("dataset"))
            part = dataset.split("train") or dataset
            for index in self.few(part):
                self.sample(part, index)
        return tried

    @cached_property
    def parts(self) -> dict[str, Dataset]:
        """Its parts by name."""
        found = {name: self.dataset.split(name) for name in ("train", "test")}
        return {name: part for name, part in found.items() if part is not None}

    def sample(self, part: Dataset, index: int) -> Sample | str:
        """A sample, or why it cannot be used."""
        try:
            return part[index]
        except data.UNREADABLE as error:
            return data.reason(error)

    def few(self, part: Dataset) -> list[int]:
        """First, second, middle and last index."""
        return sorted({0, min(1, len(part) - 1), len(part) // 2, len(part) - 1})

    def elsewhere(self) -> list[dict[str, str]]:
        """Fingerprints of samples here, here again, and in two other processes."""
        part = self.parts["train"]
        reader, chosen = Reader(part, None, 0), positions(len(part))
        here = [read(reader, chosen) for _ in range(2)]
        return here + pair()(read, reader, chosen, group=False)

    def scribbled(self, part: Dataset, index: int) -> list[str]:
        """Fields of a sample that change when somebody writes into what was read before."""
        first = self.sample(part, index)
        if isinstance(first, str):
            return []
        before = digests(first)
        for value in first.values():
            if isinstance(value, np.ndarray) and value.flags.writeable:
                value[...] = np.zeros((), value.dtype)
            elif isinstance(value, Tensor):
                value.zero_()
        after = digests(self.sample(part, index))
        return sorted(name for name in before if before[name] != after.get(name))

    def shared(self) -> str:
        """How many test samples are training samples too, in words; empty if none is.

        Parts of one whole are compared by index, others by the content of up to 2,000 samples each.
        """
        train, test = self.parts["train"], self.parts["test"]
        if isinstance(train, Subset) and isinstance(test, Subset) and train.dataset is test.dataset:
            both = np.intersect1d(train.indices, test.indices)
            return f"{len(both)} of {len(test)} test samples are training samples too" if len(both) else ""
        seen = {json.dumps(digests(self.sample(train, index))) for index in range(min(2000, len(train)))}
        held = [json.dumps(digests(self.sample(test, index))) for index in range(min(2000, len(test)))]
        both_count = sum(digest in seen for digest in held)
        return f"{both_count} of the first {len(held)} test samples are training samples too" if both_count else ""

    def label_problems(self) -> list[str]:
        """What is wrong with labels and classes."""
        problems = []
        for name, part in {"whole": self.dataset, **self.parts}.items():
            labels, classes = part.labels, part.classes
            if labels is None:
                continue
            if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.ndim != 1:
                problems.append(f"labels of the {name} part: a one-dimensional array of int64 is expected")
            elif len(labels) != len(part):
                problems.append(f"the {name} part has {len(labels)} labels for {len(part)} samples")
            elif labels.min(initial=0) < -1:
                problems.append(f"labels of the {name} part: {labels.min()} is below -1, which is unlabelled")
            elif classes is not None and labels.max(initial=-1) >= len(classes):
                problems.append(f"label {labels.max()} of the {name} part has no name: `classes` has {len(classes)}")
            else:
                problems += [
                    f"sample {index} of the {name} part says label {own}, but labels[{index}] is {labels[index]}"
                    for index in self.few(part)
                    if isinstance(sample := self.sample(part, index), dict)
                    and (own := sample.get("label", labels[index])) != labels[index]
                ]
        return problems

    def leaks(self) -> list[str]:
        """Fields that hold the labels, as numbers or one-hot."""
        return sorted(name for name, (values, labels) in self._fields().items() if _tells(values, labels))

    def _fields(self) -> dict[str, tuple[Tensor, np.ndarray]]:
        """What a task would get, by field: values of some or all samples, and the labels of the same samples."""
        part = self.parts["train"]
        labels = part.labels
        if labels is None:
            raise NotApplicable("it has no labels")
        if self.label_problems():
            raise NotApplicable(f"its labels are at fault, see {self.name}-labels_fit")
        few = seeds.permutation(len(part), 0)[:64].tolist()  # not in an order of its own, which may want another size
        batch, _ = Reader(part, None, 0).read([(0, index) for index in few])
        shared, table = part.context(), part.table() or {}
        whole = {name: value for name, value in [*shared.items(), *table.items()] if isinstance(value, Tensor)}
        own = {name: value for name, value in batch.items() if name not in ("index", "key", *shared)}
        chosen = labels[batch["index"].numpy()]
        every = {name: (value, labels) for name, value in whole.items()}
        return every | {name: (value, chosen) for name, value in own.items() if isinstance(value, Tensor)}

    def table_differences(self) -> list[str]:
        """Fields in which the `table` and the samples read one by one differ."""
        part = self.parts["train"]
        table = part.table()
        if table is None:
            raise NotApplicable("it has no table()")
        wrong = {
            f"{name} has {len(column)} rows for {len(part)} samples"
            for name, column in table.items()
            if len(column) != len(part)
        }
        if wrong:
            return sorted(wrong)
        for index in self.few(part):
            read = part.collate([{name: value for name, value in part[index].items() if name != "label"}])
            wrong |= {f"{name} is only in one of them" for name in read.keys() ^ table.keys()}
            for name in read.keys() & table.keys():
                if digests(read[name][0]) != digests(table[name][index]):
                    wrong.add(f"{name} of sample {index}")
        return sorted(wrong)

    def may_claim(self) -> bool:
        """Whether it has a say about paths."""
        return self.target.claims.__func__ is not Dataset.claims.__func__  # type: ignore[attr-defined]

    def claimed(self) -> dict[str, Any]:
        """What `claims` says about an empty folder, a text file and a path that is not there."""
        folder = self.room()
        empty, text = folder / "empty", folder / "notes.txt"
        empty.mkdir()
        text.write_text("nothing to see\n", encoding="utf-8")
        asked = {"an empty folder": empty, "a text file": text, "a path that does not exist": folder / "absent"}
        return {words: self.target.claims(path) for words, path in asked.items()}


def _tells(values: Tensor, labels: np.ndarray) -> bool:
    """Whether a field's values are the labels: the same numbers, or one-hot."""
    if len(values) != len(labels) or len(np.unique(labels)) < 2:
        return False
    rows = values.reshape(len(values), -1).double().numpy()
    if rows.shape[1] == 1:
        return bool((rows[:, 0] == labels).all())
    one_hot = ((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all()
    return bool(one_hot and (rows.argmax(1) == labels).all())
