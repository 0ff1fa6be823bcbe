"""What a plugin promises, one function a check. The docstring says what and why; the message, how to mend it.

How a component is built, run and compared is in `unlabel.testing.trials`; nothing here imports torch, so that listing
the checks costs nothing. A check returns if all is well, raises `Violation` if the promise is broken, and
`NotApplicable` where there is nothing to check.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlabel.testing.component import Component
    from unlabel.testing.dataset_trial import DatasetTrial
    from unlabel.testing.optimizer_trial import OptimizerTrial
    from unlabel.testing.task_trial import TaskTrial
    from unlabel.testing.trials import CommandTrial, EncoderTrial, EvaluationTrial, ObserverTrial, Whole

__all__ = ["CHECKS", "PLUGIN_CHECKS", "Check", "NotApplicable", "Violation"]


class Violation(AssertionError):
    """A component breaks the contract: what is wrong, with the figure, and how to mend it."""


class NotApplicable(Exception):
    """There is nothing to check here, and why."""


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        function: takes the component's trial and raises.
        kinds: the hooks whose components are checked.
    """

    function: Callable[[Any], None]
    kinds: tuple[str, ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def summary(self) -> str:
        """What is checked, in one line."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


_FOUND: list[Check] = []

EVERYTHING = ("tasks", "encoders", "datasets", "evaluations", "optimizers", "commands", "observers")


def _of(*kinds: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a check of components of these kinds."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        _FOUND.append(Check(function, kinds))
        return function

    return register


# The plugin as a whole


@_of("plugin")
def loads(plugin: Whole) -> None:
    """The plugin is installed, and the host finds nothing wrong with it.

    A name without the plugin's prefix, or that two plugins claim, a misspelt hook, something printed while importing.
    """
    problems = plugin.found.problems
    if problems:
        raise Violation("; ".join(problems))


@_of("plugin")
def imports_nothing_heavy(plugin: Whole) -> None:
    """Asking what the plugin offers imports neither torch nor numpy, in an interpreter of its own.

    Every `unlabel` command asks every installed plugin; one heavy import costs all of them seconds.
    """
    heavy = plugin.imported() & {"torch", "numpy"}
    if heavy:
        raise Violation(
            f"the plugin's entry point imports {' and '.join(sorted(heavy))}: name components by strings "
            "('package.module:Class'), and move imports out of its module and of the package's __init__.py"
        )


# Every component


@_of(*EVERYTHING)
def resolves(component: Component) -> None:
    """The name leads to an object of the kind that it is offered as."""
    wrong = component.misfit()
    if wrong:
        raise Violation(wrong)


@_of(*EVERYTHING)
def is_described(component: Component) -> None:
    """There is a docstring, whose first line says in one sentence what this is; `unlabel list` shows it.

    A task's is its module's: the idea, the paper, what is predicted from what, where it differs.
    """
    line = component.document.partition("\n")[0]
    where = (
        f"module {component.offer.target.partition(':')[0]}" if component.kind == "tasks" else component.offer.target
    )
    if not line:
        raise Violation(f"{where} has no docstring: say in its first line what {component.name} is")
    if len(line) > 160:
        raise Violation(f"the first line of {where} has {len(line)} characters: one short sentence, then a blank line")


@_of("tasks", "encoders", "datasets", "evaluations")
def keywords_documented(component: Component) -> None:
    """Every keyword has a type and a meaning under ``Args:``, and a task's has a default and is keyword-only.

    Keywords are the configuration: `unlabel show` prints them, and values given on the command line are checked
    against their types. The defaults of a task are its paper's.
    """
    problems = component.undocumented()
    if problems:
        raise Violation("; ".join(problems))


# Tasks


@_of("tasks")
def recipes_are_whole(task: TaskTrial) -> None:
    """`tiny()` is there; every recipe is documented, fits its components' keywords, and survives JSON and YAML.

    `paper()`, with its claim and cost, and `quick()`, which `unlabel train NAME` starts, are checked if they are there.
    """
    found = task.recipes()
    if "tiny" not in found:
        raise Violation(
            f"{task.offer.target.partition(':')[0]} has no tiny(): a recipe of seconds that every check runs; add "
            "`def tiny() -> Recipe:` with small settings and a few updates"
        )
    problems = [f"{name}(): {problem}" for name in found for problem in task.recipe_problems(name)]
    if problems:
        raise Violation("; ".join(problems))


@_of("tasks")
def trains(task: TaskTrial) -> None:
    """The `tiny` recipe runs: data, loss, updates, checkpoints, monitors, features.

    What goes wrong here would go wrong in most other checks too; they then refer to this one.
    """
    task.trained()


@_of("tasks")
def loss_is_a_finite_scalar(task: TaskTrial) -> None:
    """`loss` returns named scalars, all finite; those that drive the update need a gradient."""
    if task.malformed is None:
        raise NotApplicable(f"it raises an error, see {task.name}-trains")
    if task.malformed:
        raise Violation(task.malformed)


@_of("tasks")
def gradients_reach_what_learns(task: TaskTrial) -> None:
    """Every trainable parameter is in an optimizer and gets a gradient that is not always zero; frozen ones get none.

    A parameter that gets none is dead weight, or a teacher that ought to be frozen. The figures are those of the whole
    tiny run, over all its stages. (One that is not finite stops the run, see `trains`.)
    """
    seen = task.recorded()
    given: dict[str, list[Any]] = {}
    for gradients in seen.gradients:
        for name, gradient in gradients.items():
            given.setdefault(name, []).append(gradient)
    groups = {
        "in no optimizer: let optimizers() include them, or requires_grad_(False)": seen.learning - given.keys(),
        "get no gradient: use them in loss(), or requires_grad_(False)": {
            name for name, values in given.items() if all(value is None for value in values)
        },
        f"get nothing but zeros in {len(seen.gradients)} updates: what they compute does not matter to the loss": {
            name
            for name, values in given.items()
            if any(v is not None for v in values) and all(v is None or not v.any() for v in values)
        },
        "are frozen and get a gradient nevertheless: freeze before the forward pass, or clear it": seen.reached,
        "are a teacher's and learn: freeze them with requires_grad_(False), or make it by momentum.teacher()": {
            name for name in seen.learning if "teacher" in name.split(".")
        },
    }
    problems = [f"{_patterns(names)} ({len(names)}) {words}" for words, names in groups.items() if names]
    if problems:
        raise Violation("parameters " + "; parameters ".join(problems))


@_of("tasks")
def overfits_one_batch(task: TaskTrial) -> None:
    """On one batch, with its randomness held still, the loss falls clearly.

    A loss that cannot be lowered on a single batch does not depend on what learns, or its gradient has the wrong sign.
    Teachers, queues and running statistics are held still too, so that the goal does not move.
    """
    for number in task.stages:
        before, after = task.overfitted(number)
        if not before - after > task.fall * max(abs(before), abs(after)):
            raise Violation(
                f"{task.attempts} updates on one batch moved the loss of stage {task.short.stages[number].name!r} from "
                f"{before:.4g} to {after:.4g}; a tenth less is expected: does the loss depend on the parameters that "
                "learn, and does it fall when they do better?"
            )


@_of("tasks")
def encode_is_repeatable(task: TaskTrial) -> None:
    """`encode` gives finite features (N, dim), the same each time for the same samples, in evaluation mode.

    Neither dropout, nor a mask, nor a random crop, nor the samples' keys may enter.
    """
    built = task.ran_task
    features = task.features(built)
    count, width = task.count(built), task.width(built)
    if features.dim() != 2 or len(features) != count:
        raise Violation(f"encode() returns shape {tuple(features.shape)} for {count} samples; expected ({count}, dim)")
    if width is not None and features.shape[1] != width:
        raise Violation(
            f"encode() returns {features.shape[1]} numbers a sample, but `dim` is {width}: correct one of them"
        )
    if not features.is_floating_point() or not features.isfinite().all():
        raise Violation(f"encode() returns {features.dtype} with NaN or infinity in it: finite floats are expected")
    apart = task.again()
    if apart:
        raise Violation(
            f"encoding the same samples twice gives other features (by {apart:.2g} of the largest one): in "
            'evaluation mode encode() and eval_transform() draw nothing, neither from torch nor from batch["key"]'
        )


@_of("tasks")
def encode_ignores_batch_mates(task: TaskTrial) -> None:
    """A sample's features do not depend on what else is in the batch, nor on its place in it.

    Where they do (batch statistics in evaluation mode, a centring over the batch), no file of features can be trusted.
    Sums in another order may differ in the last digits: a ten-thousandth of the largest feature is let pass.
    """
    if task.samples.full_batch:
        raise NotApplicable("its samples are encoded together (Dataset.full_batch)")
    if task.again():
        raise NotApplicable(f"its features are never the same, see {task.name}-encode_is_repeatable")
    apart = task.mixed()
    if apart > 1e-4:
        raise Violation(
            f"in other company the features of a sample differ by {apart:.2g} of the largest one: encode() must treat "
            "each sample by itself; are batch statistics used in evaluation mode?"
        )


@_of("tasks")
def leaves_the_batch_alone(task: TaskTrial) -> None:
    """Neither `loss` nor `encode` changes the batch it is given, nor what the dataset's samples share.

    Another task, another micro-batch or the report may read it next.
    """
    for method, changed in task.scribbles().items():
        if changed:
            raise Violation(
                f"{method}() changes batch field {', '.join(repr(name) for name in changed)}: work on a copy; "
                "operations that end in an underscore, and assignments to a part, change what they are given"
            )


@_of("tasks")
def state_dict_is_everything(task: TaskTrial) -> None:
    """A task made with another seed that loads a checkpoint has the same loss and the same features, to the bit.

    Whatever decides what the task computes and is drawn or counted up must be a parameter or a buffer; a plain
    attribute is forgotten when a run resumes.
    """
    task.need_steady()
    for words, found in task.reloaded().items():
        if found:
            raise Violation(
                f"after loading its checkpoint {words} differ ({found}): something that matters is no parameter or "
                "buffer; register_buffer() it, or compute it in enter_stage()"
            )


@_of("tasks")
def resumes_exactly(task: TaskTrial) -> None:
    """Stopped after any update of the tiny run and resumed, it ends with the same weights and moments, to the bit.

    Most of them lie inside an epoch, whose first update is not repeated.
    """
    task.need_steady()
    *earlier, last = task.checkpoints()
    for path in earlier:
        found = task.unlike(last, task.resumed(path))
        if found:
            raise Violation(
                f"resumed after update {int(path.name.rpartition('-')[2])}, the run ends elsewhere ({found}): state "
                "that is no parameter or buffer is lost, enter_stage() must set flags whatever they were before, and "
                "what enter_epoch() computes from weights must be left as it was loaded when it says `resumed`"
            )


@_of("tasks")
def randomness_is_injected(task: TaskTrial) -> None:
    """The same seed gives the same loss; numpy's global generator does not matter; nothing is seeded.

    The loop seeds torch's generator for each update, which is what makes a run resume exactly.
    """
    for number in task.stages:
        found = task.draws(number)
        if found["again"]:
            raise Violation(
                f"with the same seed and batch the loss differs ({found['again']}): draw from torch's generator, or "
                'from batch["key"] by unlabel.seeds, and from nothing else (time, hash(), the order of a set)'
            )
        if found["numpy"]:
            raise Violation(
                f"loss() draws from numpy's global generator ({found['numpy']}), which nobody seeds: draw from "
                'torch\'s, or from batch["key"] by unlabel.seeds'
            )
        if found["seeded"]:
            raise Violation(
                "loss() seeds torch's generator, so that every update draws the same numbers: leave seeding to the loop"
            )


@_of("tasks")
def transform_is_repeatable(task: TaskTrial) -> None:
    """`transform` gives the same sample for the same (epoch, index), here and in other processes.

    Loader processes get a copy of it; it may draw only from the generator it is given.
    """
    transform = task.ran_task.transform()
    if transform is None:
        raise NotApplicable("it has no transform()")
    _same_everywhere(task.elsewhere(transform), "transform()", "draw only from the generator that is given")


@_of("tasks")
def two_processes_are_one(task: TaskTrial) -> None:
    """Two processes compute the gradients and statistics of one, on the same global batch, if the task says so.

    `Task.gathers` is True unless a task says otherwise: what compares samples gathers them (`unlabel.engine.gather`).
    Sums in another order may differ: a thousandth of the gradient's length is let pass.
    """
    if not task.ran_task.gathers:
        raise NotApplicable("it declares `gathers = False`")
    task.need_steady()
    apart, worst = task.apart_in_two()
    if apart > 1e-3:
        raise Violation(
            f"in two processes the first updates compute something else than in one (by {apart:.2g} of its length, "
            f"most of all {worst}): gather what is compared across samples (unlabel.engine.gather, "
            'unlabel.nn.batchnorm.convert), draw from batch["key"], or declare `gathers = False`'
        )


@_of("tasks")
def uses_no_network(task: TaskTrial) -> None:
    """The tiny run connects to no other machine: data, weights and reports come from the disk."""
    tried = task.tried
    if tried:
        raise Violation(
            f"the tiny run tried to {tried[0]} ({len(tried)} attempts): use the network only where the user asks for "
            "it, and let `tiny` need none"
        )


@_of("tasks")
def evaluates(task: TaskTrial) -> None:
    """The evaluations that the task names by default run on the tiny run, and return finite numbers by name."""
    names = task.target.evaluations
    if not names:
        raise NotApplicable("it names no evaluations")
    refusals = []
    for name in names:
        try:
            _numbers(task.evaluated(name), name)
        except NotApplicable as reason:
            refusals.append(str(reason))
    if len(refusals) == len(names):
        raise NotApplicable("; ".join(refusals))


@_of("tasks")
def exports_and_returns(task: TaskTrial) -> None:
    """The encoder, exported as safetensors and loaded again, gives the same features.

    Weights of convolutions lie otherwise in memory after a run, which adds up in another order: a hundred-thousandth of
    the largest feature is let pass.
    """
    apart = task.exported()
    if apart > 1e-5:
        raise Violation(
            f"the exported encoder gives other features (by {apart:.2g} of the largest one): everything it computes "
            "with must be a parameter or buffer under the name that exported() gives it, or follow from its keywords"
        )


# Encoders


@_of("encoders")
def makes_its_dim(encoder: EncoderTrial) -> None:
    """It is a module that says in `.dim` how many numbers a sample gets, and gives as many.

    Heads, probes and evaluations are built from `.dim`.
    """
    if encoder.other_than_module():
        raise Violation(f"{encoder.offer.target} makes a {encoder.other_than_module()}: a torch module is expected")
    width = getattr(encoder.encoder, "dim", None)
    if not isinstance(width, int) or width < 1:
        raise Violation(f"the encoder's `.dim` is {width!r}: the width of its features is expected, a positive integer")
    made = encoder.output()
    if made is None:
        raise NotApplicable(f"`.dim` is {width}, but no tiny recipe uses it and it offers no example() to encode")
    if made.shape[-1] != width:
        raise Violation(f"the encoder returns shape {tuple(made.shape)}, but `.dim` is {width}: correct one of them")


@_of("encoders")
def loads_elsewhere(encoder: EncoderTrial) -> None:
    """An export's own snippet loads the weights in a fresh interpreter, without `unlabel`, with the same features."""
    encoder.check_elsewhere()


# Datasets


@_of("datasets")
def is_pure(dataset: DatasetTrial) -> None:
    """A sample is the same each time, here and in other processes, whatever was done to it before.

    Loader processes get a copy by pickling; a resumed run reads its samples again.
    """
    for part, data in dataset.parts.items():
        if not isinstance(len(data), int) or len(data) < 1:
            raise Violation(f"len() of the {part} part is {len(data)}: at least one sample is expected")
        changed = dataset.scribbled(data, 0)
        if changed:
            raise Violation(
                f"writing into a sample of the {part} part changes what is read next ({', '.join(changed)}): return a "
                "copy, not a part of what the dataset keeps"
            )
    _same_everywhere(
        dataset.elsewhere(), "reading", "compute a sample from its index alone; no hash(), no time, no state"
    )


@_of("datasets")
def labels_fit(dataset: DatasetTrial) -> None:
    """`labels` has one whole number a sample, of every part, and `classes` a name for each."""
    problems = dataset.label_problems()
    if problems:
        raise Violation("; ".join(problems))


@_of("datasets")
def hides_labels(dataset: DatasetTrial) -> None:
    """No field that a task gets holds the labels; a sample may have them under ``"label"``, which is left out.

    A pretext task that can see labels is no pretext task, and its evaluation proves nothing.
    """
    names = dataset.leaks()
    if names:
        raise Violation(
            f"{', '.join(repr(name) for name in names)} {'holds' if len(names) == 1 else 'hold'} the labels: put them "
            "into `labels`, and call the field of a sample 'label' or leave it out"
        )


@_of("datasets")
def splits_are_disjoint(dataset: DatasetTrial) -> None:
    """No test sample is a training sample."""
    if "train" not in dataset.parts:
        raise Violation("split('train') is None: return the samples that may be trained on")
    if "test" not in dataset.parts:
        raise NotApplicable("nothing is held out: split('test') is None")
    shared = dataset.shared()
    if shared:
        raise Violation(f"{shared}: evaluations would measure what was learnt by heart")


@_of("datasets")
def names_its_samples(dataset: DatasetTrial) -> None:
    """`name_of` tells samples apart by a text: messages and the quarantine list name them so."""
    for part, data in dataset.parts.items():
        names = [data.name_of(index) for index in dataset.few(data)]
        if not all(isinstance(name, str) and name for name in names):
            raise Violation(
                f"name_of() of the {part} part returns {names[0]!r}: what a user calls the sample is expected"
            )
        if len(set(names)) < len(names):
            raise Violation(
                f"name_of() of the {part} part calls two samples {names[0]!r}: put the index in, or the path"
            )


@_of("datasets")
def table_is_what_is_read(dataset: DatasetTrial) -> None:
    """`table` holds the same samples, field by field and to the bit, as reading them one by one."""
    wrong = dataset.table_differences()
    if wrong:
        raise Violation(f"table() differs from dataset[index]: {', '.join(wrong[:3])}")


@_of("datasets")
def claims_only_its_own(dataset: DatasetTrial) -> None:
    """Asked whether a path is of its kind, it answers yes or no, and no to what is not.

    `--data PATH` goes to the first dataset that claims it; one that claims too much takes it away from the others.
    """
    if not dataset.may_claim():
        raise NotApplicable("it has no claims() of its own")
    for words, answer in dataset.claimed().items():
        if not isinstance(answer, bool):
            raise Violation(f"claims({words}) returns {answer!r}: True or False is expected")
        if answer:
            raise Violation(f"claims({words}) is True: claim a path only when there is a file in it that can be read")


@_of("datasets")
def reads_without_network(dataset: DatasetTrial) -> None:
    """Building it and reading samples connects to no other machine."""
    tried = dataset.connections()
    if tried:
        raise Violation(f"it tried to {tried[0]}: embed a small default, and download only in prepare(), when asked to")


# Evaluations


@_of("evaluations")
def measures(evaluation: EvaluationTrial) -> None:
    """It runs on a frozen tiny run and returns finite numbers by name."""
    _numbers(evaluation.measured(), evaluation.name)


# Observers


@_of("observers")
def hears_every_event(observer: ObserverTrial) -> None:
    """It goes through a whole run of two stages, with logs, saved checkpoints and a bad sample, and an early end.

    A run may end at any moment: an observer that was only made, or only started, must close as well.
    """
    observer.ready()
    observer.made().close()
    observer.started().close()
    made = observer.made()
    observer.told(made)
    made.close()


@_of("observers")
def changes_nothing(observer: ObserverTrial) -> None:
    """A run that is observed ends with the same weights, to the bit, as one that is not."""
    observer.ready()
    made = observer.made()
    found = observer.influence(made)
    made.close()
    if found:
        raise Violation(f"an observed run ends elsewhere ({found}): an observer only listens")


# Optimizers


@_of("optimizers")
def descends_and_resumes_exactly(optimizer: OptimizerTrial) -> None:
    """It lowers a loss, and one that goes on from its saved state takes the same steps to the bit."""
    first, last = optimizer.losses()
    if not last < first:
        raise Violation(f"a loss of {first:.4g} became {last:.4g} in {optimizer.UPDATES} updates: does it descend?")
    if found := optimizer.resumed():
        raise Violation(f"a resumed run ends elsewhere ({found}): keep all it needs as tensors or numbers in `state`")


# Commands


@_of("commands")
def has_help(command: CommandTrial) -> None:
    """A typed function with a docstring, whose `--help` works; its name is none of the core's."""
    if command.taken():
        raise Violation(f"`unlabel {command.name}` is a command of the core's: choose another name")
    untyped = command.untyped()
    if untyped:
        raise Violation(
            f"{', '.join(untyped)} of {command.offer.target} has no type: annotate it, so that values are checked"
        )
    text = command.help()
    if "Usage" not in text:
        raise Violation(
            f"`unlabel {command.name} --help` prints {text[:80]!r}: is the function one that typer can call?"
        )


# What checks have in common


def _patterns(names: set[str]) -> str:
    """Names in a few patterns: ``decoder.idle.*``."""
    if len(names) == 1:
        return next(iter(names))
    stems = sorted({name.rpartition(".")[0] + ".*" if "." in name else name for name in names})
    return ", ".join(stems[:4]) + (f", and {len(stems) - 4} more" if len(stems) > 4 else "")


def _same_everywhere(readings: list[dict[str, str]], what: str, mend: str) -> None:
    """Readings: here, here again, and in two other processes."""
    here, *others = readings
    for other, where in zip(others, ("a second time", "in another process", "in another process"), strict=True):
        wrong = sorted(name for name in here.keys() | other.keys() if here.get(name) != other.get(name))
        if wrong:
            raise Violation(
                f"{what} {where} gives something else ({wrong[0]}; {len(wrong)} of {len(here)} differ): {mend}"
            )


def _numbers(found: Any, name: str) -> None:
    """Whether an evaluation returned finite numbers by name."""
    if not isinstance(found, dict) or not found:
        raise Violation(f"{name} returns {found!r}: numbers by name are expected, e.g. {{'accuracy': 0.5}}")
    for key, value in found.items():
        if not isinstance(key, str) or isinstance(value, bool) or not isinstance(value, int | float):
            raise Violation(f"{name} returns {key!r}: {value!r} ({type(value).__name__}); a plain number is expected")
        if not math.isfinite(value):
            raise Violation(f"{name} returns {key} = {value}: a finite number is expected")


PLUGIN_CHECKS: tuple[Check, ...] = tuple(check for check in _FOUND if check.kinds == ("plugin",))
"""The checks of a plugin as a whole."""

CHECKS: tuple[Check, ...] = tuple(check for check in _FOUND if check.kinds != ("plugin",))
"""The checks of its components."""
