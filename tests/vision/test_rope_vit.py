"""Rotary ViT: places come in by turning alone, subsets are as in the whole, and timm computes the same."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unlabel.errors import UsageError
from unlabel.nn import masking
from unlabel_vision.encoders.rope_vit import RotaryViT, rope_vit
from unlabel_vision.tasks.droppos import DropPos
from unlabel_vision.tasks.mp3 import MP3

SIZES = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 4}


def encoder(**options) -> RotaryViT:
    made = rope_vit(**{**SIZES, **options}).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("base", [100.0, 20.0])
def test_timm_alone_gives_the_same_features(base, tmp_path, monkeypatch):
    made = encoder(base=base)
    save_file({name: value.contiguous() for name, value in made.exported().items()}, tmp_path / "weights.safetensors")
    monkeypatch.chdir(tmp_path)
    code = made.loading_code("weights.safetensors")
    space: dict[str, object] = {}
    exec(code, space)
    assert "unlabel" not in code
    expected = made(images())
    assert expected.std() > 0.1
    torch.testing.assert_close(space["model"](images()), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_all_patches_in_another_order_are_the_same_patches():
    made = encoder()
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(k)) for k in range(3)])
    whole = made.tokens(images())
    torch.testing.assert_close(made.tokens(images(), order), masking.take(whole, order), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_token_knows_where_the_others_are_from_it_and_not_where_it_is():
    made = encoder()
    image = images(1)
    moved = image.roll((8, 8), (2, 3))
    some, there = torch.tensor([[0, 1, 4]]), torch.tensor([[5, 6, 9]])  # the same patches, one step down and right
    torch.testing.assert_close(made.tokens(image, some), made.tokens(moved, there), atol=1e-5, rtol=1e-4)
    other = torch.tensor([[0, 2, 4]])
    swapped = image.clone()
    swapped[..., :8, 16:24] = image[..., :8, 8:16]  # the same three patches, one of them elsewhere
    assert (made.tokens(image, some) - made.tokens(swapped, other)).abs().max() > 1e-2


def test_tasks_that_change_positions_are_refused():
    with pytest.raises(UsageError, match="needs a class token"):
        DropPos(encoder())
    with pytest.raises(UsageError, match="hides where patches are"):
        MP3(encoder())
    with pytest.raises(UsageError, match="use --encoder vision/vit"):
        _ = encoder().positions
    with pytest.raises(UsageError, match="was given 5 tokens and not all 16 patches"):
        encoder().run(torch.zeros(1, 5, 32))


def test_weights_fit_any_grid_and_wrong_sizes_are_refused():
    weights = encoder().exported()
    assert not any(re.search("pos_embed|cls_token|cos|sin", name) for name in weights)
    larger = rope_vit(**{**SIZES, "image_size": 64})
    assert larger.adapted({**weights, "pos_embed": torch.zeros(1, 16, 32)}).keys() == larger.exported().keys()
    with pytest.raises(UsageError, match="multiple of 4 x heads"):
        rope_vit(**{**SIZES, "dim": 24})
    with pytest.raises(UsageError, match="drop_path"):
        rope_vit(**SIZES, drop_path=1.0)
