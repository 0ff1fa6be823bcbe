"""Pictures: lines and dots are where they should be, with soft edges, the same as without a bounding box."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabel_trajectory import drawing
from unlabel_trajectory.drawing import Canvas
from unlabel_trajectory.encoders.gpt import TrackGPT
from unlabel_trajectory.tasks.destination import Destination
from unlabel_trajectory.tasks.next_position import NextPosition

SQUARE = np.array([[0.0, 0.0], [10.0, 10.0]])


def test_a_line_covers_its_pixels_and_no_others() -> None:
    canvas = Canvas(SQUARE, size=100)
    canvas.line(np.array([[0.0, 5.0], [10.0, 5.0]]), (0, 0, 0), width=2.0)
    dark = canvas.image()[:, :, 0] < 255
    rows, columns = np.nonzero(dark)
    assert set(rows) <= {48, 49, 50, 51}
    assert (columns.min(), columns.max()) == (7, 92)
    assert (canvas.image()[49:51, 10:90] == 0).all()


def test_y_points_up_and_both_axes_have_one_scale() -> None:
    canvas = Canvas(np.array([[0.0, 0.0], [20.0, 10.0]]), size=100)
    low, high = canvas.place(np.array([[0.0, 0.0], [20.0, 10.0]]))
    assert low[1] > high[1]
    assert high[0] - low[0] == pytest.approx(2 * (low[1] - high[1]))


def test_edges_are_soft_and_strength_lets_the_ground_shine_through() -> None:
    canvas = Canvas(SQUARE, size=100)
    canvas.line(SQUARE, (0, 0, 0), width=3.0, strength=0.5)
    values = np.unique(canvas.image())
    assert values.min() == 128
    assert ((values > 128) & (values < 255)).any()


def test_nothing_depends_on_where_drawing_is_cut_off() -> None:
    """Distances over the whole canvas, without the bounding boxes, give the same picture."""
    points = np.random.default_rng(0).normal(size=(9, 2))
    canvas, whole = Canvas(points, size=64), Canvas(points, size=64)
    whole._near = lambda *_: (slice(0, 64), slice(0, 64))  # type: ignore[method-assign]
    for one in (canvas, whole):
        one.line(points, (10, 20, 30), width=2.5, strength=0.7)
        one.dots(points, (200, 100, 0), radius=3.0)
    assert np.array_equal(canvas.image(), whole.image())


def test_standing_still_and_leaving_the_canvas_are_drawn_without_complaint() -> None:
    canvas = Canvas(np.zeros((3, 2)), size=32)
    canvas.line(np.zeros((3, 2)), (0, 0, 0))
    canvas.line(np.array([[-1e9, 0.0], [1e9, 0.0]]), (0, 0, 0))
    canvas.dots(np.full((1, 2), 1e6), (0, 0, 0))
    assert canvas.image().shape == (32, 32, 3)


# What tasks show


def _batch() -> dict[str, Tensor]:
    """Four tracks of twenty steps in two scenes; the first stands, the others walk on curves."""
    time = torch.linspace(0, 3, 20)
    walked = torch.stack([time * 2, torch.sin(time)], dim=-1)
    tracks = torch.stack([torch.zeros(20, 2), walked, walked.flip(-1) + 5, -walked])
    return {"track": tracks, "scene": torch.tensor([0, 0, 1, 1])}


def _task(kind: type[Any]) -> Any:
    torch.manual_seed(0)
    return kind(TrackGPT(dim=16, depth=1, hidden=16)).eval()


def _coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture == colour).all(axis=-1))  # (n, 2), rows and columns


@pytest.mark.parametrize("kind", [Destination, NextPosition])
def test_every_scenes_walkers_are_shown_with_truth_and_prediction(kind: type[Any]) -> None:
    task, batch = _task(kind), _batch()
    before = torch.random.get_rng_state()
    pictures = task.pictures(batch)
    assert torch.equal(torch.random.get_rng_state(), before)
    named = {Destination: ["destinations"], NextPosition: ["next positions", "forecast"]}[kind]
    tracks = ["scene 0, track 0", "scene 1, track 0", "scene 0, track 1", "scene 1, track 1"]
    assert list(pictures) == [f"{what}, {track}" for what in named for track in tracks]
    for name, picture in pictures.items():
        assert (picture.shape, picture.dtype) == ((256, 256, 3), np.uint8)
        assert len(_coloured(picture, drawing._FUTURE)) > 3, name
        assert "track 1" in name or len(_coloured(picture, drawing._TRUTH)) > 20, name


def test_a_destination_is_drawn_where_it_is_predicted() -> None:
    task, batch = _task(Destination), _batch()
    torch.nn.init.zeros_(task.destination.head[-1].weight)
    task.destination.head[-1].bias.data = torch.tensor([[10.0, 4.0]]).repeat(20, 1).flatten()
    picture = task.pictures(batch)["destinations, scene 1, track 0"]
    track = (batch["track"][2] - batch["track"][2, 7]).numpy()
    canvas = Canvas(np.concatenate([track, [[10.0, 4.0]]]))
    column, row = canvas.place(np.array([[10.0, 4.0]]))[0]
    found = _coloured(picture, drawing._FUTURE)
    assert np.hypot(*(found - [row, column]).T).min() < 1.5


def test_each_next_position_is_drawn_from_the_position_before_it() -> None:
    """One step to the right is always expected, of a track that goes straight up."""
    track = torch.stack([torch.zeros(6), torch.arange(6.0)], dim=-1)[None]
    expected = track[:, :-1] + torch.tensor([1.0, 0.0])
    [picture] = drawing.next_positions(track, expected, {"track": track}).values()
    canvas = Canvas(np.concatenate([track[0].numpy(), expected[0].numpy()]))
    for place in expected[0].numpy():
        column, row = canvas.place(place[None])[0].astype(int)
        assert tuple(picture[row, column]) == drawing._FUTURE
    for place in track[0, 1:].numpy():
        column, row = canvas.place(place[None])[0].astype(int)
        assert tuple(picture[row, column]) == drawing._TRUTH, "the prediction's line begins on the true position"
