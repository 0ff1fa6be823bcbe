"""DGI, GRACE, GraphMAE, CCA-SSG: their objectives against independent formulas, and what each may see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel_graph.datasets.sbm import BlockModel
from unlabel_graph.encoders.gat import gat
from unlabel_graph.encoders.gcn import gcn
from unlabel_graph.tasks import graphmae
from unlabel_graph.tasks.cca_ssg import CCASSG, correlation_loss
from unlabel_graph.tasks.dgi import DGI
from unlabel_graph.tasks.grace import GRACE
from unlabel_graph.tasks.graphmae import GraphMAE


@pytest.fixture(scope="module")
def dataset() -> BlockModel:
    return BlockModel(nodes=60, features=40, words=4, number_of_classes=3)


def batch_of(dataset: BlockModel) -> dict[str, Tensor]:
    return {**dataset.context(), "node": torch.arange(len(dataset))}


def test_dgi_is_the_mean_cross_entropy_of_real_and_corrupted_nodes(dataset: BlockModel) -> None:
    seeds.seed(0)
    task = DGI(gcn(features=40, widths=(6,), activation="prelu"))
    x, edges = task.graph(batch_of(dataset))
    order = torch.randperm(60)
    real = task.encoder(x, edges)
    corrupted = task.encoder(_dense(x)[order], edges)
    summary = torch.sigmoid(real.mean(0))
    logits = torch.stack([h @ task.critic @ summary for h in torch.cat([real, corrupted])])
    targets = torch.cat([torch.ones(60), torch.zeros(60)])
    expected = nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert task.loss_of(x, edges, order).item() == pytest.approx(expected.item(), rel=1e-5)


def _dense(x: object) -> Tensor:
    return x if isinstance(x, Tensor) else x.dense()


def test_grace_finds_itself_among_both_views(dataset: BlockModel) -> None:
    seeds.seed(0)
    task = GRACE(gcn(features=40, widths=(8, 6)), temperature=0.4, projection=5)
    x, edges = task.graph(batch_of(dataset))
    first, second = (x, edges), (_dense(x) * 0.5, edges[:, ::2])
    a, b = (
        nn.functional.normalize(task.project(task.encoder(*view)), dim=1).double().detach() for view in (first, second)
    )
    expected = 0.0
    for one, other in ((a, b), (b, a)):
        between, within = (one @ other.T / 0.4).exp(), (one @ one.T / 0.4).exp()
        below = between.sum(1) + within.sum(1) - within.diag()
        expected += -(between.diag() / below).log().mean().item() / 2
    assert task.loss_of(first, second).item() == pytest.approx(expected, rel=1e-5)
    assert isinstance(task.project[1], nn.ELU)


def test_grace_drops_at_the_rates_of_each_view(dataset: BlockModel, monkeypatch: pytest.MonkeyPatch) -> None:
    task = GRACE(gcn(features=40, widths=(8, 6)), drop_edge=(0.0, 0.9), drop_column=(0.0, 0.9))
    batch = batch_of(dataset)
    seen = []
    monkeypatch.setattr(task, "loss_of", lambda first, second: seen.append((first, second)) or torch.zeros(()))
    task.loss(batch)
    (first, edges), (second, fewer) = seen[0]
    assert edges.shape[1] == task.graph(batch)[1].shape[1] > 5 * fewer.shape[1]
    assert first.factors.all()
    assert second.factors.mean() < 0.5


def test_cca_ssg_is_half_the_distance_of_views_up_to_a_constant() -> None:
    draw = torch.Generator().manual_seed(1)
    first, second = (torch.randn(30, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    invariance, decorrelation = correlation_loss(first, second, 0.1)
    z = [(h - h.mean(0)) / h.std(0) for h in (first, second)]
    distance = (z[0] - z[1]).square().sum() / 30
    constant = 4 * 29 / 30  # columns of unbiased variance 1
    assert invariance.item() == pytest.approx((distance / 2 - constant).item(), rel=1e-9)
    expected = sum((torch.eye(4) - torch.corrcoef(h.T) * 29 / 30).square().sum() for h in (first, second))
    assert decorrelation.item() == pytest.approx(0.1 * float(expected), rel=1e-6)


def test_cca_ssg_reports_both_losses(dataset: BlockModel) -> None:
    task = CCASSG(gcn(features=40, widths=(8, 6)))
    terms = task.loss(batch_of(dataset))
    assert set(terms) == {"loss_invariance", "loss_decorrelation"}
    assert terms["loss_invariance"] >= -6
    assert terms["loss_decorrelation"] > 0


def test_graphmae_masks_as_many_nodes_as_it_says() -> None:
    seeds.seed(2)
    masked, token, shown = graphmae.masking(200, 0.5, 0.1, torch.device("cpu"))
    assert (int(masked.sum()), int(token.sum())) == (100, 90)
    assert (token <= masked).all()
    replaced = masked & ~token
    assert torch.equal(shown[~replaced], torch.arange(200)[~replaced])


@pytest.mark.parametrize("decoder", ["gat", "gcn"])
def test_graphmae_predicts_masked_nodes_from_others_alone(dataset: BlockModel, decoder: str) -> None:
    seeds.seed(0)
    task = GraphMAE(gat(features=40, widths=(8, 8), heads=2, activation="prelu"), decoder=decoder).eval()
    x, edges = task.graph(batch_of(dataset))
    values = _dense(x)
    masked, token, shown = graphmae.masking(60, 0.5, 0.0, edges.device)
    loss = task.loss_of(values, edges, masked, token, shown)
    loss.backward()
    assert task.token.grad.abs().sum() > 0
    cosine_of_target = values.clone()
    cosine_of_target[masked] *= 7.0  # neither input nor direction of the target change
    assert task.loss_of(cosine_of_target, edges, masked, token, shown).item() == pytest.approx(loss.item(), rel=1e-5)
    with torch.no_grad():
        other = values.clone()
        other[~masked] += 1.0
        assert task.loss_of(other, edges, masked, token, shown).item() != pytest.approx(loss.item(), rel=1e-3)


def test_rates_out_of_range_are_refused() -> None:
    encoder = gcn(features=40, widths=(8,))
    for make, message in (
        (lambda: GraphMAE(encoder, replace_rate=1.0), "replace_rate 1.0 is outside"),
        (lambda: GraphMAE(encoder, mask_rate=0.0), "mask_rate 0.0 is outside"),
        (lambda: GRACE(encoder, temperature=-1.0), "temperature -1.0 must be above 0"),
        (lambda: CCASSG(encoder, drop_column=1.5), "drop_column 1.5 is outside"),
    ):
        with pytest.raises(UsageError, match=message):
            make()
