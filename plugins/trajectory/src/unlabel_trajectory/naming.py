"""Weights of the authors' release under our names: three state dicts in, one task out, nothing unpickled.

Their code keeps each stage's network as a whole; here they are one task's parts (see `PPT`), so that a stage's
weights are found by the prefix of their names. Mask buffers, the token table and the social block, all unused, are
left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from unlabel.errors import UsageError
from unlabel_trajectory.encoders.gpt import TrackGPT
from unlabel_trajectory.tasks.ppt import PPT

__all__ = ["build", "load", "renamed"]

_TRANSFORMER = (
    (r"transformer\.wpe\.weight", "positions"),
    (r"transformer\.h\.(\d+)\.ln([12])\.(weight|bias)", r"blocks.\1.norm\2.\3"),
    (r"transformer\.h\.(\d+)\.attn\.c_attn\.(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.h\.(\d+)\.attn\.c_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.h\.(\d+)\.mlp\.0\.(weight|bias)", r"blocks.\1.fc1.\2"),
    (r"transformer\.h\.(\d+)\.mlp\.2\.(weight|bias)", r"blocks.\1.fc2.\2"),
    (r"transformer\.ln_f\.(weight|bias)", r"norm.\1"),
)
_UNUSED = re.compile(r"transformer\.wte\.|social\.|\.attn\.(bias|masked_bias)$")


def _rules(encoder: str, transformer: str, ours: str) -> list[tuple[str, str]]:
    """Rules for one encoder: the authors' names of its input map and its transformer, and what it is called here."""
    pattern = rf"{transformer}\."
    inside = [(pattern + old, f"{ours}.{new}") for old, new in _TRANSFORMER]
    return [(rf"{encoder}\.(weight|bias)", rf"{ours}.input.\1"), *inside]


def _perceptron(theirs: str, ours: str) -> list[tuple[str, str]]:
    """Linear layers number 0 to 3, with ReLUs counted in between here."""
    return [(rf"{theirs}\.layers\.{number}\.(weight|bias)", rf"{ours}.{2 * number}.\1") for number in range(4)]


_DESTINATION = [
    (r"rand_token", "destination.prompt.token"),
    (r"des_encoder\.(weight|bias)", r"destination.prompt.into.\1"),
    *_perceptron("predictor_Des", "destination.head"),
]

RULES: Mapping[str, list[tuple[str, str]]] = {
    "I": [*_rules("traj_encoder_1", "AR_Model", "encoder"), (r"predictor_1\.(weight|bias)", r"next_head.\1")],
    "II": [*_rules("Traj_encoder", "AR_Model", "encoder"), *_DESTINATION],
    "III": [
        *_rules("Traj_encoder", "AR_Model", "encoder"),
        *_DESTINATION,
        *_rules("traj_encoder", "traj_trans_layer", "trajectory.encoder"),
        (r"traj_rand_fut_token", "trajectory.prompts"),
        (r"traj_fut_token_encoder\.(weight|bias)", r"trajectory.prompt_in.\1"),
        (r"traj_decoder_9\.(weight|bias)", r"trajectory.first.\1"),
        (r"traj_decoder\.(weight|bias)", r"trajectory.middle.\1"),
        *_perceptron("traj_decoder_20", "trajectory.last"),
        (r"traj_transform_traj\.(weight|bias)", r"align_next.\1"),
        (r"traj_transform_des\.(weight|bias)", r"align_destination.\1"),
    ],
}
"""For each stage: pattern of the authors' names -> ours."""


def renamed(weights: Mapping[str, Tensor], stage: str) -> dict[str, Tensor]:
    """One stage's weights under the names they have in a `PPT` whose stage it is.

    Args:
        weights: the authors' state dict of that stage.
        stage: "I", "II" (also for the warm-up) or "III".

    Raises:
        UsageError: a name that the stage does not have.
    """
    state = {}
    for name, value in weights.items():
        if _UNUSED.search(name):
            continue
        rule = next(((old, new) for old, new in RULES[stage] if re.fullmatch(old, name)), None)
        if rule is None:
            raise UsageError(f"{name!r} is no weight of the authors' stage {stage}")
        state[re.sub(rule[0], rule[1], name)] = value
    return state


def load(task: PPT, first: Mapping[str, Tensor], second: Mapping[str, Tensor], third: Mapping[str, Tensor]) -> None:
    """Put the three networks of a finished run of the authors' code into a task, ready for, or after, stage III.

    Args:
        task: of fitting sizes; changed in place.
        first, second, third: state dicts of stages I, II and III; the first two become the teachers.

    Raises:
        UsageError: names are missing or too many, or sizes differ.
    """
    one, two, three = renamed(first, "I"), renamed(second, "II"), renamed(third, "III")
    teachers = {
        **{name.replace("encoder.", "teachers.next_position.", 1): v for name, v in one.items() if "encoder." in name},
        **{name.replace("encoder.", "teachers.destination.", 1): v for name, v in two.items() if "encoder." in name},
        **{
            name.replace("destination.prompt.", "teachers.prompt.", 1): value
            for name, value in two.items()
            if name.startswith("destination.prompt.")
        },
    }
    head = {name: value for name, value in one.items() if name.startswith("next_head.")}
    state = {**head, **three, **teachers}
    wanted = dict(task.named_parameters())
    if state.keys() != wanted.keys():
        odd = sorted(state.keys() ^ wanted.keys())
        raise UsageError(f"the weights do not fit: {len(odd)} names differ, among them {', '.join(odd[:3])}")
    for name, value in state.items():
        if wanted[name].shape != value.shape:
            raise UsageError(f"{name}: {tuple(value.shape)} does not fit {tuple(wanted[name].shape)}")
        wanted[name].data.copy_(value)
    task.begun.copy_(task.begun.new_tensor([True, False, True, False]))


def build(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], third: Mapping[str, Tensor], *, heads: int = 4
) -> PPT:
    """A task of the sizes that the authors' state dicts have, with their weights; in stage III, evaluation mode.

    Args:
        first, second, third: state dicts of stages I, II and III.
        heads: attention heads, which no weight tells.
    """
    rows, dim = third["AR_Model.transformer.wpe.weight"].shape
    depth = sum(name.startswith("AR_Model.") and name.endswith(".mlp.0.weight") for name in third)
    encoder = TrackGPT(
        dim=dim,
        depth=depth,
        heads=heads,
        hidden=len(third["AR_Model.transformer.h.0.mlp.0.weight"]),
        rows=rows,
    )
    task = PPT(
        encoder,
        future=third["traj_rand_fut_token"].shape[1] + 1,
        candidates=len(third["predictor_Des.layers.3.weight"]) // 2,
        head_dim=len(third["predictor_Des.layers.0.weight"]),
    )
    load(task, first, second, third)
    task._enter("III")
    return task.eval()
