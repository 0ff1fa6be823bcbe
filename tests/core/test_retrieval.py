"""Retrieval across two outputs, against closed forms and a plain loop over all orders of tied candidates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from blobs import Points, frozen
from torch import Tensor

from unlabel.data import Dataset, Subset
from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel.evaluate.retrieval import expected_rank, places, recall, retrieval
from unlabel.task import Batch, Rows, Sample, Task

DEPTHS = (1, 5, 10)


class Described(Dataset):
    """Samples with a picture each and some texts; everything is held out but the first."""

    def __init__(self, pictures: Sequence[Sequence[float]], texts: Sequence[Sequence[Sequence[float]]]) -> None:
        self.pictures, self.texts = pictures, texts

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        return {"picture": np.array(self.pictures[index]), "texts": np.array(self.texts[index])}

    def collate(self, samples: list[Sample]) -> Batch:
        owner = [place for place, sample in enumerate(samples) for _ in sample["texts"]]
        texts = [text for sample in samples for text in sample["texts"]]
        pictures = torch.from_numpy(np.stack([sample["picture"] for sample in samples]))
        width = pictures.shape[1]
        stacked = torch.from_numpy(np.stack(texts)) if texts else torch.zeros(0, width)
        return {"picture": pictures, "texts": stacked, "owner": torch.tensor(owner, dtype=torch.int64)}

    def split(self, name: str) -> Dataset | None:
        return Subset(self, [0]) if name == "train" else Subset(self, range(len(self)))


class Given(Task):
    """Gives what the samples hold."""

    outputs = ("image", "text")

    def encode(self, batch: Batch, of: str = "image") -> Tensor | Rows:
        return batch["picture"] if of == "image" else Rows(batch["texts"], batch["owner"])


def judged(pictures: Sequence[Sequence[float]], texts: Sequence[Sequence[Sequence[float]]], size: int = 2) -> Frozen:
    return frozen(Described(pictures, texts), Given(), batch_size=size)


def angle(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def by_loop(query: Tensor, of: Tensor, candidates: Tensor, sample: Tensor) -> tuple[list[list[float]], list[float]]:
    """Recalls at depths 1, 2, 3 and the expected rank of each query, over all orders of all candidates."""
    recalls, ranks = [], []
    for row, own in zip(query, of, strict=True):
        cosines = torch.nn.functional.cosine_similarity(row[None], candidates, dim=1).round(decimals=5).tolist()
        orders = [
            order
            for order in itertools.permutations(range(len(sample)))
            if all(cosines[a] >= cosines[b] for a, b in itertools.pairwise(order))
        ]
        firsts = [next(place for place, index in enumerate(order) if sample[index] == own) for order in orders]
        recalls.append([sum(first < depth for first in firsts) / len(orders) for depth in (1, 2, 3)])
        ranks.append(1 + sum(firsts) / len(orders))
    return recalls, ranks


@pytest.mark.parametrize("seed", range(8))
def test_ties_count_as_their_mean_over_all_orders(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    query, candidates = torch.randint(-1, 2, (5, 2), generator=draw), torch.randint(-1, 2, (6, 2), generator=draw)
    query, candidates = query.double() + 0.1, candidates.double() + 0.1
    sample = torch.tensor([0, 1, 1, 2, 3, 3])
    of = torch.tensor([0, 1, 2, 3, 3])
    at = places(query, of, candidates, sample)
    recalls, ranks = by_loop(query, of, candidates, sample)
    for column, depth in enumerate((1, 2, 3)):
        torch.testing.assert_close(recall(at, depth), torch.tensor([r[column] for r in recalls], dtype=torch.float64))
    torch.testing.assert_close(expected_rank(at), torch.tensor(ranks, dtype=torch.float64))


def test_what_finds_everything_has_recall_one_and_rank_one() -> None:
    numbers = retrieval(judged([angle(0), angle(40), angle(80)], [[angle(5)], [angle(41)], [angle(70)]]))
    for way in ("image_to_text", "text_to_image"):
        assert [numbers[f"{way}_recall@{depth}"] for depth in DEPTHS] == [1, 1, 1]
        assert numbers[f"{way}_median_rank"] == 1
        assert numbers[f"{way}_chance_recall@1"] == pytest.approx(1 / 3)


def test_the_same_features_for_all_have_exactly_the_recall_of_chance() -> None:
    count, texts = 20, [1, 2, 3, 2] * 5
    numbers = retrieval(judged([[1.0, 2.0]] * count, [[[3.0, 6.0]] * n for n in texts], size=7))
    total = sum(texts)
    assert numbers["image_to_text_recall@1"] == pytest.approx(sum(n / total for n in texts) / count)
    assert numbers["image_to_text_recall@1"] == pytest.approx(numbers["image_to_text_chance_recall@1"])
    hit = [1 - math.comb(total - n, 5) / math.comb(total, 5) for n in texts]
    assert numbers["image_to_text_recall@5"] == pytest.approx(sum(hit) / count)
    for depth in DEPTHS:
        assert numbers[f"text_to_image_recall@{depth}"] == pytest.approx(depth / count)
    assert numbers["text_to_image_median_rank"] == pytest.approx((count + 1) / 2)


def test_any_text_of_a_sample_is_a_right_answer_and_each_is_a_query() -> None:
    numbers = retrieval(judged([angle(0), angle(90)], [[angle(80), angle(10)], [angle(60)]]))
    assert numbers["image_to_text_recall@1"] == pytest.approx(1 / 2)  # 0 finds its 10, 90 is nearer to 80 than to 60
    assert numbers["image_to_text_median_rank"] == pytest.approx(1.5)
    assert numbers["text_to_image_recall@1"] == pytest.approx(2 / 3)  # 80 goes to the wrong one
    assert (numbers["text_to_image_queries"], numbers["text_to_image_candidates"]) == (3, 2)
    assert (numbers["image_to_text_queries"], numbers["image_to_text_candidates"]) == (2, 3)
    assert numbers["image_to_text_chance_recall@1"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_a_sample_without_text_is_no_query_and_still_in_the_way() -> None:
    numbers = retrieval(judged([angle(0), angle(90), angle(12)], [[angle(10)], [angle(85)], []], size=1))
    assert numbers["image_to_text_queries"] == 2
    assert numbers["image_to_text_recall@1"] == 1
    assert numbers["text_to_image_candidates"] == 3
    assert numbers["text_to_image_recall@1"] == pytest.approx(1 / 2)  # 10 is nearer to the one without


def test_a_single_candidate_is_found_and_that_is_chance() -> None:
    numbers = retrieval(judged([angle(0)], [[angle(180)]]))
    assert numbers["image_to_text_recall@1"] == numbers["image_to_text_chance_recall@1"] == 1
    assert numbers["text_to_image_median_rank"] == 1


def test_chance_is_what_random_features_have() -> None:
    draw, count = np.random.default_rng(0), 400
    pictures, texts = draw.normal(size=(count, 8)), draw.normal(size=(count, 3, 8))
    numbers = retrieval(judged(pictures.tolist(), texts.tolist(), size=50))
    assert numbers["image_to_text_chance_recall@1"] == pytest.approx(1 / count)
    assert numbers["image_to_text_recall@10"] == pytest.approx(10 / count, abs=4 * math.sqrt(10) / count)
    assert numbers["text_to_image_median_rank"] == pytest.approx(count / 2, rel=0.15)


def test_scale_does_not_matter_and_blocks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    pictures, texts = draw.normal(size=(12, 4)), draw.normal(size=(12, 2, 4))
    numbers = retrieval(judged(pictures.tolist(), texts.tolist()))
    assert retrieval(judged((9 * pictures).tolist(), (0.1 * texts).tolist())) == numbers
    monkeypatch.setattr("unlabel.evaluate.retrieval._NUMBERS_AT_ONCE", 30)
    assert retrieval(judged(pictures.tolist(), texts.tolist())) == numbers


def test_outputs_are_chosen_by_name() -> None:
    view = judged([angle(0), angle(40)], [[angle(5)], [angle(41)]])
    assert set(retrieval(view, first="text")) == set(retrieval(view))
    assert next(iter(retrieval(view, second="image"))).startswith("text_to_image")


class Narrow(Given):
    def encode(self, batch: Batch, of: str = "image") -> Tensor | Rows:
        rows = super().encode(batch, of)
        return rows if isinstance(rows, Rows) else rows[:, :1]


class Blind(Described):
    def split(self, name: str) -> Dataset | None:
        return super().split(name) if name == "train" else None


@pytest.mark.parametrize(
    ("view", "options", "says"),
    [
        (lambda: frozen(), {}, "two outputs of a task, and this one has one"),
        (lambda: judged([angle(0)], [[angle(0)]]), {"first": "txet"}, "no output 'txet'.*did you mean text"),
        (lambda: judged([angle(0)], [[angle(0)]]), {"first": "text", "second": "text"}, "from 'text' to itself"),
        (lambda: judged([angle(0)], [[]]), {}, "no held-out sample has both image and text"),
        (lambda: frozen(Described([angle(0)], [[angle(0)]]), Narrow()), {}, "'image' has 1 numbers and 'text' 2"),
        (
            lambda: frozen(Blind([angle(0)], [[angle(0)]]), Given()),
            {},
            "Blind has no test part, .*--set dataset.holdout",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(view, options, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=says) as refusal:
        retrieval(view(), **options)
    assert "\n" not in str(refusal.value)
    assert "label" not in str(refusal.value)


def test_it_is_found_by_name() -> None:
    from unlabel import Catalog

    assert Catalog.installed().load("evaluations", "retrieval") is retrieval
    assert Points.outputs == ()
