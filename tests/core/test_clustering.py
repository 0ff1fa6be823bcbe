"""k-means agreement with classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from blobs import CLASSES, Blobs, Points, frozen
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score

from unlabel.errors import UsageError
from unlabel.evaluate.clustering import assign, clustering


class Unlabelled(Blobs):
    def split(self, name):
        part = super().split(name)
        part.labels = part.classes = None
        return part


class Blind(Points):
    def encode(self, batch):
        return torch.ones(len(batch["x"]), 3)


def test_separate_blobs_are_found():
    result = clustering(frozen(Blobs(spread=0.01)))
    assert result == pytest.approx({"mutual_information": 1.0, "adjusted_rand": 1.0, "accuracy": 1.0})


def test_clusters_are_of_directions_not_lengths():
    number = torch.arange(60)
    lengths = torch.where(number % 3 == 0, 1000.0 + 2000 * (number % 2), 1.0)[:, None]  # the first has two lengths
    directions = torch.eye(3)[number % 3] + 0.05 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    found = assign(directions * lengths, directions, 3)
    assert len(torch.unique(found)) == 3
    assert all(len(torch.unique(found[start::3])) == 1 for start in range(3))


def test_labels_of_the_training_part_do_not_matter():
    data = Blobs(spread=1.0)
    before = clustering(frozen(data))
    data.labels = np.concatenate([data.labels[:160][::-1], data.labels[160:]])
    assert clustering(frozen(data)) == before


def test_shuffled_held_out_labels_score_at_chance():
    data = Blobs(count=400, held_out=200, spread=0.1)
    data.labels = np.concatenate([data.labels[:200], np.random.default_rng(0).permutation(data.labels[200:])])
    result = clustering(frozen(data))
    assert abs(result["adjusted_rand"]) < 0.05
    assert result["accuracy"] < 0.45


def test_the_same_seed_gives_the_same_clusters():
    data = Blobs(spread=2.0)
    assert clustering(frozen(data, seed=2)) == clustering(frozen(data, seed=2))


def test_without_labels_the_silhouette_says_how_separate_clusters_are():
    tight = frozen(Unlabelled(spread=0.01))
    score = clustering(tight, clusters=CLASSES)["silhouette"]
    rows, found = F.normalize(tight.features("train")[0], dim=1), np.arange(160) % CLASSES
    assert score == pytest.approx(silhouette_score(rows.numpy(), found), abs=1e-6)
    assert clustering(frozen(Unlabelled(spread=2.0)), clusters=CLASSES)["silhouette"] < score / 2


def test_without_labels_a_number_of_clusters_is_needed():
    with pytest.raises(UsageError, match="number of clusters"):
        clustering(frozen(Unlabelled()))


def test_collapsed_features_have_no_clusters():
    with pytest.warns(ConvergenceWarning):
        assert clustering(frozen(Unlabelled(), Blind()), clusters=3) == {"silhouette": 0.0}
    with pytest.warns(ConvergenceWarning):
        assert clustering(frozen(Blobs(), Blind()))["mutual_information"] == 0


def test_more_clusters_than_samples_is_a_usage_error():
    with pytest.raises(UsageError, match="161 clusters of 160"):
        clustering(frozen(), clusters=161)
