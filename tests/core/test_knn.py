"""Weighted nearest neighbours, against a plain loop, closed forms, and a published implementation."""

import math

import numpy as np
import pytest
import torch
from blobs import Blobs, Points, frozen

from unlabel.errors import UsageError
from unlabel.evaluate import knn as module
from unlabel.evaluate.knn import knn, predict


def votes_by_loop(bank, labels, query, k, temperature, classes):
    votes = np.zeros((len(query), classes))
    for row, one in enumerate(query):
        cosines = [float(one @ other) / math.sqrt(float(one @ one) * float(other @ other)) for other in bank]
        for index in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
            votes[row, labels[index]] += math.exp(cosines[index] / temperature)
    return votes


def test_ranking_matches_a_loop_in_float64():
    draw = np.random.default_rng(0)
    bank, query, labels = draw.normal(size=(50, 6)), draw.normal(size=(20, 6)), draw.integers(0, 5, 50)
    ranked = predict(torch.tensor(bank), torch.tensor(labels), torch.tensor(query), 15, 0.1, 5)
    votes = votes_by_loop(bank, labels, query, 15, 0.1, 5)
    assert ranked.tolist() == np.argsort(-votes, axis=1, kind="stable").tolist()


def test_ranking_matches_golden(shared):
    data = np.load(shared / "golden/vision-survey/knn_predict.npz")
    bank, labels, query = (torch.from_numpy(data[name]) for name in ("bank", "labels", "query"))
    ranked = predict(bank, labels, query, int(data["k"]), float(data["t"]), int(data["num_classes"]))
    assert ranked.tolist() == data["pred_ranked_classes"].tolist()


def test_temperature_decides_between_one_near_and_two_far_neighbours():
    angles = torch.tensor([0.1, 0.5, -0.5])
    bank, labels = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([1, 0, 0])
    query = torch.tensor([[1.0, 0.0]])
    assert predict(bank, labels, query, 3, 0.07, 2)[0, 0] == 1  # exp(.995 / t) > 2 exp(.878 / t)
    assert predict(bank, labels, query, 3, 1.0, 2)[0, 0] == 0
    assert predict(bank, labels, query, 3, 1e-9, 2)[0, 0] == 1  # exp would overflow if taken of cosine / t


def test_scale_of_features_does_not_matter():
    draw = torch.Generator().manual_seed(0)
    bank, query = torch.randn(30, 5, generator=draw), torch.randn(9, 5, generator=draw)
    labels = torch.arange(30) % 3
    scaled = bank * torch.rand(30, 1, generator=draw).add(0.5)
    expected = predict(bank, labels, query, 7, 0.07, 3)
    assert torch.equal(predict(scaled, labels, query * 100, 7, 0.07, 3), expected)


def test_chunks_do_not_change_the_result(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    bank, query, labels = torch.randn(40, 5, generator=draw), torch.randn(33, 5, generator=draw), torch.arange(40) % 4
    expected = predict(bank, labels, query, 9, 0.07, 4)
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", 200)
    assert torch.equal(predict(bank, labels, query, 9, 0.07, 4), expected)


def test_all_neighbours_and_high_temperature_predict_the_largest_class():
    draw = torch.Generator().manual_seed(0)
    bank, query = torch.randn(30, 5, generator=draw), torch.randn(9, 5, generator=draw)
    labels = torch.tensor([0] * 9 + [1] * 12 + [2] * 9)
    assert (predict(bank, labels, query, 30, 1e6, 3)[:, 0] == 1).all()


@pytest.mark.parametrize(("k", "temperature"), [(0, 0.1), (4, 0.1), (2, 0.0)])
def test_values_out_of_range_are_usage_errors(k, temperature):
    with pytest.raises(UsageError):
        predict(torch.eye(3), torch.arange(3), torch.eye(3), k, temperature, 3)


def test_evaluation_knows_the_classes_of_separate_blobs():
    result = knn(frozen(Blobs(spread=0.01)))
    assert result == {"accuracy": 1.0, "balanced_accuracy": 1.0, "k": 20.0}


def test_evaluation_uses_no_more_neighbours_than_there_are():
    assert knn(frozen(limit={"train": 12}))["k"] == 12


def test_raw_inputs_are_the_control():
    class Blind(Points):
        def encode(self, batch):
            return torch.ones(len(batch["x"]), 3)

    view = frozen(Blobs(spread=0.01), Blind())
    assert knn(view)["accuracy"] == 0.25  # every vote ties; classes are equally large
    assert knn(view, inputs="raw")["accuracy"] == 1.0
