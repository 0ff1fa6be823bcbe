"""ParetoGNN's speed and memory: one pass and sparse attributes, against two passes and dense ones.

On Chameleon with the paper's configuration. The other formulation is the authors' way, written out below: every task is
run once for its gradient and, on the same samples, once more for the update; attributes are a dense matrix, views are
changed copies of it, the decoder transforms before it sums, and the contrast computes similarities in each direction.
Sampling, aggregation kernels, heads and optimizer are the same. The two take turns. Then: memory over many updates, and
a generated graph of a million edges.

    UNLABEL_SHARED=FOLDER python benchmarks/graph_speed.py [--rounds N] [--steps N]
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import machine
from unlabel import build, combine, compose, launch, loop, seeds
from unlabel.catalog.plugins import Catalog
from unlabel.engine import Engine
from unlabel.logs import Observer
from unlabel.recipe import Recipe
from unlabel.task import Batch, Progress
from unlabel_graph import agreement, augment, propagation, sampling
from unlabel_graph.graph import Nodes
from unlabel_graph.tasks.decorrelation import decorrelation_loss
from unlabel_graph.tasks.feature_reconstruction import masked_nodes
from unlabel_graph.tasks.paretognn import PARTS, ParetoGNN

CPU = Engine("cpu", "fp32")


def chameleon(settings: list[str]) -> tuple[Recipe, Nodes, Catalog]:
    """The paper's recipe for Chameleon, its data, and what is installed."""
    path = Path(os.environ.get("UNLABEL_SHARED", "../shared")) / "data/heterophilous/chameleon.npz"
    catalog = Catalog.installed()
    chosen = compose.compose("graph/paretognn", catalog, name="paper", data=str(path), settings=settings)
    dataset = build.build_dataset(chosen.dataset, catalog)
    assert isinstance(dataset, Nodes)
    return build.with_data(chosen, dataset.implies(), catalog), dataset, catalog


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """GRACE's loss as its authors write it: similarities between and within views, for each of the two directions."""
    left, right = F.normalize(first), F.normalize(second)

    def one_way(own: Tensor, other: Tensor) -> Tensor:
        between, within = (torch.exp(own @ rows.T / temperature) for rows in (other, own))
        return -torch.log(between.diag() / (within.sum(1) + between.sum(1) - within.diag()))

    return (one_way(left, right) + one_way(right, left)).mean() / 2


class TwoPass:
    """The authors' formulation over the same task."""

    def __init__(self, task: ParetoGNN, batch: Batch):
        self.task, self.batch = task, batch
        x, _ = task.part("decorrelation").graph(batch)
        self.x = augment.dense(x)

    def draw(self) -> dict[str, Callable[[], Tensor]]:
        """Samples of every task, and its loss on them, to be computed twice."""
        recon, link, decor, ming, minsg = (self.task.part(name) for name in PARTS)
        encoder = self.task.encoder
        _, edges = decor.graph(self.batch)
        incoming = decor.incoming(edges, len(self.x))

        left, masked = (
            augment.drop_edges(edges, recon.drop_edge),
            masked_nodes(len(self.x), recon.mask_rate, edges.device),
        )

        def reconstruct() -> Tensor:
            hidden = recon.project(encoder(torch.where(masked[:, None], recon.token, self.x), left))
            hidden = torch.where(masked[:, None], 0.0, hidden)
            decoded = recon.decoder(hidden, propagation.directed(left, len(hidden)))[masked]
            cosine = F.cosine_similarity(decoded, self.x[masked], dim=1)
            return (1 - cosine).pow(recon.exponent).mean()

        drawn = edges[:, torch.randint(edges.shape[1], (2 * link.edges,))]
        positive = drawn[:, drawn[0] != drawn[1]][:, : link.edges]
        negative = sampling.pairs(len(self.x), positive.shape[1], edges.device)
        ends, place = torch.cat([positive, negative], dim=1).unique(return_inverse=True)
        nodes, blocks = incoming.blocks(ends, link.fan_outs)
        visible = F.dropout(self.x[nodes], link.drop_feature)
        targets = (torch.arange(place.shape[1]) < positive.shape[1]).float()

        def join() -> Tensor:
            return F.binary_cross_entropy_with_logits(link.logits(visible, blocks, place), targets)

        def views(rate: float, chosen: Tensor) -> list[tuple[Tensor, Tensor]]:
            mask = [augment.column_mask(self.x.shape[1], rate, edges.device) for _ in range(2)]
            inside = incoming.induced(chosen)
            return [(self.x[chosen] * each, augment.drop_edges(inside, rate)) for each in mask]

        sampled = views(decor.drop_edge, incoming.by_degree(decor.nodes))
        around = views(minsg.drop_edge, incoming.around(minsg.seeds, minsg.hops))
        chosen = incoming.around(ming.seeds, ming.hops)
        real, inside = self.x[chosen], incoming.induced(chosen)
        fake = real[torch.randperm(len(real))]
        return {
            "feature_reconstruction": reconstruct,
            "topology_reconstruction": join,
            "decorrelation": lambda: decorrelation_loss(*(encoder(*view) for view in sampled), decor.weight),
            "node_graph_contrast": lambda: agreement.summary_loss(
                encoder(real, inside), encoder(fake, inside), ming.critic
            ),
            "node_subgraph_contrast": lambda: contrast(
                *(minsg.project(encoder(*view)) for view in around), minsg.temperature
            ),
        }

    def training_step(self, optimizer: torch.optim.Optimizer) -> None:
        losses = self.draw()
        shared = list(self.task.encoder.parameters())
        rows = []
        for loss in losses.values():
            found = torch.autograd.grad(loss(), shared)
            rows.append(torch.cat([gradient.reshape(-1) for gradient in found]))
        gradients = torch.stack(rows)
        alpha = combine.balance(gradients @ gradients.T, torch.ones(len(rows)))
        optimizer.zero_grad()
        total = sum(weight * loss() for weight, loss in zip(alpha.float(), losses.values(), strict=True))
        total.backward()  # type: ignore[union-attr]
        optimizer.step()


def speeds(rounds: int, steps: int) -> list[dict[str, object]]:
    """Updates per second of both formulations, in turn."""
    torch.set_num_threads(1)
    chosen, dataset, catalog = chameleon([])
    batch = {**dataset.context(), "node": torch.arange(len(dataset))}
    stage = chosen.stages[0].resolved(len(dataset))

    def made() -> tuple[ParetoGNN, dict[str, torch.optim.Optimizer]]:
        task = build.build(chosen, catalog, CPU)
        assert isinstance(task, ParetoGNN)
        return task.train(), task.optimizers(stage)

    ours, optimizers = made()
    other, other_optimizers = made()
    two_pass = TwoPass(other, batch)
    seconds: dict[str, list[float]] = {"ours": [], "two passes, dense": []}
    for number in range(rounds + 1):
        for name, step in (
            ("ours", lambda: ours.training_step([batch], optimizers, CPU, stage)),
            ("two passes, dense", lambda: two_pass.training_step(other_optimizers["main"])),
        ):
            wall, cpu = time.perf_counter(), time.process_time()
            for update in range(steps if number else 1):  # the first round warms up
                seeds.seed(number, update)
                step()
            if number:
                seconds[name].append((time.process_time() - cpu) / steps)
            print(name, number, round(time.perf_counter() - wall, 2), "s", flush=True)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    return [
        {
            "what": "Chameleon, the paper's configuration, fp32, one thread",
            "ours": f"{machine.spread([1 / s for s in seconds['ours']])} updates a CPU second",
            "two passes, dense": f"{machine.spread([1 / s for s in seconds['two passes, dense']])}",
            "ratio": machine.spread(ratios, 2),
        }
    ]


class Memory(Observer):
    """After each logged update: resident memory, and what the tensors hold that can be reached, in MiB."""

    def __init__(self) -> None:
        self.resident: list[float] = []
        self.tensors: list[float] = []

    def log(self, progress: Progress, metrics: Any) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident.append(pages * resource.getpagesize() / 2**20)
        found = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
        strided = [tensor for tensor in found if tensor.layout == torch.strided]
        sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in strided}
        self.tensors.append(sum(sizes.values()) / 2**20)


def growth(steps: int) -> dict[str, object]:
    """Memory early and late in a run of small layers on Chameleon, where every update draws another size.

    The garbage collector is off: what only it would free counts as growth.
    """
    torch.set_num_threads(1)
    small = ["encoder.widths=[32,16]", "task.predictor=32", "task.contrasted=128", "task.seeds=128", "task.edges=64"]
    small += ["task.graph_hops=1", "task.subgraph_hops=1", "task.nodes=300", "task.reconstructed=300"]
    small += [f"stages.0.steps={steps}", "log_every=20", "save_every=100000", "task.fan_outs=[5,5]"]
    chosen, dataset, catalog = chameleon(small)
    task = build.build(chosen, catalog, CPU)
    memory = Memory()
    gc.collect()
    gc.disable()
    with tempfile.TemporaryDirectory() as folder:
        loop.train(loop.Training(chosen, task, dataset, CPU, Path(folder), [memory]))
    gc.enable()
    shown = []
    for name, seen in (("tensors", memory.tensors), ("resident", memory.resident)):
        tenth = max(1, len(seen) // 10)
        places = {"second": 1, "fifth": 4, "last": 9}
        values = [statistics.median(seen[place * tenth : (place + 1) * tenth]) for place in places.values()]
        shown.append(f"{name} " + ", ".join(f"{value:.1f}" for value in values) + " MiB")
    return {
        "what": f"memory in the second, fifth and last tenth of {steps:,} updates, small layers, no garbage collector",
        "ours": "; ".join(shown),
        "two passes, dense": "",
        "ratio": "",
    }


def million(steps: int) -> dict[str, object]:
    """Peak memory and speed of training on a generated graph of a million undirected edges, with sampling."""
    torch.set_num_threads(1)
    settings = ["dataset.nodes=100000", "dataset.degree=21", "dataset.number_of_classes=10", "task.seeds=512"]
    settings += ["task.graph_times=1", "task.subgraph_times=1", "task.graph_hops=1", "task.subgraph_hops=1"]
    settings += ["task.contrasted=2048", "task.nodes=20000", "task.reconstructed=20000", "task.edges=1024"]
    settings += ["task.fan_outs=[10,5]", "execution.precision=fp32", "execution.device=cpu", "log_every=5"]
    catalog = Catalog.installed()
    chosen = compose.compose("graph/paretognn", catalog, steps=steps, settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        done = launch.train(chosen, out=Path(folder) / "run", catalog=catalog, evaluate=False)
        seconds = time.perf_counter() - begun
        losses = [line["loss"] for line in done.metrics if "loss" in line]
        trained = done.evaluations["seconds"]
    dataset = build.build_dataset(chosen.dataset, catalog)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    edges = dataset.info()["edges"]
    return {
        "what": f"generated graph, {len(dataset):,} nodes, {edges:,} edges, {steps} updates with sampling",
        "ours": f"peak {peak:.2f} GiB; {trained / steps:.2f} s an update (checks included), {seconds:.0f} s in all; "
        f"loss {losses[0]:.2f} to {losses[-1]:.2f}",
        "two passes, dense": "",
        "ratio": "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="updates a round")
    parser.add_argument("--updates", type=int, default=600, help="of the memory test")
    parser.add_argument("--part", choices=["growth", "million"], help="one part alone, its row as Python data")
    options = parser.parse_args()
    if options.updates < 300:
        parser.error(f"--updates {options.updates}: expected 300 or more, whose tenths have several measurements each")
    if options.part:
        print("ROW", growth(options.updates) if options.part == "growth" else million(20))
        return
    rows = speeds(options.rounds, options.steps)
    for part in ("growth", "million"):  # processes of their own: peak memory is a process's
        words = [sys.executable, __file__, "--part", part, "--updates", str(options.updates)]
        answer = subprocess.run(words, check=True, capture_output=True, text=True)
        rows.append(eval_row(answer.stdout))
    notes = (
        f"Medians of {options.rounds} rounds of {options.steps} updates, the two formulations in turn; in brackets "
        "smallest and largest. CPU seconds of the process, because the machine was shared."
    )
    machine.write("graph_speed", "Speed and memory of ParetoGNN", "python benchmarks/graph_speed.py", rows, notes)


def eval_row(output: str) -> dict[str, object]:
    """The row a part printed."""
    import ast

    line = next(line for line in output.splitlines() if line.startswith("ROW "))
    found: dict[str, object] = ast.literal_eval(line.removeprefix("ROW "))
    return found


if __name__ == "__main__":
    main()
