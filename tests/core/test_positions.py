"""Position tables: the published numbers, the conventions, resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabel.errors import UsageError
from unlabel.nn import positions, transformer

CASES = [("pe_d32_g4_cls", 32, 4, True), ("pe_d48_g14", 48, 14, False), ("pe_d16_g3", 16, 3, False)]


@pytest.mark.parametrize(("name", "dim", "side", "class_row"), CASES)
def test_tables_match_the_published_ones(shared, name, dim, side, class_row):
    golden = np.load(shared / "golden/vision-mae/sincos.npz")[name]
    exact = positions.sincos(dim, (side, side), class_row=class_row, dtype=torch.float64)
    single = positions.sincos(dim, (side, side), class_row=class_row)
    assert single.dtype == torch.float32
    assert np.allclose(exact.numpy(), golden, rtol=0, atol=1e-12)
    assert np.allclose(single.numpy(), golden, rtol=0, atol=1e-6)


def _code(position: int, dim: int) -> list[float]:
    angles = [position / 10000 ** (i / (dim // 2)) for i in range(dim // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


@settings(max_examples=20, deadline=None)
@given(
    grid=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    quarter=st.integers(1, 3),
    first=st.sampled_from(["xy", "yx"]),
)
def test_each_axis_fills_its_part_of_the_row(grid, quarter, first):
    dim = 2 * quarter * len(grid)
    table = positions.sincos(dim, grid, order=first, dtype=torch.float64)
    for row, place in enumerate(np.ndindex(*grid)):
        axes = reversed(place) if first == "xy" else place
        expected = [number for position in axes for number in _code(position, 2 * quarter)]
        assert np.allclose(table[row].numpy(), expected, rtol=0, atol=1e-12)


def test_the_two_orders_are_swapped_halves():
    table, other = positions.sincos(32, (4, 5)), positions.sincos(32, (4, 5), order="yx")
    assert torch.equal(table, torch.cat([other[:, 16:], other[:, :16]], dim=1))
    assert not torch.equal(table, other)


def test_the_class_row_is_zero_and_first():
    table = positions.sincos(16, (3, 3), class_row=True)
    assert torch.equal(table[0], torch.zeros(16))
    assert torch.equal(table[1:], positions.sincos(16, (3, 3)))


@pytest.mark.parametrize(
    ("dim", "grid", "order"),
    [
        (30, (4, 4), "xy"),
        (0, (4,), "xy"),
        (16, (4, 4, 4), "xy"),
        (16, (2, 2, 2, 2), "xy"),
        (16, (), "xy"),
        (16, (4, 4), "zy"),
    ],
)
def test_impossible_tables_are_refused(dim, grid, order):
    with pytest.raises(UsageError):
        positions.sincos(dim, grid, order=order)


def _cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, which bicubic interpolation means here."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def _weights(old: int, new: int) -> np.ndarray:
    matrix = np.zeros((new, old))
    for target in range(new):
        centre = (target + 0.5) * old / new - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[target, min(max(tap, 0), old - 1)] += _cubic(centre - tap)
    return matrix


@pytest.mark.parametrize("new", [(6, 6), (3, 7)])
def test_interpolation_is_bicubic_between_pixel_centres(new):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(2 + 4 * 5, 8, generator=generator, dtype=torch.float64)
    ours = positions.interpolate(table, (4, 5), new, prefix_tokens=2)
    plane = table[2:].numpy().reshape(4, 5, 8)
    expected = np.einsum("ir,jc,rcd->ijd", _weights(4, new[0]), _weights(5, new[1]), plane)
    assert torch.equal(ours[:2], table[:2])
    assert np.allclose(ours[2:].numpy(), expected.reshape(-1, 8), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [((6,), (11,)), ((3, 4, 5), (4, 6, 3)), ((3, 4, 5), (3, 2, 5))])
def test_interpolation_is_cubic_along_each_axis_of_lines_and_volumes(old, new):
    table = torch.randn(2, 1 + math.prod(old), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = positions.interpolate(table, old, new)
    assert torch.equal(ours[:, :1], table[:, :1])
    rows = table[:, 1:].numpy().reshape(2, *old, 3)
    for axis, (few, many) in enumerate(zip(old, new, strict=True), start=1):
        rows = np.moveaxis(np.tensordot(_weights(few, many), rows, (1, axis)), 0, axis)
    assert np.allclose(ours[:, 1:], rows.reshape(2, -1, 3), rtol=0, atol=1e-12)


def test_interpolation_between_grids_of_other_axes_is_refused():
    with pytest.raises(UsageError, match=r"grid \(4, 4\) cannot be resampled to \(16,\)"):
        positions.interpolate(torch.zeros(17, 8), (4, 4), (16,))


def test_interpolation_keeps_the_batch_axis_and_gradients_and_the_same_grid():
    table = torch.randn(1, 1 + 16, 8, requires_grad=True)
    assert positions.interpolate(table, (4, 4), (4, 4)) is table
    larger = positions.interpolate(table, (4, 4), (6, 6))
    assert larger.shape == (1, 37, 8)
    larger.sum().backward()
    assert table.grad is not None
    assert (table.grad != 0).all()


def test_interpolation_refuses_a_table_of_another_grid():
    with pytest.raises(UsageError, match="17 rows"):
        positions.interpolate(torch.zeros(17, 8), (5, 5), (6, 6))


@pytest.mark.parametrize("grid", [(7,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_neighbourhoods_fall_with_the_square_of_the_distance_and_sum_to_one(grid, sigma):
    ours = positions.neighbourhood(grid, sigma).double().numpy()
    places = list(np.ndindex(*grid))
    expected = np.array(
        [[math.exp(-sum((a - b) ** 2 for a, b in zip(i, j, strict=True)) / sigma**2) for j in places] for i in places]
    )
    expected /= expected.sum(1, keepdims=True)
    assert np.allclose(ours, expected, rtol=1e-6, atol=1e-7)
    assert np.allclose(ours.sum(1), 1, rtol=0, atol=1e-6)


def test_neighbours_have_the_published_share_of_the_truth():
    row = positions.neighbourhood((5, 5), 1.0)[12].view(5, 5)
    assert row[1, 2] / row[2, 2] == pytest.approx(math.exp(-1), rel=1e-5)
    assert row[1, 1] / row[2, 2] == pytest.approx(math.exp(-2), rel=1e-5)
    assert torch.equal(row, row.flip(0))
    assert torch.equal(row, row.T)


def test_a_neighbourhood_without_width_is_the_truth_alone():
    assert torch.equal(positions.neighbourhood((3, 4), 0), torch.eye(12))
    assert torch.allclose(positions.neighbourhood((3, 4), 1e-3), torch.eye(12))
    with pytest.raises(UsageError, match="width of position labels"):
        positions.neighbourhood((3, 4), -1.0)


# --- rotary


def test_rotation_matches_the_published_one(shared):
    data = {name: torch.from_numpy(v) for name, v in np.load(shared / "golden/vision-croco/rope2d_100.npz").items()}
    tokens = data["in/tokens_bhnd"]
    where = data["in/pos_yx"]
    ours = positions.rotate(tokens, positions.rotary(tokens.shape[-1], where[:, None], base=100.0))
    assert torch.allclose(ours, data["out/tokens"], rtol=1e-4, atol=2e-5)
    assert torch.equal(where[0].double(), positions.places((3, 4)))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rotation_is_a_complex_product_of_each_pair(axes):
    dim, count = 24, 5
    generator = torch.Generator().manual_seed(0)
    where = torch.randint(0, 20, (count, axes), generator=generator)
    tokens = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    ours = positions.rotate(tokens, positions.rotary(dim, where, base=50.0, dtype=torch.float64))
    part, pairs = dim // axes, dim // axes // 2
    for place in range(count):
        for axis in range(axes):
            for i in range(pairs):
                first, second = axis * part + i, axis * part + pairs + i
                angle = where[place, axis].item() * 50.0 ** (-i / pairs)
                expected = torch.complex(tokens[:, place, first], tokens[:, place, second]) * np.exp(1j * angle)
                assert torch.allclose(ours[:, place, first], expected.real)
                assert torch.allclose(ours[:, place, second], expected.imag)


def test_rotated_products_depend_on_differences_of_positions_alone():
    query, key = torch.randn(2, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    where = positions.places((3, 4))

    def products(shift: tuple[int, int]) -> torch.Tensor:
        table = positions.rotary(16, where + torch.tensor(shift), dtype=torch.float64)
        return positions.rotate(query, table) @ positions.rotate(key, table).T

    assert torch.allclose(products((0, 0)), products((7, -3)))
    assert not torch.allclose(products((0, 0)), query @ key.T, atol=0.1)


def test_rotation_in_half_precision_turns_in_full_precision():
    tokens = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    table = positions.rotary(16, 50 * positions.places((3, 4)))
    ours = positions.rotate(tokens, table)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, positions.rotate(tokens.float(), table).bfloat16())


@pytest.mark.parametrize(("dim", "base", "message"), [(18, 100, "multiple of 4"), (16, 0, "positive")])
def test_impossible_rotations_are_refused(dim, base, message):
    with pytest.raises(UsageError, match=message):
        positions.rotary(dim, positions.places((2, 2)), base)


def test_attention_turns_queries_and_keys_but_not_values():
    torch.manual_seed(0)
    attention = transformer.Attention(16, 2).double()
    tokens = torch.randn(2, 12, 16, dtype=torch.float64)
    table = positions.rotary(8, positions.places((3, 4)), dtype=torch.float64)
    query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    outputs = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        scores = positions.rotate(query[..., part], table) @ positions.rotate(key[..., part], table).mT / 8**0.5
        outputs.append(scores.softmax(-1) @ value[..., part])
    assert torch.allclose(attention(tokens, turn=table), attention.proj(torch.cat(outputs, dim=-1)))
