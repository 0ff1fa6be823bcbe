"""SimCLR and MAE with stable-pretraining: its modules under Lightning's trainer."""

from __future__ import annotations

import types

import works

chosen = works.options(__doc__)
begun = works.processor()

import lightning  # noqa: E402
import stable_pretraining as spt  # noqa: E402
import torch  # noqa: E402
from stable_pretraining.data import transforms  # noqa: E402
from stable_pretraining.forward import simclr  # noqa: E402
from stable_pretraining.losses import NTXEntLoss  # noqa: E402
from stable_pretraining.methods.mae import MAE  # noqa: E402
from torch import nn  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402

spt.Module  # noqa: B018  # loaded when first asked for
imported = works.processor() - begun


def view(work: works.Work) -> transforms.Compose:
    brightness, contrast, saturation, hue = work.jitter
    blur = [transforms.PILGaussianBlur(sigma=works.SIGMA, p=work.blur)] if work.blur else []
    return transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((work.size, work.size), scale=(work.scale, 1.0)),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ColorJitter(brightness, contrast, saturation, hue, p=works.JITTER_P),
        transforms.RandomGrayscale(p=works.GRAY_P),
        *blur,
        transforms.ToImage(mean=works.MEAN, std=works.STD),
    )


def crop(work: works.Work) -> transforms.Compose:
    return transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop(
            (work.size, work.size), scale=(work.scale, 1.0), interpolation=InterpolationMode.BICUBIC
        ),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ToImage(mean=works.MEAN, std=works.STD),
    )


def null(self: spt.Module, batch: dict[str, object], stage: str) -> dict[str, torch.Tensor]:
    images = [part["image"] for part in batch["views"]] if "views" in batch else [batch["image"]]
    return {"loss": self.projector.weight.sum() * sum(part[:, :, 0, 0].sum() for part in images)}


def masked(self: MAE, batch: dict[str, object], stage: str) -> dict[str, torch.Tensor]:
    return {"loss": MAE.forward(self, batch["image"]).loss}


def module(work: works.Work) -> spt.Module:
    optimizer = {"type": "SGD", **works.SGD} if work.contrastive else {"type": "AdamW", **works.ADAMW}
    optim = {"optimizer": optimizer, "scheduler": {"type": "ConstantLR"}, "interval": "step"}
    if chosen.model == "null":
        return spt.Module(forward=null, projector=nn.Linear(1, 1), optim=optim)
    if not work.contrastive:
        made = MAE(
            works.backbone(work),
            decoder_embed_dim=works.DECODER["dim"],
            decoder_depth=works.DECODER["depth"],
            decoder_num_heads=works.DECODER["heads"],
            mask_ratio=works.MASK_RATIO,
        )
        made.forward = types.MethodType(masked, made)
        made.optim = optim
        return made
    projector = nn.Sequential(
        nn.Linear(works.FEATURES, work.hidden, bias=False),
        nn.BatchNorm1d(work.hidden),
        nn.ReLU(),
        nn.Linear(work.hidden, work.out),
    )
    return spt.Module(
        forward=simclr,
        backbone=works.backbone(work),
        projector=projector,
        simclr_loss=NTXEntLoss(temperature=work.temperature),
        optim=optim,
    )


def main() -> None:
    work = chosen.work
    precision = {"fp32": "32-true", "bf16": "bf16-mixed"}[chosen.precision]
    transform = transforms.MultiViewTransform([view(work), view(work)]) if work.contrastive else crop(work)
    works.Clock(chosen, imported, precision=precision, augmentation=repr(transform))
    dataset = spt.data.FromTorchDataset(
        ImageFolder(str(chosen.data)), names=["image", "label"], transform=transform, add_sample_idx=False
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=chosen.batch, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(
        max_steps=works.FAR,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=chosen.out,
        **({} if chosen.defaults else {"precision": precision}),
    )
    trainer.fit(module(work), train_dataloaders=loader)


main()
