"""SimCLR and MAE with lightly: its parts in a plain loop, as its documentation shows them."""

from __future__ import annotations

import contextlib

import works

chosen = works.options(__doc__)
begun = works.processor()

import torch  # noqa: E402
from lightly.data import LightlyDataset  # noqa: E402
from lightly.loss import NTXentLoss  # noqa: E402
from lightly.models import utils  # noqa: E402
from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM, SimCLRProjectionHead  # noqa: E402
from lightly.transforms import MAETransform, SimCLRTransform  # noqa: E402
from torch import nn  # noqa: E402

imported = works.processor() - begun


class SimCLR(nn.Module):
    def __init__(self, work: works.Work):
        super().__init__()
        self.backbone = works.backbone(work)
        self.head = SimCLRProjectionHead(works.FEATURES, work.hidden, work.out)
        self.criterion = NTXentLoss(temperature=work.temperature)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        first, second = (self.head(self.backbone(view).flatten(start_dim=1)) for view in views)
        return self.criterion(first, second)


class MAE(nn.Module):
    def __init__(self, work: works.Work):
        super().__init__()
        vit = works.backbone(work)
        self.patch_size, self.length = vit.patch_embed.patch_size[0], vit.patch_embed.num_patches + 1
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.decoder = MAEDecoderTIMM(
            num_patches=vit.patch_embed.num_patches,
            patch_size=self.patch_size,
            embed_dim=vit.embed_dim,
            decoder_embed_dim=works.DECODER["dim"],
            decoder_depth=works.DECODER["depth"],
            decoder_num_heads=works.DECODER["heads"],
        )

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        images = views[0]
        keep, hidden = utils.random_token_mask((len(images), self.length), works.MASK_RATIO, device=images.device)
        encoded = self.decoder.embed(self.backbone.encode(images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, (len(images), self.length))
        tokens = utils.set_at_index(tokens, keep, encoded.type_as(tokens))
        predicted = self.decoder.predict(utils.get_at_index(self.decoder.decode(tokens), hidden))
        target = utils.get_at_index(utils.patchify(images, self.patch_size), hidden - 1)  # without the class token
        return nn.functional.mse_loss(predicted, utils.normalize_mean_var(target))


class Null(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        return self.weight * sum(view[:, :, 0, 0].sum() for view in views)


def main() -> None:
    work = chosen.work
    clock = works.Clock(chosen, imported, precision=chosen.precision)
    if work.contrastive:
        transform = SimCLRTransform(
            input_size=work.size, cj_strength=work.strength, gaussian_blur=work.blur, min_scale=work.scale
        )
    else:
        transform = MAETransform(input_size=work.size, min_scale=work.scale)
    clock.says["augmentation"] = repr(vars(transform))
    loader = torch.utils.data.DataLoader(
        LightlyDataset(str(chosen.data), transform=transform), batch_size=chosen.batch, shuffle=True, drop_last=True
    )
    model = Null() if chosen.model == "null" else (SimCLR if work.contrastive else MAE)(work)
    trained = [p for p in model.parameters() if p.requires_grad]
    kind, settings = (torch.optim.SGD, works.SGD) if work.contrastive else (torch.optim.AdamW, works.ADAMW)
    optimizer = kind(trained, **settings)
    model.train()
    while True:
        for views, _, _ in loader:
            autocast = chosen.precision == "bf16"
            with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
                loss = model(views)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


main()
