"""Rooms: two views of furnished rooms, ray-cast on demand, with everything known about them exactly.

A scene is a box that the camera is in, with boxes in it; every face has a texture of its own, cut from a photograph.
The cameras are drawn as for the published pairs (Weinzaepfel et al. 2022, arXiv 2210.10716): 60 degrees of view, at
1.2 to 1.8 m, the second a few steps away and turned to the middle of what the first sees, with noise; pairs that show
too little of the same are drawn again. Depth, optical flow, what both views see, and the relative pose are exact, so
they serve evaluations. Three kinds of furniture take turns. Training and test scenes are disjoint, and so are
the parts of the photographs on them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel.task import Sample
from unlabel_vision.datasets import photos
from unlabel_vision.datasets.drawn import Drawn, Part

__all__ = ["Camera", "Rooms", "Scene", "cast", "covisible", "draw_pair", "flow", "relative_pose", "render"]

_KINDS = ("furniture", "screens", "clutter")
"""Boxes on the floor; thin upright ones; small ones anywhere in the air."""

_LEVELS = 6  # sizes in which each texture is kept, each half of the one before
_FIELD = np.deg2rad(60.0)
_CLOSE = 1e-3  # share of the distance within which two hits are the same point
_ATTEMPTS = 100
_KEPT = 256_000_000  # bytes of drawn pairs that a process keeps: drawing one takes longer than training on it


@dataclass(frozen=True)
class Camera:
    """Where a view is from.

    Attributes:
        place: float64, (3,), metres; x to the right, y down, z ahead of the room.
        turn: float64, (3, 3): from the camera's directions (right, down, ahead) to the room's.
        size: side of the square view in pixels.
    """

    place: np.ndarray
    turn: np.ndarray
    size: int

    @property
    def focal(self) -> float:
        """In pixels."""
        return float(0.5 * self.size / np.tan(_FIELD / 2))

    def directions(self, step: int = 1) -> np.ndarray:
        """Through the centres of every `step`-th pixel's row and column, one metre deep each: float64, (P, 3)."""
        line = (np.arange(step // 2, self.size, step) + 0.5 - self.size / 2) / self.focal
        y, x = np.meshgrid(line, line, indexing="ij")
        result: np.ndarray = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) @ self.turn.T
        return result

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel positions (x, y), the centre of the first pixel being 0.5, and depth, of (P, 3) points."""
        local = (points - self.place) @ self.turn
        return local[:, :2] / local[:, 2:] * self.focal + self.size / 2, local[:, 2]


@dataclass(frozen=True)
class Scene:
    """A room, which is box 0, and the boxes in it.

    Attributes:
        centre, half: float64, (B, 3): middles and half sides, metres.
        yaw: float64, (B,): turn of each box about the vertical.
        texture: int64, (B, 6): which picture is on each face (x-, y-, z- side, then x+, y+, z+).
        scale: float64, (B, 6): texels a metre.
        shift: float64, (B, 6, 2): where in the picture a face begins, texels.
        tint: float64, (B, 6, 3): factor of each colour.
    """

    centre: np.ndarray
    half: np.ndarray
    yaw: np.ndarray
    texture: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    tint: np.ndarray

    def local(self, vectors: np.ndarray, boxes: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Directions in the axes of boxes: (3,) in all of them, (B, 3), or (P, 3) in (P,) boxes, (P, 3)."""
        cos, sin = np.cos(self.yaw)[boxes], np.sin(self.yaw)[boxes]
        x, y, z = np.moveaxis(vectors, -1, 0)
        return np.stack([cos * x - sin * z, np.broadcast_to(y, cos.shape), sin * x + cos * z], axis=-1)

    def from_middles(self, place: np.ndarray) -> np.ndarray:
        """A point as each box has it, from its middle and in its axes: (3,) -> (B, 3)."""
        return self.local(place - self.centre)


def cast(scene: Scene, place: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What rays from a point in the room meet first.

    Args:
        scene: what there is.
        place: (3,): where they start.
        directions: (P, 3).

    Returns:
        float64 (P,): how many times the direction away; int64 (P,): which box; int64 (P,): which of its faces.
    """
    # float32 and an axis at a time: four times as fast, and a ten-thousandth of a pixel is exact enough
    x, y, z = directions.astype(np.float32).T
    cos, sin = (f(scene.yaw).astype(np.float32)[:, None] for f in (np.cos, np.sin))
    start, half = scene.from_middles(place).astype(np.float32), scene.half.astype(np.float32)
    ahead, enter, leave = [], [], []
    for axis, slope in enumerate((cos * x - sin * z, y[None], sin * x + cos * z)):  # (B or 1, P)
        inverse = 1 / np.where(np.abs(slope) < 1e-9, np.float32(1e-9), slope)
        middle, reach = -start[:, axis, None] * inverse, half[:, axis, None] * np.abs(inverse)
        ahead.append(np.broadcast_to(slope > 0, middle.shape))
        enter.append(middle - reach)
        leave.append(middle + reach)
    first = np.maximum(np.maximum(enter[0], enter[1]), enter[2])
    last = np.minimum(np.minimum(leave[0], leave[1]), leave[2])
    distance = np.where((first < last) & (first > 1e-6), first, np.float32(np.inf))
    distance[0] = last[0]  # the room is seen from inside
    box = distance.argmin(0)
    ray = np.arange(len(directions))
    side_of = np.where(box == 0, _smallest(*(far[0] for far in leave)), _smallest(*(-near[box, ray] for near in enter)))
    along = np.choose(side_of, [side[box, ray] for side in ahead])
    return distance[box, ray].astype(np.float64), box, side_of + 3 * np.where(box == 0, along, ~along)


def _smallest(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Which of three is the smallest: int64, (P,)."""
    return np.where((x <= y) & (x <= z), 0, np.where(y <= z, 1, 2))


@dataclass(frozen=True)
class _Pictures:
    """Textures of a part in several sizes, in one block of pixels.

    Attributes:
        pixels: float32, (T, 3). begin, height, width: int64, (pictures, levels).
    """

    pixels: np.ndarray
    begin: np.ndarray
    height: np.ndarray
    width: np.ndarray


@functools.cache
def _pictures(part: Part) -> _Pictures:
    blocks, sizes = [], []
    for name in photos.TEXTURES:
        top, left, bottom, right = photos.region(name, part)
        picture = photos.photo(name)[top:bottom, left:right].astype(np.float32)
        for _ in range(_LEVELS):
            blocks.append(picture.reshape(-1, 3))
            sizes.append(picture.shape[:2])
            height, width = picture.shape[0] // 2, picture.shape[1] // 2
            picture = picture[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3))
    height, width = np.array(sizes).reshape(len(photos.TEXTURES), _LEVELS, 2).transpose(2, 0, 1)
    begin = np.concatenate([[0], np.cumsum([len(block) for block in blocks])[:-1]]).reshape(
        len(photos.TEXTURES), _LEVELS
    )
    return _Pictures(np.concatenate(blocks), begin, height, width)


def _mirrored(place: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Whole positions in pictures that continue mirrored on all sides."""
    period: np.ndarray = place % (2 * length)
    mirrored: np.ndarray = np.where(period < length, period, 2 * length - 1 - period)
    return mirrored


def render(scene: Scene, camera: Camera, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """One view.

    Args:
        scene: what there is.
        camera: where from.
        part: which regions of the photographs are on the faces, ``"train"`` or ``"test"``.

    Returns:
        uint8, (S, S, 3), and depth along the viewing direction, float64, (S, S), metres.
    """
    directions = camera.directions()
    depth, box, face = cast(scene, camera.place, directions)
    axis, scale = face % 3, scene.scale[box, face]
    own = scene.local(camera.place + depth[:, None] * directions - scene.centre[box], box)
    slope = scene.local(directions, box)

    # a pixel covers depth / focal metres, and more where the face is seen at a slant
    slant = np.abs(np.choose(axis, slope.T)) / np.linalg.norm(slope, axis=1)
    texels = scale * depth / camera.focal / np.maximum(slant, 0.2)
    level = np.clip(np.rint(np.log2(np.maximum(texels, 1e-6))), 0, _LEVELS - 1).astype(np.int64)
    across = np.where(axis == 0, own[:, 2], own[:, 0]), np.where(axis == 1, own[:, 2], own[:, 1])
    shift, smaller = scene.shift[box, face], 0.5**level
    x, y = ((value * scale + shift[:, number]) * smaller - 0.5 for number, value in enumerate(across))
    color = _sampled(_pictures(part), scene.texture[box, face], level, y, x)
    color = np.clip(np.rint(color * scene.tint[box, face]), 0, 255).astype(np.uint8)
    return color.reshape(camera.size, camera.size, 3), depth.reshape(camera.size, camera.size)


def _sampled(pictures: _Pictures, texture: np.ndarray, level: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear colours of pictures at (P,) places: float32, (P, 3)."""
    begin, height, width = (part[texture, level] for part in (pictures.begin, pictures.height, pictures.width))
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    below, right = (y - top).astype(np.float32)[:, None], (x - left).astype(np.float32)[:, None]
    rows = [_mirrored(top + more, height) * width + begin for more in (0, 1)]
    columns = [_mirrored(left + more, width) for more in (0, 1)]
    corner = [[pictures.pixels[row + column] for column in columns] for row in rows]
    upper, lower = (one * (1 - right) + other * right for one, other in corner)
    blended: np.ndarray = upper * (1 - below) + lower * below
    return blended


def flow(
    scene: Scene, first: Camera, second: Camera, depth: np.ndarray | None = None, step: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the first view is in the second.

    Args:
        scene: what there is.
        first, second: where from.
        depth: (S, S), of the first view, if it is known already.
        step: look at every `step`-th row and column alone; s = S / step of them.

    Returns:
        float64, (s, s, 2): shift in pixels to the right and down. bool, (s, s): whether the second view sees the same
        point, inside its frame and with nothing before it.
    """
    directions = first.directions(step)
    far = cast(scene, first.place, directions)[0] if depth is None else depth.reshape(-1)
    points = first.place + far[:, None] * directions
    where, ahead = second.project(points)
    inside = (ahead > 1e-6) & ((where >= 0) & (where < second.size)).all(1)
    reach, _, _ = cast(scene, second.place, points - second.place)  # 1 where nothing is in between
    side = round(len(points) ** 0.5)
    shift = (where - first.project(points)[0]).reshape(side, side, 2)
    return shift, (inside & (reach > 1 - _CLOSE)).reshape(side, side)


def covisible(scene: Scene, first: Camera, second: Camera, step: int = 1) -> float:
    """Share of the pixels whose point the other view sees too: of the two directions, the smaller share."""
    return float(min(flow(scene, *pair, step=step)[1].mean() for pair in ((first, second), (second, first))))


def relative_pose(first: Camera, second: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and translation (3,) in metres: a point p of the first camera is R p + t of the second."""
    return second.turn.T @ first.turn, second.turn.T @ (first.place - second.place)


# What is drawn


def _facing(forward: np.ndarray, roll: float) -> np.ndarray:
    """Axes of a camera that looks along a direction, turned about it by `roll`."""
    ahead = forward / np.linalg.norm(forward)
    right = np.cross(np.array([0.0, 1.0, 0.0]), ahead)
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    cos, sin = np.cos(roll), np.sin(roll)
    return np.stack([cos * right + sin * down, cos * down - sin * right, ahead], axis=1)


def _look(rng: np.random.Generator, place: np.ndarray, yaw: float, tilt: float, size: int, noise: float) -> Camera:
    """A camera with the published noise: pan within 3, tilt within 10, roll within 5 degrees."""
    pan, lean, roll = np.deg2rad(rng.uniform(-1, 1, 3) * (3.0, 10.0, 5.0)) * noise
    yaw, tilt = yaw + pan, np.clip(tilt + lean, -1.2, 1.2)
    forward = np.array([np.sin(yaw) * np.cos(tilt), np.sin(tilt), np.cos(yaw) * np.cos(tilt)])
    return Camera(place, _facing(forward, roll), size)


def draw_scene(rng: np.random.Generator, kind: int) -> Scene:
    """Draw a room; its floor is at y = 0, and up is negative.

    Args:
        rng: source of everything.
        kind: 0 to 2, see `_KINDS`.
    """
    room = np.array([rng.uniform(4, 7), rng.uniform(2.4, 3.2), rng.uniform(4, 7)]) / 2
    count = int(rng.integers(4, 9)) if kind < 2 else int(rng.integers(8, 15))
    low, high = (
        ((0.15, 0.15, 0.15), (0.5, 0.6, 0.5)),
        ((0.3, 0.3, 0.01), (0.9, 0.9, 0.03)),
        ((0.06, 0.06, 0.06), (0.25, 0.25, 0.25)),
    )[kind]
    half = rng.uniform(low, high, (count, 3))
    centre = rng.uniform(-1, 1, (count, 3)) * (room - 0.3) + (0, -room[1], 0)
    centre[:, 1] = -half[:, 1] if kind == 0 else np.clip(centre[:, 1], 0.3 - 2 * room[1], -0.3)
    boxes = count + 1
    return Scene(
        np.concatenate([[(0, -room[1], 0)], centre]),
        np.concatenate([room[None], half]),
        np.concatenate([[0.0], rng.uniform(-np.pi, np.pi, count)]),
        rng.integers(len(photos.TEXTURES), size=(boxes, 6)),
        np.exp(rng.uniform(np.log(40), np.log(200), (boxes, 6))),
        rng.uniform(0, 1000, (boxes, 6, 2)),
        rng.uniform(0.6, 1.2, (boxes, 6, 1)) * rng.uniform(0.8, 1.2, (boxes, 6, 3)),
    )


def draw_pair(
    rng: np.random.Generator, kind: int, size: int, baseline: tuple[float, float], noise: float, covisibility: float
) -> tuple[Scene, Camera, Camera]:
    """Draw a room and two cameras in it whose views have enough in common.

    Args:
        rng: source of everything.
        kind: 0 to 2, see `_KINDS`.
        size: side of the views in pixels.
        baseline: smallest and largest distance of the cameras in metres.
        noise: of the second view's direction, as a share of the published noise.
        covisibility: smallest `covisible`. From attempt to attempt the cameras come closer.
    """
    scene = draw_scene(rng, kind)
    room = scene.half[0]
    first = _place(rng, scene, size)
    directions = first.directions(8)
    points = first.place + cast(scene, first.place, directions)[0][:, None] * directions
    middle = points.mean(0)
    for attempt in range(_ATTEMPTS):
        step = rng.normal(size=3) * (1.0, 0.2, 1.0)
        step *= rng.uniform(*baseline) * (1 - attempt / _ATTEMPTS) / np.linalg.norm(step)
        place = np.clip(
            first.place + step,
            (-room[0] + 0.2, -2 * room[1] + 0.2, -room[2] + 0.2),
            (room[0] - 0.2, -0.2, room[2] - 0.2),
        )
        ahead = middle - place
        yaw, tilt = np.arctan2(ahead[0], ahead[2]), np.arctan2(ahead[1], np.hypot(ahead[0], ahead[2]))
        second = _look(rng, place, yaw, tilt, size, noise)
        if _free(scene, place) and covisible(scene, first, second, max(1, size // 16)) >= covisibility:
            return scene, first, second
    return scene, first, first


def _place(rng: np.random.Generator, scene: Scene, size: int) -> Camera:
    """The first camera: at eye height, outside of boxes, anywhere, looking anywhere."""
    room = scene.half[0]
    camera = None
    for _ in range(_ATTEMPTS):
        height = rng.uniform(1.2, 1.8)
        place = np.array([rng.uniform(-1, 1) * (room[0] - 0.4), -height, rng.uniform(-1, 1) * (room[2] - 0.4)])
        camera = _look(rng, place, rng.uniform(-np.pi, np.pi), 0.0, size, 1.0)
        if _free(scene, place) and np.median(cast(scene, place, camera.directions(max(1, size // 8)))[0]) > 1.0:
            break
    assert camera is not None
    return camera


def _free(scene: Scene, place: np.ndarray) -> bool:
    """Whether a place is outside of every box, with some room around it."""
    return not (np.abs(scene.from_middles(place)[1:]) < scene.half[1:] + 0.15).all(-1).any()


class Rooms(Drawn):
    """Two views of ray-cast rooms, without end.

    Samples are ``{"image", "second", "depth", "flow", "visible", "rotation", "translation"}``: two uint8
    (size, size, 3); for the pixels of the first view metres, float32 (size, size), pixels to the right and down,
    float32 (size, size, 2), and uint8 1 where the second view sees the same point; rotation (3, 3) and translation (3,)
    in metres, float32, from the first camera's axes (right, down, ahead) to the second's. There are no labels: what is
    known of a pair is its geometry.

    Args:
        size: side of the views in pixels; tasks cut smaller squares out of them.
        count: number of training pairs; there are a quarter as many test pairs.
        baseline: smallest and largest distance of the two cameras in metres.
        noise: how far the second camera looks past what the first one sees, as a share of the published noise.
        covisibility: share of each view that the other one sees, at least.
        seed: another number gives other scenes.
    """

    kind = "pairs, rendered"

    def __init__(
        self,
        *,
        size: int = 256,
        count: int = 4000,
        baseline: tuple[float, float] = (0.1, 0.6),
        noise: float = 1.0,
        covisibility: float = 0.5,
        seed: int = 0,
    ):
        if not 16 <= size <= 1024:
            raise UsageError(f"size {size} is outside 16 to 1024 pixels")
        if count < 4:
            raise UsageError(f"count {count} is less than 4, which leaves nothing for testing")
        if not 0 <= baseline[0] <= baseline[1] <= 3:
            raise UsageError(
                f"baseline {list(baseline)}: expected two distances in metres, 0 <= smallest <= largest <= 3"
            )
        if not 0 <= noise <= 3 or not 0 <= covisibility < 1:
            raise UsageError(
                f"noise {noise} must be from 0 to 3, and covisibility {covisibility} from 0 to less than 1"
            )
        self.baseline, self.noise, self.covisibility = (baseline[0], baseline[1]), noise, covisibility
        super().__init__(size, count, seed)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"kept": {}}

    def take(self, part: Part, size: int) -> None:
        super().take(part, size)
        self.kept: dict[int, Sample] = {}

    def pair(self, index: int) -> tuple[Scene, Camera, Camera]:
        """Scene and cameras of a sample."""
        rng = seeds.generator(self.seed, self.part == "test", index, 0x500)
        return draw_pair(rng, index % len(_KINDS), self.side, self.baseline, self.noise, self.covisibility)

    def __getitem__(self, index: int) -> Sample:
        if index not in self.kept:
            made = self._made(index)
            if len(self.kept) >= _KEPT // (23 * self.side**2):  # bytes of a sample
                return made
            self.kept[index] = made
        return {
            name: value.copy() if isinstance(value, np.ndarray) else value for name, value in self.kept[index].items()
        }

    def _made(self, index: int) -> Sample:
        scene, first, second = self.pair(index)
        image, depth = render(scene, first, self.part)
        shift, visible = flow(scene, first, second, depth)
        rotation, translation = relative_pose(first, second)
        return {
            "image": image,
            "second": render(scene, second, self.part)[0],
            "depth": depth.astype(np.float32),
            "flow": shift.astype(np.float32),
            "visible": visible.astype(np.uint8),
            "rotation": rotation.astype(np.float32),
            "translation": translation.astype(np.float32),
        }

    def name_of(self, index: int) -> str:
        return f"{self.part} room {index} ({_KINDS[index % len(_KINDS)]})"
