"""A simulated crowd: people who want to get somewhere and keep out of each other's way. Needs no files.

Social forces (Helbing and Molnar 1995): each person is drawn towards a velocity it wants and pushed away from
others nearby. People differ in what they want, and that is their label: they walk straight, hurry, turn at a
waypoint, stop for a while, or stroll along a curve. Positions are in metres, 0.4 s apart. The last fifth of the
scenes is the test part, so nobody is in both.
"""

from __future__ import annotations

import functools

import numpy as np

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel_trajectory.datasets import tracks
from unlabel_trajectory.datasets.tracks import Select, TrackDataset
from unlabel_trajectory.windows import Windows

__all__ = ["BEHAVIOURS", "Crowd", "simulate"]

BEHAVIOURS = ("walks", "hurries", "turns", "stops", "strolls")

_STEP = 0.4  # seconds between positions
_FINE = 4  # integration steps in one
_REACH = 0.5  # seconds until a person has the velocity it wants
_PUSH, _RANGE, _RADIUS = 6.0, 0.4, 0.3  # m/s^2, m, m
_SIDE = 24.0  # metres; who leaves on one side comes back on the other, for the others too


class Crowd(TrackDataset):
    """Simulated pedestrians.

    Args:
        scenes: scenes, people of different ones never meet; the last fifth is the test part.
        agents: people in each.
        seconds: how long each is watched.
        observed: positions that are observed.
        future: positions that are forecast.
        stride: steps between the beginnings of a person's windows.
        select: what a task may select its weights by.
        seed: another number gives other people.
    """

    def __init__(
        self,
        *,
        scenes: int = 40,
        agents: int = 24,
        seconds: float = 32.0,
        observed: int = 8,
        future: int = 12,
        stride: int = 6,
        select: Select = "held-out",
        seed: int = 0,
    ):
        tracks.check_lengths(observed, future, stride)
        length, steps = observed + future, round(seconds / _STEP)
        if scenes < 2 or agents < 1:
            raise UsageError(
                f"dataset.scenes={scenes}, dataset.agents={agents}: expected at least 2 scenes of 1 person"
            )
        if steps < length:
            raise UsageError(f"dataset.seconds={seconds:g} is too short: {length} positions take {length * _STEP:g} s")
        positions, behaviour = simulate(scenes, agents, steps, seed)
        held_out = max(1, scenes // 5)
        train, test = (
            _windows(positions[part], length, stride) for part in (slice(None, -held_out), slice(-held_out, None))
        )
        label = behaviour.reshape(-1)
        labels = (label[train.agent], label[test.agent + agents * (scenes - held_out)])
        super().__init__(train, test, observed=observed, select=select, labels=labels, classes=BEHAVIOURS)


def _windows(positions: np.ndarray, length: int, stride: int) -> Windows:
    """Windows of simulated people, float64, (S, A, T, 2); as a scene, all their squares are one."""
    count, agents, steps, _ = positions.shape
    begins = np.arange(0, steps - length + 1, stride)
    cut = positions[:, :, begins[:, None] + np.arange(length)]  # (S, A, W, length, 2)
    scene, agent, begin = (part.reshape(-1) for part in np.indices(cut.shape[:3]))
    return Windows(
        cut.reshape(-1, length, 2),
        np.zeros_like(scene),
        scene * agents + agent,
        begins[begin].astype(np.float64),
        ("square",),
        tuple(str(number) for number in range(count * agents)),
        "m",
    )


@functools.lru_cache(maxsize=4)
def simulate(scenes: int, agents: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Let people walk.

    Args:
        scenes, agents: how many.
        steps: T, positions of each, 0.4 s apart.
        seed: of everything random.

    Returns:
        Positions in metres, float64, (scenes, agents, T, 2), without jumps at the borders; and behaviours, int64,
        (scenes, agents), indices into `BEHAVIOURS`.
    """
    rng = seeds.generator(seed, scenes, agents, 0xC0)
    shape = (scenes, agents)
    behaviour = rng.integers(len(BEHAVIOURS), size=shape)
    speed = np.array([1.3, 1.9, 1.3, 1.2, 0.9])[behaviour] * rng.normal(1, 0.08, shape)
    heading = rng.uniform(-np.pi, np.pi, shape)
    curve = np.where(behaviour == 4, rng.choice([-1, 1], shape) * rng.uniform(0.1, 0.35, shape), 0.0)  # rad/s
    turn = rng.choice([-1, 1], shape) * rng.uniform(0.8, 1.7, shape)  # rad, at the waypoint
    every = rng.uniform(6, 10, shape)  # seconds from one waypoint, or stop, to the next
    offset = rng.uniform(0, 10, shape)
    pause = rng.uniform(1.5, 3.5, shape)

    place = rng.uniform(0, _SIDE, (*shape, 2))
    velocity = speed[..., None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    positions = np.empty((*shape, steps, 2))
    fine = _STEP / _FINE
    for step in range(steps * _FINE):
        if step % _FINE == 0:
            positions[:, :, step // _FINE] = place
        now = step * fine + offset
        turned = np.where(behaviour == 2, turn * np.floor(now / every), 0.0)
        direction = heading + curve * now + turned
        stopped = (behaviour == 3) & (now % every < pause)
        wanted = np.where(stopped, 0.0, speed)[..., None] * np.stack([np.cos(direction), np.sin(direction)], axis=-1)
        velocity = velocity + fine * ((wanted - velocity) / _REACH + _pushes(place))
        place = place + fine * velocity
    return positions, behaviour


def _pushes(place: np.ndarray) -> np.ndarray:
    """How others push each person: (S, A, 2) -> (S, A, 2), m/s^2."""
    offset = place[:, :, None] - place[:, None]  # (S, A, A, 2), from the other
    offset -= _SIDE * np.round(offset / _SIDE)  # the nearest copy of each
    distance = np.sqrt((offset**2).sum(-1)) + 1e-9
    push = _PUSH * np.exp((2 * _RADIUS - distance) / _RANGE) / distance  # none on oneself: `offset` is zero there
    pushes: np.ndarray = (push[..., None] * offset).sum(2)
    return pushes
