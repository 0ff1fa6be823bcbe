"""Pretext tasks on the representations of nodes, alone or jointly with classification: the story of SelfTask.

Jin, Derr, Liu, Wang, Wang, Liu, Tang, "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020,
arXiv 2006.10141. Joint training is ``L_task + lambda L_self`` on one forward pass with one dropout mask; two-stage
training first trains encoder and pretext head on ``L_self`` and then the whole classifier on ``L_task``. Which of the
two a run does stands in its stages: lambda is the weight of ``loss_pretext``, and the option ``objective`` of a stage
says which of the losses there are.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Recipe, Ref, Stage, Task
from unlabel.errors import UsageError, nearest
from unlabel.evaluate.features import evaluating
from unlabel.recipe import Execution
from unlabel.task import Batch
from unlabel_graph import pictures, propagation
from unlabel_graph.attributes import Attributes
from unlabel_graph.encoders.gcn import Convolution
from unlabel_graph.encoders.layers import Encoder, dropout
from unlabel_graph.sparse import cache_last

__all__ = ["NodeTask", "Objective", "joint", "tiny", "two_stage"]

Objective = Literal["joint", "pretext", "supervised"]
"""Which losses a stage has: both, ``L_self`` alone, ``L_task`` alone."""


class NodeTask(Task):
    """A task on nodes. Subclasses give `pretext`: their loss (and metrics) from the representations.

    Args:
        encoder: any graph encoder.
        supervised: also classify the labelled training nodes, by one more graph convolution on the same
            representations; needs labels. Without, only the pretext task is trained, and no label is used by it.
        classes: number of classes; by default that of the data.
        drop: dropout on the representations, before classifier and pretext head.
        select: with `supervised`: keep a copy of encoder and classifier of the update with the best accuracy on the
            validation nodes, the later one of equals, for `graph/node_classification` to judge.

    Attributes:
        draw: int64 scalar: seed of what is drawn once for the run (removed edges, masked nodes); kept in checkpoints.
    """

    evaluations: ClassVar[tuple[str, ...]] = ("linear_probe", "knn")
    gathers: ClassVar[bool] = False  # every process sees the whole graph, with a dropout mask of its own
    obsolete: ClassVar[tuple[str, ...]] = ("update",)  # a copy of the loop's counter

    draw: Tensor
    best: nn.ModuleDict
    best_accuracy: Tensor
    best_update: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        super().__init__()
        self.encoder, self.supervised, self.drop = encoder, supervised, drop
        self.classes = classes
        self.objective: Objective = "joint"
        self._structure = cache_last(propagation.symmetric)  # of the edges that training sees
        self._whole = cache_last(propagation.symmetric)
        self._labelled, self._any_label = cache_last(_labelled), cache_last(_labelled, on_host=True)
        self._unlabelled = cache_last(_unlabelled)
        self._seed = cache_last(lambda draw, version: int(draw))
        if supervised:
            # of this object alone: a task without a classifier is not judged by one
            self.evaluations = ("graph/node_classification", *self.evaluations)  # type: ignore[misc]
            self.classifier = Convolution(encoder.dim, self.known_classes())
        self.register_buffer("draw", torch.randint(2**62, ()))
        self.select = supervised and select
        if self.select:
            trained = nn.ModuleDict({"encoder": encoder, "classifier": self.classifier})
            self.best = copy.deepcopy(trained).requires_grad_(False).eval()
            self.register_buffer("best_accuracy", torch.tensor(-1.0))
            self.register_buffer("best_update", torch.tensor(0))

    @property
    def seed(self) -> int:
        """`draw` as a number, which the device is asked for once, not in every update."""
        return int(self._seed(self.draw, self.draw._version))

    def training_labels(self, batch: Batch) -> Tensor:
        """The labels of training nodes: int64 (N,), -1 elsewhere; the only ones that targets may use.

        Raises:
            UsageError: there are none.
        """
        labels: Tensor = batch["train_label"]
        if not len(self._any_label(labels)[0]):
            raise UsageError("this task builds its targets from training labels, and the data have none")
        return labels

    def unlabelled(self, labels: Tensor) -> Tensor:
        """Numbers of the nodes without a training label: int64 (U,), ascending; made once for a graph."""
        numbers: Tensor = self._unlabelled(labels)
        return numbers

    def known_classes(self) -> int:
        """The number of classes, or UsageError saying how to give it."""
        if self.classes is None:
            raise UsageError("the number of classes is unknown: give data with labels, or --set task.classes=NUMBER")
        return self.classes

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The pretext task's ``"loss"`` and metrics.

        Args:
            hidden: float (N, dim): representations of all nodes.
            dropped: the same after dropout, with the mask that the classifier sees too.
            batch: with the graph.
        """
        raise NotImplementedError(f"{type(self).__name__} must define pretext(hidden, dropped, batch)")

    def training_inputs(self, batch: Batch) -> tuple[Attributes, Tensor]:
        """Attributes and edges that training sees: by default all of them."""
        return self.encoder.inputs(batch), batch["edge_index"]

    def train(self, mode: bool = True) -> NodeTask:
        """As for any module; the kept copy stays in evaluation mode."""
        super().train(mode)
        if self.select:
            self.best.eval()
        return self

    def enter_stage(self, stage: Stage) -> None:
        objective = stage.options.get("objective", "joint")
        if objective not in get_args(Objective):
            hint = nearest(str(objective), get_args(Objective))
            raise UsageError(f"stage option objective {objective!r}: expected {', '.join(get_args(Objective))}{hint}")
        if objective != "pretext" and not self.supervised and "objective" in stage.options:
            raise UsageError(f"objective {objective!r} needs --set task.supervised=true")
        self.objective = objective

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``"loss"`` of the pretext task alone; with `supervised` ``"loss_supervised"`` and ``"loss_pretext"``.

        One forward pass serves both. ``"accuracy"`` is that of the labelled training nodes, under dropout.
        """
        x, edges = self.training_inputs(batch)
        hidden = self.encoder(x, edges)  # (N, dim)
        # one dropout mask for both losses: the authors' heads read e_i after ReLU and dropout (their "layer 1.5")
        dropped = dropout(hidden, self.drop, self.training)

        terms: dict[str, Tensor] = {}
        if self.supervised and self.objective != "pretext":
            logits = self.classifier(dropped, self._structure(edges, len(dropped)))  # (N, classes)
            known, labels = self._labelled(batch["train_label"])
            # L_task, Kipf and Welling (1609.02907), eq. 10; theirs is a sum, SelfTask's a mean over D_L
            terms["loss_supervised"] = F.cross_entropy(logits[known], labels)
            terms["accuracy"] = (logits[known].detach().argmax(dim=1) == labels).float().mean()
        if self.objective != "supervised":
            pretext = self.pretext(hidden, dropped, batch)
            terms |= {"loss_pretext" if self.supervised and k == "loss" else k: v for k, v in pretext.items()}
        if self.select and self.objective != "pretext" and self.training:
            self._keep_the_best(hidden.detach(), x, edges, batch)
        return terms

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a count that changes with each update
    @torch.no_grad()
    def _keep_the_best(self, hidden: Tensor, x: Attributes, edges: Tensor, batch: Batch) -> None:
        """Copy encoder and classifier as the last update left them, if none before was better on validation nodes.

        Called before the next update, because its representations, without dropout, are the ones to judge: they cost
        nothing more, unless training sees other inputs than evaluation, or the encoder itself behaves differently.
        """
        whole = x is self.encoder.inputs(batch) and edges is batch["edge_index"] and self.encoder.steady
        logits = self._logits(self.classifier, hidden, batch) if whole else self._latest(batch)
        accuracy = _accuracy(logits, batch["validation_label"])
        better = accuracy >= self.best_accuracy  # of equally good updates the later one: the authors' code
        self.best_accuracy.copy_(torch.where(better, accuracy, self.best_accuracy))
        self.best_update.copy_(torch.where(better, self.progress.total_step, self.best_update))
        new = nn.ModuleDict({"encoder": self.encoder, "classifier": self.classifier}).state_dict()
        for name, value in self.best.state_dict().items():
            value.copy_(torch.where(better, new[name], value))

    def classify(self, batch: Batch) -> tuple[Tensor, int]:
        """Logits of all nodes on the whole graph, (N, classes), and the number of the update they are of.

        With `select`, of the update that was best on the validation nodes, the last one included; 0 is no training.
        """
        if not self.supervised:
            raise UsageError("the task has no classifier: train it with --set task.supervised=true")
        latest = self._latest(batch)
        selected = self.select and self.best_accuracy >= 0 and self.best_update > 0  # there are validation nodes
        if not selected or _accuracy(latest, batch["validation_label"]) >= self.best_accuracy:
            return latest, self.progress.total_step
        hidden = self.best["encoder"](self.encoder.inputs(batch), batch["edge_index"])
        return self._logits(self.best["classifier"], hidden, batch), int(self.best_update)

    @torch.no_grad()
    def _latest(self, batch: Batch) -> Tensor:
        with evaluating(self):
            hidden = self.encoder(self.encoder.inputs(batch), batch["edge_index"])
        return self._logits(self.classifier, hidden, batch)

    def _logits(self, classifier: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
        logits: Tensor = classifier(hidden, self._whole(batch["edge_index"], len(hidden)))
        return logits

    def encode(self, batch: Batch) -> Tensor:
        """Representations of the batch's nodes on the whole graph: (B, dim)."""
        hidden: Tensor = self.encoder(self.encoder.inputs(batch), batch["edge_index"])
        return hidden[batch["node"]]

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """The representations' first two principal components, coloured by class where it is known."""
        hidden = self.encoder(self.encoder.inputs(batch), batch["edge_index"])
        labels = torch.maximum(batch["train_label"], batch["validation_label"])
        return {"representations": pictures.scatter(hidden, labels)}


def _labelled(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the nodes with a label, int64 (L,), ascending; and their labels."""
    known = (labels >= 0).nonzero()[:, 0]
    return known, labels[known]


def _unlabelled(labels: Tensor) -> Tensor:
    return (labels < 0).nonzero()[:, 0]


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the labelled nodes that is right; NaN, which is no better than anything, if there are none."""
    return (logits.argmax(dim=1) == labels).float().sum() / (labels >= 0).sum()


def _stage(**changes: Any) -> Stage:
    """The paper's: Adam over everything, learning rate 0.01, L2 penalty 5e-4, whole graph."""
    # torch's Adam: the penalty is added to the gradient, on biases too, as in the authors' code
    fields: dict[str, Any] = {"batch_size": "all", "optimizer": "adam", "lr": 0.01, "schedule": "constant"}
    return Stage(**{**fields, "weight_decay": 5e-4, "decay_vectors": True, **changes})


def joint(
    task: str, weight: float, *, steps: int = 200, dataset: Ref | None = None, hidden: int = 128, **options: Any
) -> Recipe:
    """Joint training ``L_task + weight L_self``: 200 updates of the whole graph.

    Args:
        task: its name.
        weight: lambda.
        steps: updates.
        dataset: by default Planetoid's layout, to be given with ``--data``.
        hidden: width of the representation.
        options: of the task.
    """
    return Recipe(
        task=Ref(task, supervised=True, **options),
        encoder=Ref("graph/gcn", widths=(hidden,)),
        dataset=dataset or Ref("graph/planetoid"),
        stages=[_stage(steps=steps, weights={"loss_pretext": weight})],
        execution=Execution(precision="fp32"),  # sparse products have no other, and the rest is small
    )


def two_stage(task: str, *, steps: int = 200, **options: Any) -> Recipe:
    """Encoder and pretext head first, by ``L_self`` alone; then encoder and classifier by ``L_task``. As `joint`."""
    first = joint(task, 1.0, steps=steps, **options)
    stages = [
        _stage(name="pretext", steps=steps, options={"objective": "pretext"}),
        _stage(name="supervised", steps=steps, options={"objective": "supervised"}),
    ]
    return first.model_copy(update={"stages": stages})


def tiny(task: str, *, encoder: str = "graph/gcn", **options: Any) -> Recipe:
    """Four updates on a small generated graph, of `task` alone."""
    return Recipe(
        task=Ref(task, **options),
        encoder=Ref(encoder, widths=(8,)),
        dataset=Ref("graph/sbm", nodes=120, features=24, number_of_classes=3),
        stages=[_stage(steps=4)],
        execution=Execution(precision="fp32"),
    )
