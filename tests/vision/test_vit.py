"""The vision transformer: timm's network to the last bit of sense, also when patches are left out."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unlabel.errors import UsageError
from unlabel_vision.encoders.patch_encoder import merged, project, require_tokens
from unlabel_vision.encoders.resnet import resnet
from unlabel_vision.encoders.timm import TimmEncoder, timm_encoder
from unlabel_vision.encoders.vit import ViT, maskable, vit

SMALL = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 4}


def encoder(seed: int = 0, **changes) -> ViT:
    """A small ViT with every weight random, so that none can be left out unnoticed."""
    torch.manual_seed(seed)
    made = vit(**{**SMALL, **changes})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return made.eval()


def images(count: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def in_order(count: int, length: int = 16) -> Tensor:
    return torch.arange(length).expand(count, -1)


# --- tokens


def test_tokens_of_all_patches_are_timms_own():
    ours = encoder()
    expected = ours.model.forward_features(images())
    assert torch.allclose(ours.tokens(images()), expected, rtol=0, atol=1e-6)
    assert torch.allclose(ours.tokens(images(), in_order(3)), expected, rtol=0, atol=1e-6)


def test_tokens_come_in_the_order_of_keep():
    ours = encoder()
    shuffled = torch.stack([torch.randperm(16) for _ in range(3)])
    tokens, expected = ours.tokens(images(), shuffled), ours.tokens(images())
    assert torch.allclose(tokens[:, 0], expected[:, 0], rtol=0, atol=1e-5)
    for sample in range(3):
        assert torch.allclose(tokens[sample, 1:], expected[sample, 1:][shuffled[sample]], rtol=0, atol=1e-5)


def test_patches_left_out_do_not_exist():
    ours = encoder()
    keep = torch.tensor([[3, 9, 0], [15, 1, 4]])
    changed = images(2)
    for sample in range(2):
        for patch in set(range(16)) - set(keep[sample].tolist()):
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            changed[sample, :, top : top + 8, left : left + 8] = torch.randn(3, 8, 8)
    assert torch.equal(ours.tokens(changed, keep), ours.tokens(images(2), keep))
    assert ours.tokens(changed, keep).shape == (2, 4, 32)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_features_are_the_pooled_tokens(pool):
    ours = encoder(pool=pool)
    tokens = ours.model.forward_features(images())
    expected = tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(1)
    assert torch.allclose(ours(images()), expected, rtol=0, atol=1e-6)
    assert (ours.dim, ours.grid, ours.layers, ours.image_size) == (32, 4, 2, 32)


def test_computation_falls_with_the_patches_kept():
    with torch.device("meta"):
        base = vit()
        image = torch.zeros(1, 3, 224, 224)
        keep = torch.zeros(1, 49, dtype=torch.int64)

    def macs(*arguments: Tensor) -> float:
        with FlopCounterMode(display=False) as counter:
            base.tokens(*arguments)
        return counter.get_total_flops() / 2e9

    assert macs(image) == pytest.approx(17.6, rel=0.01)
    assert macs(image, keep) == pytest.approx(4.4, rel=0.03)  # every patch is still embedded


# --- its parts


def test_composing_the_parts_gives_the_tokens():
    ours = encoder()
    patches = ours.embed(images()) + ours.positions
    assert torch.equal(ours.run(ours.with_class(patches)), ours.tokens(images()))
    last = ours.outputs(ours.with_class(patches))
    assert len(last) == ours.layers
    assert torch.equal(ours.model.norm(last[-1]), ours.tokens(images()))


def softmaxed(attention, tokens: Tensor) -> Tensor:
    query, key, value = project(attention, tokens)
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    return merged(attention, scores.softmax(-1) @ value)


def test_an_attention_of_ones_own_replaces_that_of_its_block_alone():
    ours = encoder()
    tokens = ours.with_class(ours.embed(images()) + ours.positions)
    expected = ours.run(tokens)
    for attend in ([softmaxed, softmaxed], [None, softmaxed], [softmaxed, None]):
        assert torch.allclose(ours.run(tokens, attend), expected, rtol=1e-4, atol=1e-5)
    nothing = ours.run(tokens, [None, lambda attention, tokens: torch.zeros_like(tokens)])
    first = ours.outputs(tokens)[0]
    block = ours.model.blocks[1]
    assert torch.allclose(nothing, ours.model.norm(first + block.mlp(block.norm2(first))), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_keys_and_values_may_be_those_of_the_first_tokens(bias):
    attention = timm.layers.Attention(12, num_heads=3, qkv_bias=bias)
    tokens = torch.randn(2, 7, 12)
    query, key, value = project(attention, tokens)
    some = project(attention, tokens, keys=4)
    for ours, expected in zip(some, (query, key[:, :, :4], value[:, :, :4]), strict=True):
        assert torch.allclose(ours, expected, rtol=0, atol=1e-6)
    assert query.shape == (2, 3, 7, 4)


# --- without a class token


@pytest.mark.parametrize("keep", [None, torch.tensor([[3, 9, 0], [15, 1, 4], [2, 8, 6]])])
def test_a_model_may_do_without_a_class_token(keep):
    ours = encoder(class_token=False, pool="avg")
    assert ours.class_tokens == 0
    tokens = ours.tokens(images(), keep)
    assert tokens.shape == (3, 16 if keep is None else 3, 32)
    if keep is None:
        assert torch.allclose(ours(images()), ours.model(images()), rtol=0, atol=1e-6)
        assert torch.allclose(ours(images()), tokens.mean(1), rtol=0, atol=1e-6)
    ours.fix_positions()
    assert torch.equal(ours.positions, encoder_positions())


def encoder_positions() -> Tensor:
    with_class = encoder()
    with_class.fix_positions()
    return with_class.positions


@pytest.mark.parametrize(("source", "target"), [(True, False), (False, True), (False, False)])
def test_weights_fit_with_and_without_a_class_token(source, target):
    given, taking = (
        encoder(class_token=token, image_size=size, pool="avg") for token, size in ((source, 32), (target, 48))
    )
    rows = taking.adapted(given.exported())["pos_embed"]
    assert rows.shape == (1, 36 + target, 32)
    same = encoder(class_token=target, pool="avg")
    assert torch.equal(same.adapted(given.exported())["pos_embed"][0, -16:], given.positions)


def test_branches_are_left_out_in_training_alone():
    ours = encoder(drop_path=0.5)
    expected = encoder().tokens(images())
    assert torch.equal(ours.tokens(images()), expected)
    ours.train()
    assert not torch.allclose(ours.tokens(images()), expected, atol=1e-3)


# --- position tables


def test_fixed_positions_are_never_trained():
    ours = encoder()
    ours.fix_positions()
    assert not ours.model.pos_embed.requires_grad
    assert (ours.model.pos_embed[0, 0] == 0).all()
    ours.tokens(images(), in_order(3)[:, :4]).sum().backward()
    assert ours.model.pos_embed.grad is None
    assert all(p.grad is not None for name, p in ours.named_parameters() if name != "model.pos_embed")


def test_the_orders_of_axes_swap_halves():
    rows, columns = encoder(), encoder()
    rows.fix_positions("yx")
    columns.fix_positions("xy")
    swapped = torch.cat(columns.model.pos_embed.chunk(2, dim=-1)[::-1], dim=-1)
    assert torch.equal(rows.model.pos_embed, swapped)
    assert not torch.equal(rows.model.pos_embed, columns.model.pos_embed)


def test_weights_of_another_image_size_get_their_positions_resampled():
    small, large = encoder(), encoder(seed=1, image_size=48)
    with torch.no_grad():  # a table that says which column a patch is in, from 0 at the left to 1 at the right
        small.model.pos_embed[0, 1:] = torch.linspace(0, 1, 4).repeat(4)[:, None]
    adapted = large.adapted(small.exported())
    large.model.load_state_dict(adapted)
    assert torch.equal(large.model.pos_embed[:, 0], small.model.pos_embed[:, 0])
    columns = large.model.pos_embed[0, 1:].view(6, 6, 32)
    assert torch.allclose(columns, columns[:1, :, :1].expand_as(columns), rtol=0, atol=1e-6)
    assert (columns[0, 1:, 0] > columns[0, :-1, 0]).all()
    for name, weight in small.exported().items():
        assert name == "pos_embed" or torch.equal(adapted[name], weight)
    assert torch.equal(small.adapted(small.exported())["pos_embed"], small.model.pos_embed)


def test_layers_are_counted_from_the_embedding_to_what_follows_the_blocks():
    ours = encoder()
    layer = {name: ours.layer_of(name) for name in ours.exported()}
    assert {layer[name] for name in ("cls_token", "pos_embed", "patch_embed.proj.weight")} == {0}
    assert {value for name, value in layer.items() if name.startswith("blocks.0.")} == {1}
    assert {value for name, value in layer.items() if name.startswith("blocks.1.")} == {2}
    assert {value for name, value in layer.items() if name.startswith("norm.")} == {3}


# --- export


@pytest.mark.parametrize(
    "options", [{"pool": "token"}, {"pool": "avg"}, {"pool": "avg", "class_token": False}, {"drop_path": 0.1}]
)
def test_exported_weights_load_into_timm_and_give_the_same_features(tmp_path, options):
    ours = encoder(**options)
    file = tmp_path / "model.safetensors"
    save_file(ours.exported(), file)
    space: dict[str, object] = {}
    exec(ours.loading_code(str(file)), space)  # what the export's README tells a user to run
    assert isinstance(space["model"], timm.models.VisionTransformer)
    example = ours.example(4)
    assert torch.allclose(space["model"](example), ours(example), rtol=0, atol=1e-6)


def test_exported_weights_fit_timms_model_strictly():
    ours = encoder()
    fresh = timm.create_model(ours.snippet.name, **ours.snippet.options)
    fresh.load_state_dict(ours.exported(), strict=True)
    assert torch.allclose(fresh.eval()(images()), ours(images()), rtol=0, atol=1e-6)


# --- what is refused


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 30}, "image_size=30 is not a multiple of patch_size=8; 32 is"),
        ({"image_size": 4}, "image_size=4 is not a multiple of patch_size=8; 8 is"),
        ({"patch_size": 0}, "patch_size=0 is too small"),
        ({"image_size": -32}, "image_size=-32 is too small"),
        ({"depth": 0}, "depth=0 is too small"),
        ({"heads": 0}, "heads=0 is too small"),
        ({"heads": 5}, "dim=32 must be a multiple of 4 and of heads=5"),
        ({"dim": 30, "heads": 2}, "dim=30 must be a multiple of 4"),
        ({"class_token": False}, "use encoder.pool='avg'"),
        ({"drop_path": 1.0}, r"drop_path=1.0 is outside \[0, 1\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(UsageError, match=message):
        vit(**{**SMALL, **sizes})


def test_encoders_that_need_all_patches_are_refused_with_what_fits():
    convolutional = resnet(depth=10, width=8, stem="small", image_size=32)
    with pytest.raises(UsageError) as error:
        require_tokens(convolutional, "vision/mae")
    for part in ("vision/mae", "TimmEncoder cannot", "--encoder vision/vit", "vision/timm:vit_small_patch16_224"):
        assert part in str(error.value)


def test_whoever_needs_a_class_token_or_none_says_so():
    without = encoder(class_token=False, pool="avg")
    with pytest.raises(UsageError, match=r"needs a class token: .* encoder.class_token=true"):
        require_tokens(without, "vision/mae")
    with pytest.raises(UsageError, match=r"without a class token: .* encoder.class_token=false .* encoder.pool=avg"):
        require_tokens(encoder(), "vision/mp3", class_token=False)
    assert require_tokens(without, "vision/gmml", class_token=None) is without


def test_a_vit_may_come_from_timm_by_name():
    named = timm_encoder(name="vit_tiny_patch16_224", image_size=32)
    assert require_tokens(named, "vision/mae") is named


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_r_s16_p8_224",  # a convolutional stem: tokens of visible patches would see removed ones
        "deit_tiny_distilled_patch16_224",  # two tokens before the patches
        "test_vit3",  # none
        "test_vit",  # patches as a grid, for images of any size
    ],
)
def test_transformers_of_another_kind_are_no_vit(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    assert not maskable(model)


def test_what_cannot_leave_patches_out_is_still_an_encoder():
    assert isinstance(timm_encoder(name="vit_tiny_r_s16_p8_224"), TimmEncoder)
