"""Scores, against scikit-learn, SciPy, exhaustive search and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as reference

from unlabel.evaluate import metrics


@pytest.fixture
def predictions():
    draw = np.random.default_rng(0)
    labels = draw.choice(5, 200, p=[0.5, 0.3, 0.1, 0.05, 0.05])
    return np.where(draw.random(200) < 0.6, labels, draw.integers(0, 5, 200)), labels


def test_scores_match_scikit_learn(predictions):
    guessed, labels = predictions
    pair = torch.tensor(guessed), torch.tensor(labels)
    assert metrics.accuracy(*pair) == pytest.approx(reference.accuracy_score(labels, guessed))
    assert metrics.balanced_accuracy(*pair) == pytest.approx(reference.balanced_accuracy_score(labels, guessed))
    assert metrics.confusion(*pair, 5).tolist() == reference.confusion_matrix(labels, guessed).tolist()


def test_guessing_the_largest_class_has_balanced_accuracy_of_chance():
    labels = torch.tensor([0] * 97 + [1, 2, 3])
    assert metrics.balanced_accuracy(torch.zeros(100, dtype=torch.int64), labels) == 0.25


def test_classes_without_samples_do_not_count():
    assert metrics.balanced_accuracy(torch.tensor([0, 7, 2]), torch.tensor([0, 0, 2])) == 0.75


def test_confusion_has_labels_in_rows_and_keeps_empty_classes():
    table = metrics.confusion(torch.tensor([2, 2, 0]), torch.tensor([1, 1, 0]), 4)
    assert table.shape == (4, 4)
    assert table[1, 2] == 2
    assert table.sum() == 3


def test_top_k_grows_from_accuracy_to_one():
    ranked = torch.rand(300, 6, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    labels = torch.arange(300) % 6
    scores = [metrics.top_k_accuracy(ranked, labels, k) for k in range(1, 7)]
    assert scores == sorted(scores)
    assert scores[0] == metrics.accuracy(ranked[:, 0], labels)
    assert scores[2] == pytest.approx(0.5, abs=0.09)  # 3 standard errors of 300 draws
    assert scores[5] == 1


def test_renaming_clusters_changes_no_score():
    draw = np.random.default_rng(0)
    labels = torch.tensor(draw.integers(0, 4, 100))
    clusters = torch.tensor(np.where(draw.random(100) < 0.7, labels, draw.integers(0, 4, 100)))
    renamed = torch.tensor([2, 3, 1, 0])[clusters]
    for score in (metrics.mutual_information, metrics.adjusted_rand, metrics.clustering_accuracy):
        assert score(renamed, labels) == pytest.approx(score(clusters, labels))
        assert score(torch.tensor([3, 0, 2, 1])[labels], labels) == pytest.approx(1)


def test_clustering_accuracy_is_the_best_of_all_namings():
    draw = np.random.default_rng(1)
    labels, clusters = draw.integers(0, 4, 60), draw.integers(0, 4, 60)
    best = max(float((np.array(names)[clusters] == labels).mean()) for names in itertools.permutations(range(4)))
    assert metrics.clustering_accuracy(torch.tensor(clusters), torch.tensor(labels)) == pytest.approx(best)


def test_surplus_clusters_count_as_errors():
    clusters, labels = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1])
    assert metrics.clustering_accuracy(clusters, labels) == 0.5


def test_interval_is_student_t():
    values = [0.71, 0.74, 0.69, 0.73]
    mean, half = metrics.interval(values, 0.9)
    low, high = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_one_run_says_nothing_about_the_spread():
    assert metrics.interval([0.5]) == (0.5, math.inf)


def test_interval_holds_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(0)
    intervals = [metrics.interval(draw.normal(size=3).tolist(), 0.8) for _ in range(400)]
    share = np.mean([abs(mean) <= half for mean, half in intervals])
    assert share == pytest.approx(0.8, abs=0.06)  # 3 standard errors of 400 trials
