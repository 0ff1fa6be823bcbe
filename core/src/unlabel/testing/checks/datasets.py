"""What a dataset promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlabel.testing.checks.promise import NotApplicable, Violation, of, same_everywhere

if TYPE_CHECKING:
    from unlabel.testing.dataset_trial import DatasetTrial


@of("datasets", costly=True)
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
    same_everywhere(
        dataset.elsewhere(), "reading", "compute a sample from its index alone; no hash(), no time, no state"
    )


@of("datasets")
def labels_fit(dataset: DatasetTrial) -> None:
    """`labels` has one whole number a sample, of every part, and `classes` a name for each."""
    problems = dataset.label_problems()
    if problems:
        raise Violation("; ".join(problems))


@of("datasets")
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


@of("datasets", costly=True)
def splits_are_disjoint(dataset: DatasetTrial) -> None:
    """No test sample is a training sample."""
    if "train" not in dataset.parts:
        raise Violation("split('train') is None: return the samples that may be trained on")
    if "test" not in dataset.parts:
        raise NotApplicable("nothing is held out: split('test') is None")
    shared = dataset.shared()
    if shared:
        raise Violation(f"{shared}: evaluations would measure what was learnt by heart")


@of("datasets")
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


@of("datasets")
def table_is_what_is_read(dataset: DatasetTrial) -> None:
    """`table` holds the same samples, field by field and to the bit, as reading them one by one."""
    wrong = dataset.table_differences()
    if wrong:
        raise Violation(f"table() differs from dataset[index]: {', '.join(wrong[:3])}")


@of("datasets")
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


@of("datasets")
def reads_without_network(dataset: DatasetTrial) -> None:
    """Building it and reading samples connects to no other machine."""
    tried = dataset.connections()
    if tried:
        raise Violation(f"it tried to {tried[0]}: embed a small default, and download only in prepare(), when asked to")
