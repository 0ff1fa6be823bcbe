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
from unlabel.task import Batch, Progress
from unlabel_graph import pictures, propagation
from unlabel_graph.attributes import Attributes
from unlabel_graph.encoders.gcn import Convolution
from unlabel_graph.encoders.layers import Encoder, dropout
from unlabel_graph.sparse import kept

__all__ = ["NodeTask", "Objective", "joint", "two_stage"]

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
        select: with `supervised`: after each update, keep a copy of encoder and classifier as long as its accuracy on
            the validation nodes is not below the best so far; `unlabel_graph.evaluations` judges the copy.

    Attributes:
        draw: int64 scalar: seed of what is drawn once for the run (removed edges, masked nodes); kept in checkpoints.
    """

    evaluations: ClassVar[tuple[str, ...]] = ("linear_probe", "knn")
    gathers: ClassVar[bool] = False  # every process sees the whole graph, with a dropout mask of its own

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
        self._structure = kept(propagation.symmetric)  # of the edges that training sees
        self._whole = kept(propagation.symmetric)
        if supervised:
            self.evaluations = ("graph/node_classification", *self.evaluations)
            self.classifier = Convolution(encoder.dim, self.known_classes())
        self.register_buffer("draw", torch.randint(2**62, ()))
        self.select = supervised and select
        if self.select:
            trained = nn.ModuleDict({"encoder": encoder, "classifier": self.classifier})
            self.best = copy.deepcopy(trained).requires_grad_(False).eval()
            self.register_buffer("best_accuracy", torch.tensor(-1.0))
            self.register_buffer("best_update", torch.tensor(0))

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
            choices = ", ".join(get_args(Objective))
            raise UsageError(
                f"stage option objective {objective!r}: expected {choices}{nearest(str(objective), get_args(Objective))}"
            )
        if objective != "pretext" and not self.supervised and "objective" in stage.options:
            raise UsageError(f"objective {objective!r} needs --set task.supervised=true")
        self.objective = objective

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``"loss"`` of the pretext task alone; with `supervised` ``"loss_supervised"`` and ``"loss_pretext"``.

        One forward pass serves both. ``"accuracy"`` is that of the labelled training nodes, under dropout.
        """
        x, edges = self.training_inputs(batch)
        hidden = self.encoder(x, edges)  # (N, dim)
        dropped = dropout(hidden, self.drop, self.training)

        terms: dict[str, Tensor] = {}
        if self.supervised and self.objective != "pretext":
            logits = self.classifier(dropped, self._structure(edges, len(dropped)))  # (N, classes)
            labels = batch["train_label"]
            known = labels >= 0
            terms["loss_supervised"] = F.cross_entropy(logits[known], labels[known])
            terms["accuracy"] = (logits[known].detach().argmax(dim=1) == labels[known]).float().mean()
        if self.objective != "supervised":
            found = self.pretext(hidden, dropped, batch)
            terms |= {"loss_pretext" if self.supervised and k == "loss" else k: v for k, v in found.items()}
        if self.select and self.objective != "pretext":
            self._seen = batch
        return terms

    @torch.no_grad()
    def after_update(self, progress: Progress) -> None:
        """Keep a copy of encoder and classifier if they are as good on the validation nodes as any before."""
        if not self.select or self.objective == "pretext":
            return
        known = self._seen["validation_label"] >= 0
        if not known.any():
            return
        with evaluating(self):
            logits = self._classify(self.encoder, self.classifier, self._seen)
        accuracy = (logits.argmax(dim=1) == self._seen["validation_label"])[known].float().mean()
        if accuracy >= self.best_accuracy:  # of equally good epochs the later one
            self.best_accuracy.copy_(accuracy)
            self.best_update.fill_(progress.total_step)
            new = {**_prefixed("encoder", self.encoder), **_prefixed("classifier", self.classifier)}
            for name, value in self.best.state_dict().items():
                value.copy_(new[name])

    def classify(self, batch: Batch) -> Tensor:
        """Logits of all nodes, (N, classes), on the whole graph: of the copy kept by `select`, if there is one."""
        if not self.supervised:
            raise UsageError("the task has no classifier: train it with --set task.supervised=true")
        if self.select and int(self.best_update):
            return self._classify(self.best["encoder"], self.best["classifier"], batch)
        return self._classify(self.encoder, self.classifier, batch)

    def _classify(self, encoder: nn.Module, classifier: nn.Module, batch: Batch) -> Tensor:
        hidden = encoder(self.encoder.inputs(batch), batch["edge_index"])
        logits: Tensor = classifier(hidden, self._whole(batch["edge_index"], len(hidden)))
        return logits

    def encode(self, batch: Batch) -> Tensor:
        """Representations of the batch's nodes on the whole graph: (B, dim)."""
        hidden: Tensor = self.encoder(self.encoder.inputs(batch), batch["edge_index"])
        return hidden[batch["node"]]

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """The representations' first two principal components, coloured by class where it is known."""
        hidden = self.encoder(self.encoder.inputs(batch), batch["edge_index"])
        labels = torch.maximum(batch["train_label"], batch["validation_label"])
        return {"representations": pictures.scatter(hidden, labels)}


def _prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def _stage(**changes: Any) -> Stage:
    """The paper's: Adam over everything, learning rate 0.01, L2 penalty 5e-4, whole graph."""
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
    )


def two_stage(task: str, *, steps: int = 200, **options: Any) -> Recipe:
    """Encoder and pretext head first, by ``L_self`` alone; then encoder and classifier by ``L_task``. As `joint`."""
    first = joint(task, 1.0, steps=steps, **options)
    stages = [
        _stage(name="pretext", steps=steps, options={"objective": "pretext"}),
        _stage(name="supervised", steps=steps, options={"objective": "supervised"}),
    ]
    return first.model_copy(update={"stages": stages})
