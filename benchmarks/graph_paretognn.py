"""Do five pretext tasks together make better representations than any of them, and does it matter how they are weighed?

Four graphs; a random encoder, each pretext task alone, all with equal weights, all with minimum-norm weights; four
downstream tasks; several seeds. Small encoders and few updates, so that it fits a CPU. Link prediction has a training
run of its own, on the graph without the edges to predict. Each cell is a file; one that is there is not computed again.

    UNLABEL_SHARED=FOLDER python benchmarks/graph_paretognn.py [--seeds N] [--steps N] [--graphs cora,...]
        [--methods NAMES] [--runs DIR]

A number of updates other than the usual one has a table of its own, ``graph_paretognn_300.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import machine
import unlabel
from unlabel import build, compose
from unlabel.catalog.plugins import Catalog
from unlabel.engine import Engine
from unlabel.evaluate.features import Frozen
from unlabel.recipe import Recipe
from unlabel_graph.evaluations.frozen_classification import frozen_classification
from unlabel_graph.evaluations.link_prediction import link_prediction
from unlabel_graph.evaluations.node_clustering import node_clustering
from unlabel_graph.evaluations.partition_prediction import partition_prediction
from unlabel_graph.tasks.paretognn import PARTS

# name -> data below UNLABEL_SHARED, and what is set for this graph
GRAPHS: dict[str, tuple[str, list[str]]] = {
    "cora": ("data/planetoid/Cora", []),
    "chameleon": ("data/heterophilous/chameleon.npz", []),
    "actor": ("data/heterophilous/actor.npz", ["encoder.activation=relu"]),
    "photo": ("data/amazon/Photo", ["task.seeds=256"]),
}
RANDOM, EQUAL, PARETO = "random init", "equal weights", "ParetoGNN"
METHODS = [RANDOM, *PARTS, EQUAL, PARETO]
SETTINGS = [
    "encoder.widths=[128,64]",
    "task.predictor=128",
    "task.seeds=512",
    "task.graph_times=1",
    "task.graph_hops=1",
    "task.subgraph_times=1",
    "task.subgraph_hops=1",
    "task.contrasted=512",
    "task.nodes=1000",
    "task.reconstructed=1000",
    "task.edges=64",
    "task.fan_outs=[5,5]",
    "stages.0.lr=1e-3",
    "execution.precision=fp32",
    "execution.device=cpu",
]
PROBE: dict[str, Any] = {"repeats": 3, "folds": 3, "grid": tuple(2.0**power for power in range(-10, 11, 2))}
"""The probes' settings, lighter than the paper's ten divisions, five halvings and 21 strengths."""

STEPS = 50
"""Updates of the usual table: what four graphs, eight methods and three seeds leave of an hour of a CPU."""

SCORES = ("AUC", "accuracy", "NMI", "partition")
CLAIM_MARGIN = 0.005
"""A difference of averages below this is called none: seeds differ by as much."""


def recipe_of(graph: str, method: str, seed: int, steps: int, holdout: bool, root: Path, catalog: Catalog) -> Recipe:
    """The recipe of one training run."""
    data, own = GRAPHS[graph]
    settings = [*SETTINGS, *own, f"seed={seed}", f"task.combine={'pareto' if method == PARETO else 'sum'}"]
    settings += [f"task.parts={json.dumps([method])}"] if method in PARTS else []
    settings += ["save_every=100000", "monitor_every=100000", "log_every=10"]
    settings += [f"dataset.holdout_edges={seed}"] if holdout else []
    return compose.compose("graph/paretognn", catalog, data=str(root / data), steps=steps, settings=settings)


def cell(graph: str, method: str, seed: int, steps: int, root: Path, runs: Path) -> dict[str, Any]:
    """Scores of one method on one graph with one seed, and how its tasks were weighed."""
    path = runs / f"{graph}-{method.replace(' ', '_')}-{seed}-{steps}.json"
    if path.exists():
        return json.loads(path.read_text())
    found: dict[str, Any] = {"graph": graph, "method": method, "seed": seed}
    begun = time.process_time()
    for holdout in (False, True):
        catalog = Catalog.installed()
        chosen = recipe_of(graph, method, seed, steps, holdout, root, catalog)
        dataset = build.build_dataset(chosen.dataset, catalog)
        engine = Engine("cpu", "fp32")
        if method == RANDOM:
            task = build.build(build.with_data(chosen, dataset.implies(), catalog), catalog, engine)
        else:
            trained = unlabel.train(chosen, out=runs / "run", overwrite=True, evaluate=False, catalog=catalog)
            task = trained.task(engine)
            lines = [line for line in trained.metrics if "loss" in line]
            found[f"log{' (links)' if holdout else ''}"] = {
                name: statistics.fmean(line[name] for line in lines)
                for name in lines[0]
                if name.startswith(("alpha_", "cosine_"))
            }
        frozen = Frozen(task, dataset, engine, seed=seed)
        if holdout:
            links = link_prediction(frozen, repeats=1, epochs=30, patience=10)
            found |= {"AUC": links["auc"], "Hits@20": links["hits"]}
        else:
            found["accuracy"] = frozen_classification(frozen, **PROBE)["accuracy"]
            found["partition"] = partition_prediction(frozen, **PROBE)["accuracy"]
            found["NMI"] = node_clustering(frozen, repeats=2)["mutual_information"]
    found["average"] = statistics.fmean(found[name] for name in SCORES)
    found["CPU seconds"] = round(time.process_time() - begun, 1)
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(
        graph, method, seed, {name: round(found[name], 3) for name in (*SCORES, "average", "CPU seconds")}, flush=True
    )
    return found


def table(cells: list[dict[str, Any]]) -> list[dict[str, object]]:
    """One row a graph and method."""
    rows = []
    for graph in GRAPHS:
        for method in METHODS:
            own = [one for one in cells if (one["graph"], one["method"]) == (graph, method)]
            if own:
                row: dict[str, object] = {"graph": graph, "method": method, "seeds": len(own)}
                for name in (*SCORES, "Hits@20", "average"):
                    row[name] = machine.mean_and_spread([one[name] for one in own])
                rows.append(row)
    return rows


def notes(cells: list[dict[str, Any]], steps: int) -> str:
    """The claims, with figures; the weights and the cosines between gradients."""
    graphs = [g for g in GRAPHS if all(any((c["graph"], c["method"]) == (g, m) for c in cells) for m in METHODS)]
    settings = (
        f"{steps} updates (the paper: 10,000), AdamW, rate 1e-3, GCN of widths 128 and 64; 3 divisions, 3 halvings and "
        "11 strengths in the probes; 30 epochs of the link classifier"
    )
    if not graphs:  # the claims are about all methods
        return f"{settings}. The same with {STEPS} updates and all methods: graph_paretognn.md."

    def mean(graph: str, method: str, score: str) -> float:
        return statistics.fmean(c[score] for c in cells if (c["graph"], c["method"]) == (graph, method))

    def over(method: str, score: str = "average") -> float:
        return statistics.fmean(mean(graph, method, score) for graph in graphs)

    singles = {method: over(method) for method in PARTS}
    best = max(singles, key=lambda method: singles[method])
    pareto, equal = over(PARETO), over(EQUAL)
    lines = [
        f"{settings}; means of {len(graphs)} graphs below. A difference under {CLAIM_MARGIN:g} is called none.",
        "",
        "**Claim (a)**, average of four tasks: minimum-norm weights > equal weights > best single task. "
        f"Minimum-norm {pareto:.3f}, equal {equal:.3f}, best single ({best}) {singles[best]:.3f}, "
        f"random init {over(RANDOM):.3f}. Minimum-norm over equal: {_verdict(pareto - equal)}; "
        f"equal over the best single: {_verdict(equal - singles[best])}.",
        "",
        "**Claim (b)**, no single task is best at everything; reconstruction leads on links and partitions, contrast "
        "on classes. Best single task for each score: "
        + "; ".join(f"{score}: {_leader(score, over)} ({over(_leader(score, over), score):.3f})" for score in SCORES)
        + f". No task leads everywhere: {_yes(len({_leader(score, over) for score in SCORES}) > 1)}.",
        "",
        "**Claim (c)**, also better on single scores, most on heterophilous graphs (chameleon, actor). Minimum-norm "
        "minus the best single task of that score: "
        + "; ".join(
            f"{graph}: "
            + ", ".join(f"{s} {mean(graph, PARETO, s) - max(mean(graph, m, s) for m in PARTS):+.3f}" for s in SCORES)
            for graph in graphs
        )
        + ".",
        "",
        "Weights (mean over updates and seeds; smallest and largest of these means over graphs):",
        "",
    ]
    logs = {g: [c["log"] for c in cells if (c["graph"], c["method"]) == (g, PARETO)] for g in graphs}
    lines += ["| graph | " + " | ".join(PARTS) + " |", "|---" * (1 + len(PARTS)) + "|"]
    for graph, found in logs.items():
        values = [statistics.fmean(log[f"alpha_{part}"] for log in found) for part in PARTS]
        lines.append(f"| {graph} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    lines += ["", "Cosines between the tasks' gradients on the encoder (mean over graphs, updates and seeds):", ""]
    lines += ["| | " + " | ".join(PARTS) + " |", "|---" * (1 + len(PARTS)) + "|"]
    every = [log for found in logs.values() for log in found]
    for i, left in enumerate(PARTS):
        shown = []
        for j in range(len(PARTS)):
            name = f"cosine_{PARTS[min(i, j)]}_{PARTS[max(i, j)]}"
            shown.append("1" if i == j else f"{statistics.fmean(log[name] for log in every):+.3f}")
        lines.append(f"| {left} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _leader(score: str, over: Callable[[str, str], float]) -> str:
    return max(PARTS, key=lambda method: over(method, score))


def _verdict(difference: float) -> str:
    word = "none" if abs(difference) < CLAIM_MARGIN else "confirmed" if difference > 0 else "the reverse"
    return f"{word} ({difference:+.3f})"


def _yes(true: bool) -> str:
    return "confirmed" if true else "not confirmed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--graphs", default=",".join(GRAPHS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--runs", type=Path, default=Path("runs/graph_paretognn"))
    parser.add_argument("--table", action="store_true", help="write the table of what is there, train nothing")
    parser.add_argument("--cells", metavar="GRAPH:SEED", help="compute these cells, and nothing else")
    parser.add_argument("--for", dest="limit", type=float, default=float("inf"), help="stop after so many seconds")
    options = parser.parse_args()
    root = Path(os.environ.get("UNLABEL_SHARED", "../shared"))
    options.runs.mkdir(parents=True, exist_ok=True)
    if options.cells:
        torch.set_num_threads(1)
        begun, (graph, seed) = time.perf_counter(), options.cells.split(":")
        for method in options.methods.split(","):
            if time.perf_counter() - begun > options.limit:
                sys.exit(3)  # call again: what is there stays
            cell(graph, method, int(seed), options.steps, root, options.runs)
        return
    if options.table:
        report(options)
        return
    for seed in range(options.seeds):  # all graphs of a seed first: a table of fewer seeds is a table
        for graph in options.graphs.split(","):
            words = ["--steps", str(options.steps), "--runs", str(options.runs), "--cells", f"{graph}:{seed}"]
            subprocess.run([sys.executable, __file__, *words, "--methods", options.methods], check=True)
        report(options)


def report(options: argparse.Namespace) -> None:
    """Write the table of all cells there are."""
    name = "graph_paretognn" if options.steps == STEPS else f"graph_paretognn_{options.steps}"
    files = sorted(options.runs.glob(f"*-{options.steps}.json"))
    cells = [json.loads(path.read_text()) for path in files] or machine.cells(options.runs / "absent", name)
    if not cells:
        sys.exit(f"no cells of {options.steps} updates in {options.runs} or in the table written last")
    command = f"python benchmarks/graph_paretognn.py --steps {options.steps} --seeds {options.seeds}"
    if options.graphs != ",".join(GRAPHS):
        command += f" --graphs {options.graphs}"
    if options.methods != ",".join(METHODS):
        command += f" --methods '{options.methods}'"
    made = page(cells, options.steps)
    machine.write(name, command=command, cells=cells, steps=options.steps, remade=options.table, **made)


def page(cells: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Title, rows and notes of the table."""
    return {"title": "ParetoGNN and its parts", "rows": table(cells), "notes": notes(cells, steps)}


if __name__ == "__main__":
    main()
