"""The plugin's table of contents: every name it offers, and where it lives. Imports nothing heavy."""

from __future__ import annotations

from unlabel import hookimpl


@hookimpl
def tasks() -> dict[str, str]:
    return {
        "trajectory/ppt": "unlabel_trajectory.tasks.ppt:PPT",
        "trajectory/next_position": "unlabel_trajectory.tasks.next_position:NextPosition",
        "trajectory/destination": "unlabel_trajectory.tasks.destination:Destination",
    }


@hookimpl
def encoders() -> dict[str, str]:
    return {"trajectory/gpt": "unlabel_trajectory.encoders.gpt:TrackGPT"}


@hookimpl
def datasets() -> dict[str, str]:
    return {
        "trajectory/crowd": "unlabel_trajectory.datasets.crowd:Crowd",
        "trajectory/eth_ucy": "unlabel_trajectory.datasets.eth_ucy:EthUcy",
        "trajectory/sdd": "unlabel_trajectory.datasets.sdd:SDD",
        "trajectory/tracks": "unlabel_trajectory.datasets.files:TrackFiles",
    }


@hookimpl
def evaluations() -> dict[str, str]:
    return {"trajectory/forecast": "unlabel_trajectory.evaluations.forecast:forecast"}
