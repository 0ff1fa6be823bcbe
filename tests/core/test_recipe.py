"""Recipes as data: round trips, checked changes, resolved lengths, and files that cannot run code."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from distributions import HOOKS, write
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unlabel import compose, recipe, signature
from unlabel.catalog.plugins import Catalog
from unlabel.errors import UsageError
from unlabel.recipe import Combination, Group, Judging, Recipe, Ref, Stage

PLUGIN = (
    HOOKS
    + """
@hookimpl
def tasks(): return {"sonar/echo": "sonar_plugin.echo:Echo"}
@hookimpl
def encoders(): return {"sonar/conv": "sonar_plugin.echo:Conv", "sonar/library": "sonar_plugin.echo:library"}
@hookimpl
def datasets(): return {"sonar/pings": "sonar_plugin.echo:Pings", "sonar/files": "sonar_plugin.echo:Files"}
"""
)
MODULE = """
from typing import Literal
from torch import nn
from unlabel import Recipe, Ref, Stage

class Echo:
    def __init__(self, encoder, *, ratio: float = 0.75, hidden: int = 8, mode: Literal["sum", "mean"] = "sum",
                 scale: tuple[float, float] = (0.2, 1.0), limit: int | None = None, flip: bool = False,
                 on: str = "a"): ...
class Conv:
    def __init__(self, *, dim: int = 4): ...
def library(*, name: str, size: int = 8) -> nn.Module: ...
class Pings:
    def __init__(self, *, count: int = 64): ...
class Files:
    def __init__(self, path: str, *, shortest: int | None = None): ...
def tiny():
    return Recipe(task=Ref("sonar/echo", hidden=4), encoder=Ref("sonar/conv", dim=2), dataset=Ref("sonar/pings"),
                  stages=[Stage(name="warm", steps=4, batch_size=8), Stage(epochs=2, batch_size=16)])
"""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    site = tmp_path_factory.mktemp("site")
    write(site, "sonar", PLUGIN, modules={"echo": MODULE})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLABEL_PLUGINS", "sonar")
        patch.syspath_prepend(str(site))
        yield Catalog.installed()
    for name in ("sonar_plugin", "sonar_plugin.plugin", "sonar_plugin.echo"):
        sys.modules.pop(name, None)


@pytest.fixture
def tiny(catalog: Catalog) -> Recipe:
    return compose.compose("sonar/echo", catalog, name="tiny")


# Round trips

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
refs = st.builds(
    lambda name, options: Ref(name).with_options(**options),
    st.text(min_size=1, max_size=5),
    st.dictionaries(st.text(max_size=8) | st.sampled_from(["name", "options"]), plain, max_size=3),
)


@pytest.mark.slow
@settings(deadline=None)  # a busy machine is slow now and then
@given(refs)
def test_a_ref_survives_json_whatever_its_keywords_are_called(ref: Ref) -> None:
    assert Ref.model_validate(json.loads(ref.model_dump_json())) == ref


def test_a_ref_is_written_flat_and_read_flat_nested_or_bare() -> None:
    assert Ref("a/b", dim=3).model_dump() == {"name": "a/b", "dim": 3}
    assert Ref.model_validate("a/b") == Ref("a/b")
    assert Ref.model_validate({"name": "a/b", "options": {"dim": 3}}) == Ref("a/b", dim=3)
    assert Ref("a/b", name="c").model_dump() == {"name": "a/b", "options": {"name": "c"}}


stages = st.builds(
    Stage,
    name=st.text(max_size=5),
    steps=st.integers(1, 10**6),
    batch_size=st.integers(1, 4096),
    lr=st.floats(0, 10),
    lr_batch_size=st.none() | st.integers(1, 4096),
    schedule=st.sampled_from(["cosine", "constant", "linear", "step", "polynomial"]),
    milestones=st.lists(st.floats(0, 1), max_size=2).map(tuple),
    betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    groups=st.lists(st.builds(Group, pattern=st.text(max_size=4), freeze=st.booleans()), max_size=2),
    weights=st.dictionaries(st.text(max_size=4), st.floats(0, 5), max_size=2),
    options=st.dictionaries(st.text(max_size=4), plain, max_size=2),
)
tasks = refs.filter(lambda ref: "+" not in ref.name and ref.name.strip())
fields = {
    "dataset": refs,
    "stages": st.lists(stages, min_size=1, max_size=2),
    "seed": st.integers(0, 2**40),
    "judging": st.builds(Judging, train=st.none() | st.integers(1, 9), raw=st.booleans()),
}
one = st.fixed_dictionaries({**fields, "task": tasks, "encoder": refs})
several = st.fixed_dictionaries(
    {
        **fields,
        "combination": st.builds(Combination, how=st.sampled_from(["sum", "pareto"])),
        "tasks": st.lists(tasks, min_size=2, max_size=3, unique_by=lambda ref: ref.name),
        "encoders": st.dictionaries(st.sampled_from(["encoder", "image", "text"]), refs, min_size=1),
    }
)
recipes = (one | several).map(lambda data: Recipe.model_validate(data))


@pytest.mark.slow
@settings(deadline=None)  # a busy machine is slow now and then
@given(recipes)
def test_a_recipe_survives_json_and_yaml(chosen: Recipe) -> None:
    assert recipe.parse(json.loads(chosen.to_json()), "file") == chosen
    assert recipe.parse(yaml.safe_load(yaml.safe_dump(chosen.model_dump(mode="json"))), "file") == chosen


OLD = {  # what version 0.1 wrote
    "task": {"name": "sonar/echo+sonar/drift", "sonar/echo": {"delay": 3}, "sonar/drift": {}, "combine": "pareto"},
    "encoder": {"name": "sonar/conv", "dim": 2},
    "dataset": {"name": "sonar/pings"},
    "stages": [{"steps": 4}],
    "monitor_every": 7,
    "init": "weights.safetensors",
}


def test_what_version_0_1_wrote_of_several_tasks_is_read_as_it_was_meant() -> None:
    old = recipe.parse(OLD, "recipe.json")
    assert old.tasks == [Ref("sonar/echo", delay=3), Ref("sonar/drift")]
    assert old.combination == Combination(how="pareto")
    assert old.encoders == {"encoder": Ref("sonar/conv", dim=2)}
    assert old.judging.monitor_every == 7
    assert old.first_weights == {"encoder": "weights.safetensors"}
    assert old.name == "sonar/echo+sonar/drift", "as checkpoints of that version call it"


def test_one_task_and_one_encoder_are_written_as_version_0_1_wrote_them(tiny: Recipe) -> None:
    written = json.loads(tiny.to_json())
    assert list(written)[:3] == ["task", "encoder", "dataset"]
    assert written["task"]["name"] == "sonar/echo"


def test_only_one_of_several_cannot_be_asked_for(tiny: Recipe) -> None:
    several = tiny.model_copy(update={"encoders": {"ear": Ref("a/b"), "eye": Ref("a/c")}})
    with pytest.raises(UsageError, match=r"several encoders \(ear, eye\): name one"):
        several.encoder  # noqa: B018  # asked for
    with pytest.raises(TypeError, match="a recipe has no tusk"):
        tiny.model_copy(update={"tusk": 1})


def test_files_in_both_formats_are_read(tiny: Recipe, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(tiny.to_json())
    (tmp_path / "b.yaml").write_text(
        "task: {name: sonar/echo, hidden: 4}\nencoder: {name: sonar/conv, dim: 2}\ndataset: sonar/pings\n"
        "stages:\n- {name: warm, steps: 4, batch_size: 8, lr: 1.5e-4}\n- {epochs: 2, batch_size: 16}\n"
    )

    assert recipe.load(tmp_path / "a.json") == recipe.load(tmp_path / "b.yaml") == tiny


def test_a_recipe_file_is_chosen_by_its_path_and_must_be_for_the_task(
    tiny: Recipe, catalog: Catalog, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(compose.with_overrides(tiny, ["seed=7"], catalog).to_json())

    assert compose.compose("sonar/echo", catalog, name=str(path)).seed == 7
    path.write_text(path.read_text().replace("sonar/echo", "sonar/other"))
    with pytest.raises(UsageError, match="is for task 'sonar/other', not for 'sonar/echo'"):
        compose.compose("sonar/echo", catalog, name=str(path))
    with pytest.raises(UsageError, match=r"no recipe 'tinny': expected tiny or a .json/.yaml file; did you mean tiny"):
        compose.compose("sonar/echo", catalog, name="tinny")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "expected a recipe .* got list"),
        ("task: sonar/echo", "encoder: Field required"),
        ("task: {hidden: 3}\nencoder: a\ndataset: b\nstages: [{steps: 1}]", "task.name: Field required"),
        ("task: a\nencoder: a\ndataset: b\nstages: []", "stages: List should have at least 1 item"),
        ("task: a\nencoder: a\ndataset: b\nstages: [{steps: 1}]\nsead: 3", "sead: no such field; did you mean seed"),
        ("task: a\nencoder: a\ndataset: b\nstages: [{steps: 1}]\nlr: 3", "lr: no such field; did you mean stages.0.lr"),
        (
            "task: a\nencoder: a\ndataset: b\nstages: [{steps: 1, groups: [{patern: x}]}]",
            r"stages.0.groups.0.(pattern: Field required|patern: no such field)",
        ),
        ("task: [", "is not YAML of plain values"),
        ("task: !!python/object/apply:os.system ['touch executed']", "is not YAML of plain values.*python/object"),
        ("!!python/object/new:os.system ['touch executed']", "is not YAML of plain values.*python/object"),
    ],
)
def test_a_wrong_file_is_refused_with_place_and_reason(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "wrong.yaml"
    path.write_text(text)

    with pytest.raises(UsageError, match=reason) as raised:
        recipe.load(path)

    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "executed").exists()


def test_an_unreadable_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\0")
    (tmp_path / "cut.json").write_text('{"task": "a"')
    for name in ("binary.json", "cut.json", "absent.json", "."):
        with pytest.raises(UsageError, match=r"recipe .* (cannot be read|is not JSON)"):
            recipe.load(tmp_path / name)


# Changes


def test_a_change_reaches_its_field_with_its_type(tiny: Recipe, catalog: Catalog) -> None:
    changes = [
        "stages.0.lr=3e-4", "stages.1.batch_size=32", "stages.1.betas=[0.5, 0.9]",
        "stages.0.groups=[{pattern: '*.bias', freeze: true}]",
        "stages.0.weights.loss_a=2", "seed=3", "init=some/run", "execution.compile=true",
        "task.ratio=0.5", "task.mode=mean", "task.scale=[0.1, 1]", "task.limit=3", "task.flip=true", "encoder.dim=16",
        "evaluations=[knn, {name: linear_probe}]",
    ]  # fmt: skip
    changed = compose.with_overrides(tiny, changes, catalog)

    assert (changed.stages[0].lr, changed.stages[1].batch_size) == (3e-4, 32)
    assert changed.stages[1].optimizer == Ref("adamw", betas=(0.5, 0.9))
    assert changed.stages[0].groups == [Group(pattern="*.bias", freeze=True)]
    assert (changed.stages[0].weights, changed.seed, changed.init, changed.execution.compile) == (
        {"loss_a": 2.0},
        3,
        "some/run",
        True,
    )
    assert changed.task.options == {
        "hidden": 4,
        "ratio": 0.5,
        "mode": "mean",
        "scale": (0.1, 1.0),
        "limit": 3,
        "flip": True,
    }
    assert changed.encoder.options == {"dim": 16}
    assert changed.evaluations == [Ref("knn"), Ref("linear_probe")]
    assert tiny.stages[0].lr == 1.5e-4, "the original is unchanged"


def test_words_stay_words(tiny: Recipe, catalog: Catalog) -> None:
    """YAML would read these as True, False, 90, 8 and None."""
    for word in ("on", "no", "1:30", "010", "~", "", " a b "):
        assert compose.with_overrides(tiny, [f"task.on={word}"], catalog).task.options["on"] == word


WRONG = {
    "stages.0.lrr=1": "stages.0.lrr: no such field; did you mean lr",
    "stage.0.lr=1": "no field 'stage'; did you mean stages",
    "stages.2.lr=1": "'2' is not one of 0..1",
    "stages.-1.lr=1": "'-1' is not one of 0..1",
    "stages.lr=1": "'lr' is not one of 0..1",
    "stages.0.lr.x=1": "has no fields",
    "stages.0.lr=high": "stages.0.lr: should be a valid number.* not 'high'",
    "stages.0.lr=-1": "stages.0.lr: should be greater than or equal to 0, not -1",
    "stages.0.lr=Infinity": "stages.0.lr: should be a finite number",
    "stages.0.lr=": "stages.0.lr: should be a valid number",
    "stages.0.schedule=cosinus": "stages.0.schedule: schedule 'cosinus' is unknown; did you mean cosine",
    "stages.0.epochs=3": "stages.0: give either `steps` or `epochs`",
    "stages.0.horizon=2": "stages.0: the schedule's horizon is before the end of the stage",
    "stages.0.lr": "expected FIELD=VALUE",
    "=3": "expected FIELD=VALUE",
    "stages=[": "the value is neither JSON nor YAML",
    "stages=[!!python/name:os.system ]": "the value is neither JSON nor YAML",
    "lr=1": "lr: no such field; did you mean stages.0.lr",
    "precision=bf16": "precision: no such field; did you mean execution.precision",
    "zzz=1": "zzz: no such field; the fields are task, encoder, dataset",
    "execution.precision=fp8": "execution.precision: should be 'auto', 'fp32', 'bf16' or 'fp16', not 'fp8'",
    "task.ratoi=1": "task.ratoi: sonar/echo has no keyword 'ratoi'; did you mean ratio",
    "task.zzz=1": "sonar/echo has no keyword 'zzz'; it takes ratio, hidden, mode",
    "task.encoder=1": "has no keyword 'encoder'",
    "task.ratio=abc": "task.ratio: should be a valid number.* not 'abc'",
    "task.hidden=1.5": "task.hidden: should be a valid integer.* not 1.5",
    "task.mode=median": "task.mode: should be 'sum' or 'mean', not 'median'",
    "task.scale=[1]": "task.scale: Field required",
    "task.scale=0.5": "task.scale: should be a valid tuple, not 0.5",
    "task.limit=few": "task.limit: should be a valid integer.* not 'few'",
    "task.flip=maybe": "task.flip: should be a valid boolean.* not 'maybe'",
    "task=sonar/other": "the task sonar/echo cannot be changed to sonar/other by a setting",
    "task=3": "task: should be a valid dictionary",
    "encoder.name=sonar/cnov": "no encoder is called 'sonar/cnov'; did you mean sonar/conv",
    "encoder=sonar/library": "sonar/library needs encoder.name: give it with --encoder sonar/library:VALUE",
    "dataset=sonar/files": "sonar/files needs dataset.path: give a path instead of this name",
    "evaluations=[{name: knn, kk: 3}]": "knn has no keyword 'kk'; did you mean k",
}


@pytest.mark.parametrize("assignment", WRONG)
def test_a_wrong_change_is_refused_in_one_line(assignment: str, tiny: Recipe, catalog: Catalog) -> None:
    with pytest.raises(UsageError, match=WRONG[assignment]) as raised:
        compose.with_overrides(tiny, [assignment], catalog)
    assert "\n" not in str(raised.value)


def test_an_encoder_is_chosen_with_its_model(tiny: Recipe, catalog: Catalog) -> None:
    def encoder(name: str) -> Ref:
        return compose.compose("sonar/echo", catalog, name="tiny", encoder=name).encoder

    assert encoder("sonar/conv") == Ref("sonar/conv", dim=2), "its own encoder by name keeps the recipe's keywords"
    assert encoder("sonar/library:resnet") == Ref("sonar/library", name="resnet")
    with pytest.raises(UsageError, match="sonar/conv takes no model after a colon"):
        encoder("sonar/conv:resnet")


# Lengths


@settings(deadline=None)  # a busy machine is slow now and then
@given(
    samples=st.integers(1, 10**6),
    batch=st.integers(1, 512),
    epochs=st.floats(0.01, 100),
    warmup=st.none() | st.floats(0, 200),
    horizon=st.none() | st.floats(1, 3),
    last_batch=st.sampled_from(["drop", "straddle"]),
)
def test_resolved_lengths_cover_the_epochs_and_are_consistent(
    samples: int,
    batch: int,
    epochs: float,
    warmup: float | None,
    horizon: float | None,
    last_batch: Literal["drop", "straddle"],
) -> None:
    stage = Stage(
        epochs=epochs,
        batch_size=batch,
        warmup_epochs=warmup,
        last_batch=last_batch,
        horizon_epochs=None if horizon is None else horizon * epochs,
    ).resolved(samples)

    assert stage.steps is not None
    assert stage.horizon is not None
    assert stage.epochs is stage.horizon_epochs is stage.warmup_epochs is None
    updates = samples / batch if last_batch == "straddle" else max(1, samples // batch)  # of an epoch
    wanted = epochs * updates
    assert stage.steps == max(1, math.ceil(wanted))
    assert stage.horizon >= stage.steps
    if horizon is not None:
        assert stage.horizon == pytest.approx(horizon * wanted, abs=1) or stage.horizon == stage.steps
    assert 0 <= stage.warmup <= stage.horizon
    assert stage.warmup == min(round((warmup or 0) * updates), stage.horizon)
    assert stage.resolved(samples) == stage, "resolving twice changes nothing"


def test_a_stage_may_stop_before_its_schedule_does() -> None:
    stage = Stage(steps=10, horizon=100, warmup_steps=20).resolved(64)

    assert (stage.steps, stage.horizon, stage.warmup) == (10, 100, 20)


def test_a_learning_rate_is_scaled_to_the_batch_it_is_stated_for() -> None:
    assert Stage(steps=1, lr=1e-4, batch_size=512).peak_lr == 1e-4
    assert Stage(steps=1, lr=1e-4, lr_batch_size=256, batch_size=512).peak_lr == 2e-4


def test_another_length_holds_for_every_stage_and_drops_the_old_horizon(tiny: Recipe, catalog: Catalog) -> None:
    horizon = compose.with_overrides(tiny, ["stages.0.horizon=9"], catalog)

    shorter = horizon.with_length(steps=2, batch_size=4)
    assert [(stage.steps, stage.epochs, stage.horizon, stage.batch_size) for stage in shorter.stages] == [
        (2, None, None, 4)
    ] * 2
    longer = horizon.with_length(epochs=0.5)
    assert [(stage.steps, stage.epochs) for stage in longer.stages] == [(None, 0.5)] * 2
    assert horizon.with_length() == horizon
    with pytest.raises(UsageError, match="--steps or --epochs, not both"):
        tiny.with_length(steps=1, epochs=1)
    for nonsense in (0, -1, math.nan, math.inf):
        with pytest.raises(UsageError, match=r"--epochs: stages.0.epochs"):
            tiny.with_length(epochs=nonsense)


# Keywords and factories


def component(
    *, count: int = 1, mode: Literal["a", "b"] = "a", kind: torch.dtype = torch.float32, net: nn.Module | None = None
) -> None:
    """Has every kind of keyword."""


def test_keywords_are_converted_to_the_annotated_type() -> None:
    assert signature.keywords(Ref("x", count="3", mode="b"), component, "task") == {"count": 3, "mode": "b"}
    with pytest.raises(UsageError, match=r"task.kind: should be an instance of dtype, not 'float16'"):
        signature.keywords(Ref("x", kind="float16"), component, "task")
    with pytest.raises(UsageError, match=r"task.net: should be an instance of Module"):
        signature.keywords(Ref("x", net=3), component, "task")


def test_annotations_for_type_checkers_only_are_not_checked() -> None:
    def later(encoder: Any, *, field: Missing, count: int = 1) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert signature.keywords(Ref("x", field=3), later, "task", skip=1) == {"field": 3}
    assert signature.required(later, skip=1) == ["field"]


def annotated() -> nn.Module:
    return nn.Identity()


def silent():  # type: ignore[no-untyped-def]
    return nn.Identity()


class Net(nn.Module):
    pass


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:Popen", "torch.hub:load", "builtins:exec", "test_recipe:silent"]
)
def test_a_factory_that_only_stands_in_a_file_must_make_a_network(
    name: str, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "test_recipe", sys.modules[__name__])

    with pytest.raises(
        UsageError, match=rf"encoder '{name}' stands in a file .* confirm it by giving --encoder {name}"
    ):
        signature.factory(Ref(name), "encoders", Catalog([]))

    trusting = Catalog([])
    trusting.trusted.add(name)
    assert callable(signature.factory(Ref(name), "encoders", trusting))


@pytest.mark.parametrize("name", ["annotated", "Net"])
def test_a_network_or_a_function_annotated_to_make_one_needs_no_confirmation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "test_recipe", sys.modules[__name__])

    assert isinstance(signature.factory(Ref(f"test_recipe:{name}"), "encoders", Catalog([]))(), nn.Module)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:Net", "'no_such_module' cannot be imported .* PYTHONPATH"),
        ("torch.nn:Lineer", "module 'torch.nn' has no 'Lineer'; did you mean Linear"),
        ("math:pi", "math:pi is a float, not a class or function that makes an encoder"),
    ],
)
def test_an_encoder_that_is_not_there_is_explained(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        signature.factory(Ref(name), "encoders", Catalog([]))


def test_a_typed_encoder_is_trusted_and_a_task_cannot_be_a_factory(tiny: Recipe, catalog: Catalog) -> None:
    compose.compose("sonar/echo", catalog, name="tiny", encoder="collections:ChainMap")

    assert "collections:ChainMap" in catalog.trusted
    with pytest.raises(UsageError, match="OrderedDict'> does not say which keywords it takes"):
        compose.compose("sonar/echo", catalog, name="tiny", encoder="collections:OrderedDict")
    with pytest.raises(UsageError, match="no task is called 'os:system'"):
        signature.factory(Ref("os:system"), "tasks", catalog)


def test_recipes_of_a_module_are_the_usual_ones_and_variants_of_the_papers() -> None:
    module = types.ModuleType("any")
    for name in ("tiny", "paper", "paper_lakes", "papers", "quickly"):
        setattr(module, name, lambda: None)
    assert list(compose.named(module)) == ["paper", "paper_lakes", "tiny"]
