"""The plugin's table of contents: every name it offers, and where it lives. Imports nothing heavy."""

from __future__ import annotations

from unlabel import hookimpl


@hookimpl
def tasks() -> dict[str, str]:
    return {
        "graph/supervised": "unlabel_graph.tasks.supervised:Supervised",
    }


@hookimpl
def encoders() -> dict[str, str]:
    return {
        "graph/gcn": "unlabel_graph.encoders.gcn:gcn",
    }


@hookimpl
def datasets() -> dict[str, str]:
    return {
        "graph/sbm": "unlabel_graph.datasets.sbm:BlockModel",
        "graph/planetoid": "unlabel_graph.datasets.planetoid:Planetoid",
    }


@hookimpl
def evaluations() -> dict[str, str]:
    return {
        "graph/node_classification": "unlabel_graph.evaluations.node_classification:node_classification",
    }
