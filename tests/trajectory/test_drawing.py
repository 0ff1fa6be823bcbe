"""Pictures of forecasts: each track's own, with what was observed, what came and what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabel.show.drawing import Canvas
from unlabel_trajectory import drawing
from unlabel_trajectory.encoders.gpt import TrackGPT
from unlabel_trajectory.tasks.destination import Destination
from unlabel_trajectory.tasks.next_position import NextPosition


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
    pictures = task.show(batch)
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
    picture = task.show(batch)["destinations, scene 1, track 0"]
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
