"""Flow, depth and pose from two views: measures by independent formulas, heads that learn, data that do not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from unlabel.data import Dataset, Subset
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel_vision.datasets.digits import Digits
from unlabel_vision.encoders.vit import vit
from unlabel_vision.evaluations.depth import absolute_relative, depth
from unlabel_vision.evaluations.flow import end_point_errors, flow
from unlabel_vision.evaluations.pose import between_directions, between_rotations, pose
from unlabel_vision.tasks.croco import CroCo, binocular
from unlabel_vision.tasks.croco.binocular import DenseHead, PoseHead
from unlabel_vision.tasks.mae import MAE

SIZES = {"image_size": 16, "patch_size": 4, "dim": 32, "depth": 1, "heads": 4}
FAST = {"pairs": 64, "epochs": 25, "batch_size": 16, "learning_rate": 3e-3}


class Told(Dataset):
    """Pairs whose colours tell everything: red of the second view the shift, green the depth, blue the turn."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int):
        rng = np.random.default_rng(index)
        red, green, blue = rng.uniform(0, 1, 3)
        second = np.broadcast_to(np.array([red, green, blue]) * 255, (16, 16, 3)).astype(np.uint8).copy()
        visible = np.ones((16, 16), np.uint8)
        visible[:, 12:] = 0
        shift = np.stack([np.full((16, 16), 8 * red - 4), np.zeros((16, 16))], axis=-1).astype(np.float32)
        shift[:, 12:] = 1e3  # nobody may look here
        far = np.full((16, 16), 1 + 4 * green, np.float32)
        far[:4] = 0  # unknown
        turn = Rotation.from_euler("y", 40 * (blue - 0.5), degrees=True).as_matrix().astype(np.float32)
        return {
            "image": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
            "second": second,
            "flow": shift,
            "visible": visible,
            "depth": far,
            "rotation": turn,
            "translation": np.array([blue - 0.5, 0.0, 0.1], np.float32),
        }

    def split(self, name: str):
        return Subset(self, np.arange(64) if name == "train" else np.arange(64, 96))


def frozen(dataset: Dataset | None = None, task=None) -> Frozen:
    torch.manual_seed(0)
    options = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4, "mask_ratio": 0.75}
    made = task or CroCo(vit(**SIZES, class_token=False, pool="avg"), **options)
    return Frozen(made, dataset or Told(), Engine("cpu", "fp32"))


def truths(name: str) -> np.ndarray:
    return np.stack([Told()[index][name] for index in range(64, 96)])


@pytest.mark.slow
def test_flow_is_read_off_the_second_view_and_compared_with_no_motion():
    found = flow(frozen(), **FAST)
    shifts, train = truths("flow")[:, :, :12, 0], np.stack([Told()[k]["flow"] for k in range(64)])[:, :, :12, 0]
    assert found["epe_zero"] == pytest.approx(np.abs(shifts).mean(), rel=1e-4)
    assert found["epe_mean"] == pytest.approx(np.abs(shifts - train.mean()).mean(), rel=1e-3)
    assert found["epe"] < 0.4 * found["epe_mean"]
    assert found["within_1px"] > 0.6


@pytest.mark.slow
def test_depth_is_compared_with_the_median_where_it_is_known():
    found = depth(frozen(), **FAST)
    far, train = truths("depth")[:, 4:], np.stack([Told()[k]["depth"] for k in range(64)])[:, 4:]
    median = np.sort(train.reshape(64, -1)[:, 0])[31]
    assert found["abs_rel_median"] == pytest.approx((np.abs(median - far) / far).mean(), rel=1e-3)
    assert found["abs_rel"] < 0.5 * found["abs_rel_median"]
    assert 0 <= found["within_1.25"] <= 1


def test_pose_is_compared_with_the_mean_pose():
    found = pose(frozen(), **FAST)
    blue = np.array([np.random.default_rng(index).uniform(0, 1, 3)[2] for index in range(96)])
    angles = 40 * (blue - 0.5)
    # rotations about one axis: their mean is the angle of the mean of cosines and sines
    mean = math.degrees(math.atan2(np.sin(np.radians(angles[:64])).mean(), np.cos(np.radians(angles[:64])).mean()))
    expected = np.sort(np.abs(angles[64:] - mean))[15]
    assert found["rotation_deg_mean_pose"] == pytest.approx(expected, rel=1e-3)
    assert found["rotation_deg"] < 0.6 * found["rotation_deg_mean_pose"]
    assert found["translation_m"] < found["translation_m_mean_pose"]


@pytest.mark.slow
def test_fine_tuning_learns_too_and_leaves_the_judged_network_alone():
    judged = frozen()
    before = {name: value.clone() for name, value in judged.task.state_dict().items()}
    found = flow(judged, **{**FAST, "epochs": 8}, finetune=True)
    assert found["epe"] < found["epe_mean"]
    assert all(torch.equal(value, before[name]) for name, value in judged.task.state_dict().items())
    assert flow(judged, **{**FAST, "epochs": 8}, finetune=True) == found  # the same again


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match=r"needs pairs whose second and flow and visible are known"):
        flow(frozen(Digits()), **FAST)
    masked = MAE(vit(**SIZES), decoder_dim=16, decoder_depth=1, decoder_heads=2)
    with pytest.raises(UsageError, match="reads two views off a binocular decoder, which MAE has not"):
        depth(frozen(task=masked), **FAST)
    with pytest.raises(UsageError, match="must be at least 1"):
        pose(frozen(), pairs=4, epochs=0)


def test_measures_of_errors():
    one, other = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 4.0]]]])
    assert end_point_errors(one, other).item() == 5.0
    assert absolute_relative(torch.tensor(3.0), torch.tensor(4.0)).item() == 0.25
    for angle in (0.01, 1.0, 90.0, 179.0):
        turned = torch.from_numpy(Rotation.from_rotvec(np.radians(angle) * np.array([0.6, 0.0, 0.8])).as_matrix())
        base = torch.from_numpy(Rotation.random(rng=0).as_matrix())
        assert between_rotations(base[None], (turned @ base)[None]).item() == pytest.approx(angle, rel=1e-5)
    assert between_directions(torch.tensor([[1.0, 0, 0]]), torch.tensor([[2.0, 2.0, 0]])).item() == pytest.approx(45.0)
    assert between_directions(torch.tensor([[1.0, 0, 0]]), torch.tensor([[-3.0, 0, 0]])).item() == pytest.approx(180.0)


def test_six_numbers_make_a_rotation():
    numbers = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotation = binocular.orthogonal(numbers)
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(20, 3, 3), atol=1e-9)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(20, dtype=torch.float64))
    assert torch.allclose(binocular.orthogonal(rotation[:, :, :2].mT.reshape(20, 6)), rotation)


def test_heads_give_each_patch_its_own_pixels_and_each_pair_one_pose():
    torch.manual_seed(0)
    head = DenseHead((8, 6), 4, 4, 2, width=16)
    layers = [torch.randn(1, 16, width, requires_grad=True) for width in (8, 6)]
    made = head(layers)
    assert made.shape == (1, 2, 16, 16)
    made[0, :, 4:8, 8:12].sum().backward()  # the patch in row 1 and column 2, and what is next to it
    reached = {int(k) for layer in layers for k in layer.grad.abs().sum(-1)[0].nonzero()}
    assert reached == {row * 4 + column for row in (0, 1, 2) for column in (1, 2, 3)}
    rotation, translation = PoseHead((8, 6), 16)([layer.detach() for layer in layers])
    assert rotation.shape == (1, 3, 3)
    assert translation.shape == (1, 3)
    assert between_rotations(rotation, torch.eye(3)[None]).item() < 60  # near no turn before anything is learnt
