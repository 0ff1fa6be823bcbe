"""Windows: stretches of tracks of equal length, cut out of annotations, and what is known about each.

The rule of the usual pedestrian protocol: for every annotated step such that the next T - 1 steps are annotated too,
every agent that is present in all T gives one window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel_trajectory import reading
from unlabel_trajectory.reading import Rows

__all__ = ["Unit", "Windows", "by_agent", "cut", "join", "longest", "step_of"]

Unit = Literal["m", "px"]
"""What positions are measured in: metres, or pixels of the original frame. Metrics carry it in their names."""


@dataclass(frozen=True)
class Windows:
    """Windows of one or several scenes.

    Attributes:
        positions: float64, (N, T, 2).
        scene: int64, (N,): index into `scenes`.
        agent: int64, (N,): number of the agent, different in every scene.
        frame: float64, (N,): frame of the first position.
        scenes: names of the scenes.
        agents: what the files call the agents.
        unit: of the positions.
    """

    positions: np.ndarray
    scene: np.ndarray
    agent: np.ndarray
    frame: np.ndarray
    scenes: tuple[str, ...]
    agents: tuple[str, ...]
    unit: Unit

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, rows: np.ndarray) -> Windows:
        """Some of the windows, by index or mask."""
        parts = {name: getattr(self, name)[rows] for name in ("positions", "scene", "agent", "frame")}
        return replace(self, **parts)

    def name_of(self, index: int) -> str:
        """Scene, agent and first frame of a window."""
        agent = self.agents[self.agent[index]]
        return f"{self.scenes[self.scene[index]]}: agent {agent} from frame {self.frame[index]:g}"


def step_of(rows: Rows) -> float:
    """Frames from one step to the next: the most frequent difference between an agent's consecutive frames.

    Raises:
        UsageError: no agent has two rows.
    """
    order = np.lexsort((rows.frame, rows.agent))
    differences = np.diff(rows.frame[order])[np.diff(rows.agent[order]) == 0]
    if not len(differences):
        raise UsageError(
            f"{rows.path}: each of its {len(rows.names)} agents has a single row; a track needs several rows with one "
            "id: is the right column taken for it? (--set dataset.agent=COLUMN)"
        )
    values, counts = np.unique(np.round(differences, 6), return_counts=True)
    return float(values[counts.argmax()])


def cut(
    rows: Rows, length: int, *, scene: str, unit: Unit, stride: int = 1, step: float | None = None
) -> tuple[Windows, list[str]]:
    """Cut the annotations of one scene into windows.

    Args:
        rows: of one file; the order of its rows does not matter.
        length: T, positions in a window.
        scene: its name.
        unit: of the positions.
        stride: steps between the beginnings of an agent's windows.
        step: frames from one step to the next; None finds it (`step_of`).

    Returns:
        The windows, possibly none, in the order of their first frames; and warnings, each with file and line.
    """
    step = step_of(rows) if step is None else step
    messages = [message for message in (reading.suspicious_jumps(rows, step, 1.0),) if message and unit == "m"]
    back = reading.backward(rows)
    if back:
        messages.append(
            f"{rows.place(back[0])}: frame {rows.frame[back[0]]:g} stands after a later one of the same agent "
            f"({len(back)} such rows); they were sorted by frame"
        )
    order = np.lexsort((rows.frame, rows.agent))
    agent, frame = rows.agent[order], rows.frame[order]
    goes_on = (np.diff(agent) == 0) & (np.abs(np.diff(frame) - step) < 1e-3 * step)
    run = np.concatenate([[0], np.cumsum(~goes_on)])  # numbers the stretches without a gap
    last = np.searchsorted(run, run, side="right")  # where each row's stretch ends
    first = np.searchsorted(run, run, side="left")
    place = np.arange(len(run))
    begins = np.flatnonzero((place + length <= last) & ((place - first) % stride == 0))
    begins = begins[np.lexsort((agent[begins], frame[begins]))]
    positions = rows.xy[order][begins[:, None] + np.arange(length)]
    windows = Windows(
        positions, np.zeros(len(begins), np.int64), agent[begins], frame[begins], (scene,), rows.names, unit
    )
    return windows, messages


def longest(rows: Rows, step: float | None = None) -> str:
    """The longest stretch without a gap, in words, for the message that none is long enough."""
    step = step_of(rows) if step is None else step
    order = np.lexsort((rows.frame, rows.agent))
    goes_on = (np.diff(rows.agent[order]) == 0) & (np.abs(np.diff(rows.frame[order]) - step) < 1e-3 * step)
    run = np.concatenate([[0], np.cumsum(~goes_on)])
    counts = np.bincount(run)
    begin = order[np.searchsorted(run, counts.argmax())]
    return (
        f"{rows.place(begin)}: the longest track without a gap has {counts.max()} positions "
        f"(agent {rows.names[rows.agent[begin]]}, one position every {step:g} frames)"
    )


def join(parts: Sequence[Windows]) -> Windows:
    """Windows of several scenes as one; agents of different parts are different, scenes of equal names are one."""
    scenes = tuple(dict.fromkeys(name for part in parts for name in part.scenes))
    numbers = [np.array([scenes.index(name) for name in part.scenes]) for part in parts]
    offsets = np.cumsum([0, *(len(part.agents) for part in parts)])
    units = {part.unit for part in parts}
    if len(units) > 1:
        raise UsageError(f"windows in {' and '.join(sorted(units))} cannot be one data set")
    return Windows(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([number[part.scene] for number, part in zip(numbers, parts, strict=True)]),
        np.concatenate([part.agent + offset for part, offset in zip(parts, offsets, strict=False)]),
        np.concatenate([part.frame for part in parts]),
        scenes,
        tuple(name for part in parts for name in part.agents),
        units.pop(),
    )


def by_agent(windows: Windows, share: float, *numbers: int) -> tuple[np.ndarray, np.ndarray]:
    """Two masks over the windows: kept, and held out: all windows of a random `share` of the agents.

    Windows of one agent overlap, so splitting window by window would put nearly the same track on both sides.
    """
    agents = np.unique(windows.agent)
    held_out = agents[seeds.permutation(len(agents), *numbers)][: round(share * len(agents))]
    out = np.isin(windows.agent, held_out)
    return ~out, out
