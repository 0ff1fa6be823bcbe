"""Drawing into arrays: lines and dots are where they should be, with soft edges, and every picture at its place."""

from __future__ import annotations

import numpy as np
import pytest

from unlabel.show import drawing
from unlabel.show.drawing import Canvas

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


def test_a_contact_sheet_holds_every_picture_at_its_place() -> None:
    pictures = np.stack([np.full((4, 6, 3), number, np.uint8) for number in range(5)])
    sheet = drawing.contact_sheet(pictures, columns=3, gap=1)
    assert sheet.shape == (9, 20, 3)
    assert (sheet[5:9, 7:13] == 4).all()
    assert (sheet[4] == 255).all()
    assert (sheet[5:9, 14:] == 255).all()


def test_a_picture_is_halved_by_means() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    small = drawing.halved(picture)
    assert small.shape == (4, 3, 3)
    for row, column in np.ndindex(4, 3):
        block = picture[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(4, 3)
        assert np.array_equal(small[row, column], np.floor(block.sum(axis=0) / 4 + 0.5))


@pytest.mark.parametrize("shape", [(20, 31, 3), (64, 64, 3), (500, 200, 3)])
def test_a_square_is_the_middle_of_a_picture(shape: tuple[int, int, int]) -> None:
    picture = np.zeros(shape, np.uint8)
    side = min(shape[:2])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    picture[top : top + side, left : left + side] = 200
    picture[top : top + side // 2, left : left + side // 2] = 100
    small = drawing.square(picture, 32)
    assert small.shape == (32, 32, 3)
    assert small[1, 1].tolist() == [100] * 3
    assert small[30, 30].tolist() == [200] * 3


def test_dots_of_a_scatter_have_their_classes_colours_and_the_unlabelled_lie_below() -> None:
    places = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), axis=-1).reshape(-1, 2)
    labels = np.full(100, -1)
    labels[[0, 99]] = 0, 11
    picture = drawing.scatter(places, labels, side=200, dot=2)
    assert picture[6, 6].tolist() == drawing.COLOURS[0].tolist(), "the first column and row are left and above"
    assert picture[193, 193].tolist() == drawing.COLOURS[1].tolist(), "eleven is the first colour but ten again"
    grey = (picture == 205).all(axis=-1)
    assert grey.any()
    assert not grey[:9, :9].any()
