"""What a task promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unlabel.testing.checks.promise import NotApplicable, Violation, are_numbers, of, same_everywhere

if TYPE_CHECKING:
    from unlabel.testing.task_trial import TaskTrial


@of("tasks")
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


@of("tasks", costly=True)
def trains(task: TaskTrial) -> None:
    """The `tiny` recipe runs: data, loss, updates, checkpoints, monitors, features.

    What goes wrong here would go wrong in most other checks too; they then refer to this one.
    """
    task.trained()


@of("tasks")
def loss_is_a_finite_scalar(task: TaskTrial) -> None:
    """`loss` returns named scalars, all finite; those that drive the update need a gradient."""
    if task.malformed is None:
        raise NotApplicable(f"it raises an error, see {task.name}-trains")
    if task.malformed:
        raise Violation(task.malformed)


@of("tasks", costly=True)
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


@of("tasks", costly=True)
def keeps_to_its_device(task: TaskTrial) -> None:
    """On an accelerator, all that `loss` computes stays there, and no update after the first waits for a value.

    It is tried on a device that need not exist: tensors there have shapes and no values. What is asked of what came
    from the host (a graph's edges, a counter) is answered in the first update only: keep what is computed from it.
    """
    if not task.loses:
        raise NotApplicable("it has a training_step() and no loss()")
    if task.malformed is None or task.malformed:
        raise NotApplicable(f"its loss is at fault, see {task.name}-loss_is_a_finite_scalar")
    for number in range(len(task.short.stages)):
        problem = task.accelerated(number)
        if problem:
            raise Violation(f"in stage {task.short.stages[number].name!r}, {problem}")


@of("tasks", costly=True)
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


@of("tasks", costly=True)
def encode_is_repeatable(task: TaskTrial) -> None:
    """`encode` gives finite features (N, dim), or `Rows` of them, the same each time, in evaluation mode.

    This is true of each of the task's `outputs`. Neither dropout, nor a mask, nor a random crop, nor the samples' keys
    may enter.
    """
    if problem := task.misshapen(task.ran_task):
        raise Violation(problem)
    apart = task.again()
    if apart:
        raise Violation(
            f"encoding the same samples twice gives other features (by {apart:.2g} of the largest one): in "
            'evaluation mode encode() and eval_transform() draw nothing, neither from torch nor from batch["key"]'
        )


@of("tasks", costly=True)
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


@of("tasks", costly=True)
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


@of("tasks", costly=True)
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


@of("tasks", costly=True)
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


@of("tasks", costly=True)
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


@of("tasks", costly=True)
def transform_is_repeatable(task: TaskTrial) -> None:
    """`transform` gives the same sample for the same (epoch, index), here and in other processes.

    Loader processes get a copy of it; it may draw only from the generator it is given.
    """
    transform = task.ran_task.transform()
    if transform is None:
        raise NotApplicable("it has no transform()")
    same_everywhere(task.elsewhere(transform), "transform()", "draw only from the generator that is given")


@of("tasks", costly=True)
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


@of("tasks", costly=True)
def uses_no_network(task: TaskTrial) -> None:
    """The tiny run connects to no other machine: data, weights and reports come from the disk."""
    tried = task.tried
    if tried:
        raise Violation(
            f"the tiny run tried to {tried[0]} ({len(tried)} attempts): use the network only where the user asks for "
            "it, and let `tiny` need none"
        )


@of("tasks", costly=True)
def evaluates(task: TaskTrial) -> None:
    """The evaluations that the task names by default run on the tiny run, and return finite numbers by name."""
    names = task.target.evaluations
    if not names:
        raise NotApplicable("it names no evaluations")
    refusals = []
    for name in names:
        try:
            are_numbers(task.evaluated(name), name)
        except NotApplicable as reason:
            refusals.append(str(reason))
    if len(refusals) == len(names):
        raise NotApplicable("; ".join(refusals))


@of("tasks", costly=True)
def exports_and_returns(task: TaskTrial) -> None:
    """The encoders, exported as safetensors and loaded again, give the same features.

    Weights of convolutions lie otherwise in memory after a run, which adds up in another order: a hundred-thousandth of
    the largest feature is let pass.
    """
    apart = task.exported()
    if apart > 1e-5:
        raise Violation(
            f"the exported encoder gives other features (by {apart:.2g} of the largest one): everything it computes "
            "with must be a parameter or buffer under the name that exported() gives it, or follow from its keywords"
        )


def _patterns(names: set[str]) -> str:
    """Names in a few patterns: ``decoder.idle.*``."""
    if len(names) == 1:
        return next(iter(names))
    stems = sorted({name.rpartition(".")[0] + ".*" if "." in name else name for name in names})
    return ", ".join(stems[:4]) + (f", and {len(stems) - 4} more" if len(stems) > 4 else "")
