"""What tasks showed, as a page holds it: pictures and clips as PNG, sounds as WAV, texts and tables as themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unlabel.report import encoding
from unlabel.report.reading import RunFiles, Shown
from unlabel.show import drawing
from unlabel.show.media import Clip, Mark, Media, Picture, Sound, Table, Text

__all__ = ["albums", "stage_name"]

_PICTURES = 2_400_000  # bytes of all pictures together, before base64 makes a third more of them
_SOUNDS = 2_000_000
_SHORTEST = 0.5  # seconds of a sound, however many there are
_SHOWN = 3
_LEVELS = 4  # of a mark's strength


def albums(runs: Sequence[RunFiles]) -> list[list[dict[str, Any]]]:
    """What each run showed by stage and name: ``{"stage", "name", "points": [{"step", "kind", "caption", ...}]}``.

    ``extra`` counts those of a stage beyond the first few, which are folded away, and ``left`` is how many they are.
    """
    points = iter(_points([shown.media for run in runs for shown in run.shown]))
    return [_album(run, [(shown, next(points)) for shown in run.shown]) for run in runs]


def stage_name(run: RunFiles, stage: int) -> str:
    """What a stage is called; its number if the recipe does not say."""
    return run.stages[stage] if 0 <= stage < len(run.stages) else f"{stage + 1}"


def _album(run: RunFiles, shown: list[tuple[Shown, dict[str, Any]]]) -> list[dict[str, Any]]:
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for one, point in shown:
        rows.setdefault((one.stage, one.name), []).append({"step": one.step, **point})
    album = []
    for stage in dict.fromkeys(stage for stage, _ in rows):
        own = [(name, points) for (of, name), points in rows.items() if of == stage]
        for place, (name, points) in enumerate(own):
            extra, left = max(0, place + 1 - _SHOWN), max(0, len(own) - _SHOWN)
            entry = {"stage": stage_name(run, stage), "name": name, "points": points}
            album.append({**entry, "extra": extra, "left": left})
    return album


def _points(media: list[Media]) -> list[dict[str, Any]]:
    """Each as the template takes it; pictures and sounds made small enough for all of them together."""
    drawn = [drawing.contact_sheet(one.array, len(one.array)) if isinstance(one, Clip) else one.array
             for one in media if isinstance(one, Picture | Clip)]  # fmt: skip
    pictures = iter(zip(drawn, encoding.fitting(drawn, _PICTURES), strict=True))
    sounds = iter(_shortened([one for one in media if isinstance(one, Sound)]))
    points: list[dict[str, Any]] = []
    for one in media:
        match one:
            case Picture() | Clip():
                array, file = next(pictures)
                height, width = array.shape[:2]
                notes = [one.caption, f"{one.rate:.3g} pictures a second" if isinstance(one, Clip) else ""]
                notes += [] if encoding.size(file) == (width, height) else ["{} x {} here".format(*encoding.size(file))]
                shown: dict[str, Any] = {"text": encoding.text(file), "width": width, "height": height}
                point = {"kind": "picture", "caption": "; ".join(filter(None, notes)), **shown}
            case Sound():
                sound = next(sounds)
                point = {"kind": "sound", "caption": sound.caption, "text": encoding.text(encoding.wav(sound))}
            case Text(lines, caption):
                point = {
                    "kind": "text",
                    "caption": caption,
                    "lines": [[_part(part) for part in line] for line in lines],
                }
            case Table(columns, rows, caption):
                point = {"kind": "table", "caption": caption, "columns": columns, "rows": rows}
        points.append(point)
    return points


def _shortened(sounds: list[Sound]) -> list[Sound]:
    """As much of each as there is room for, the same share of all."""
    share = _SOUNDS / max(1, sum(2 * sound.samples.size for sound in sounds))
    if share >= 1:
        return sounds
    shorter = []
    for sound in sounds:
        count = sound.samples.shape[1]
        length = min(count, max(int(share * count), int(_SHORTEST * sound.rate)))
        note = f"here the first {length / sound.rate:.2g} s"
        caption = "; ".join(filter(None, [sound.caption, note if length < count else ""]))
        shorter.append(replace(sound, samples=sound.samples[:, :length], caption=caption))
    return shorter


def _part(part: str | Mark) -> dict[str, Any]:
    """Of a line: its text, and how strongly it is marked, 0 to 4."""
    if isinstance(part, str):
        return {"text": part, "level": 0, "label": ""}
    return {"text": part.text, "level": math.ceil(_LEVELS * part.strength), "label": part.label}
