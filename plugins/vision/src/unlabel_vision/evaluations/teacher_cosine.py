"""How well a student of a teacher predicts it: the authors' validation of EVA, on images held out."""

from __future__ import annotations

import torch
from torch.nn import functional

from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel_vision import views
from unlabel_vision.tasks import eva

__all__ = ["teacher_cosine"]


@torch.no_grad()
def teacher_cosine(frozen: Frozen) -> dict[str, float]:
    """Cosine of prediction and teacher at every second patch, which is hidden (Fang et al., arXiv 2211.07636).

    The variant with a decoder gets a mask of its own share and kind, from each image's key.

    Args:
        frozen: of a task vision/eva, alone or one of several; held-out images, or, without any, training images.

    Returns:
        ``{"cosine", "constant"}``: mean over all hidden patches, and what the best constant vector would reach.

    Raises:
        UsageError: another task, or its teacher cannot be had.
    """
    tasks = [module for module in frozen.task.modules() if isinstance(module, eva.EVA)]
    if not tasks:
        raise UsageError(f"vision/teacher_cosine judges vision/eva, not {type(frozen.task).__name__}")
    task = tasks[0]
    total = hidden = 0.0
    count, constant = 0, torch.zeros(task.teacher.dim, dtype=torch.float64, device=frozen.engine.device)
    for batch in frozen.batches("test" if frozen.has_split("test") else "train", task.paired_view()):
        images = views.to_float(batch["image"], *task.statistics)
        with frozen.engine.autocast():
            target = task.targets(batch)
            mask = task.masks(batch) if task.decoder else eva.alternate(task.length).expand(len(images), -1)
            mask = mask.to(images.device)
            cosine = functional.cosine_similarity(task.predict(images, mask).float(), target.float(), dim=-1)
        total += float(cosine[mask].double().sum())
        hidden += float(mask.sum())
        constant += functional.normalize(target.float(), dim=-1).double().sum((0, 1))
        count += target.shape[0] * target.shape[1]
    return {"cosine": total / hidden, "constant": float(constant.norm()) / count}
