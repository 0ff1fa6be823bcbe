"""Pictures: lines and dots are where they should be, with soft edges, the same as without a bounding box."""

from __future__ import annotations

import numpy as np
import pytest

from unlabel_trajectory.drawing import Canvas

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
