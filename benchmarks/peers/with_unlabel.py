"""SimCLR and MAE with unlabel: its one function; and the two ceilings, model alone and data alone."""

from __future__ import annotations

import works

chosen = works.options(__doc__)
begun = works.processor()

import torch  # noqa: E402

import unlabel  # noqa: E402
from unlabel import Recipe, Ref, Stage  # noqa: E402
from unlabel.engine import Engine  # noqa: E402
from unlabel.recipe import Execution  # noqa: E402

unlabel.train  # noqa: B018  # loaded when first asked for
imported = works.processor() - begun


def recipe(work: works.Work, precision: str) -> Recipe:
    if work.contrastive:
        task = Ref(
            "vision/simclr",
            temperature=work.temperature,
            hidden=work.hidden,
            out=work.out,
            strength=work.strength,
            blur=work.blur,
            crop_scale=(work.scale, 1.0),
        )
        stem = "small" if work.size <= 64 else "standard"
        encoder = Ref("vision/resnet", depth=18, stem=stem, image_size=work.size)
        settings = {"optimizer": "sgd", **works.SGD}
    else:
        names = {f"decoder_{name}": value for name, value in works.DECODER.items()}
        task = Ref("vision/mae", mask_ratio=works.MASK_RATIO, crop_scale=(work.scale, 1.0), **names)
        encoder = Ref("vision/vit", dim=192, heads=3)
        settings = {"optimizer": "adamw", **works.ADAMW}
    stage = Stage(steps=works.FAR, batch_size=chosen.batch, **settings)
    return Recipe(
        task=task,
        encoder=encoder,
        dataset=Ref("vision/folder", path=str(chosen.data)),
        stages=[stage],
        execution=Execution(device="cpu", precision=precision),
    )


def null(made: Recipe, work: works.Work) -> None:
    """The task without its networks, in the same loop."""
    from torch import Tensor, nn

    from unlabel import loop
    from unlabel.build import build, build_dataset
    from unlabel.catalog.plugins import Catalog
    from unlabel.task import Batch, Task
    from unlabel_vision import views

    catalog, engine = Catalog.installed(), Engine("cpu", "fp32")
    real = build(made, catalog, engine)

    class Null(Task):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def transform(self) -> object:
            return real.transform()

        def loss(self, batch: Batch) -> dict[str, Tensor]:
            images = real.photometric.pair(batch) if work.contrastive else [views.to_float(batch["image"])]
            return {"loss": self.weight * sum(part[:, :, 0, 0].sum() for part in images)}

    samples = build_dataset(made.dataset, catalog).split("train")
    chosen.out.mkdir(parents=True, exist_ok=True)
    loop.train(loop.Training(made, Null(), samples, engine, chosen.out, []))


def alone(made: Recipe, precision: str) -> None:
    """The same updates on batches that are already there: the model's own speed."""
    from unlabel import data
    from unlabel.build import build, build_dataset
    from unlabel.catalog.plugins import Catalog

    catalog, engine = Catalog.installed(), Engine("cpu", precision)
    task = build(made, catalog, engine)
    samples = build_dataset(made.dataset, catalog).split("train")
    stage = made.stages[0].resolved(len(samples))
    stream = data.batches(samples, stage, engine, seed=0, transform=task.transform())
    batches = [next(stream)[0] for _ in range(2)]
    if chosen.work.contrastive:  # colours are the data's
        views = [task.photometric.pair(batch) for batch in batches]
        task.loss = lambda number: {"loss": task.loss_of(*views[number])}
        batches = [0, 1]
    optimizers = task.optimizers(stage)
    task.train()
    for step in range(works.FAR):
        task.training_step([batches[step % 2]], optimizers, engine, stage)


def main() -> None:
    precision = "auto" if chosen.defaults else chosen.precision
    made = recipe(chosen.work, precision)
    works.Clock(chosen, imported, precision=Engine("cpu", precision).precision, augmentation=repr(made.task.options))
    if chosen.model == "null":
        null(made, chosen.work)
    elif chosen.model == "alone":
        alone(made, precision)
    else:
        unlabel.train(made, out=chosen.out / "run", evaluate=False)


main()
