"""The plugin's table of contents: every name it offers, and where it lives. Imports nothing heavy."""

from __future__ import annotations

from unlabel import hookimpl


@hookimpl
def tasks() -> dict[str, str]:
    return {
        "graph/supervised": "unlabel_graph.tasks.supervised:Supervised",
        "graph/node_property": "unlabel_graph.tasks.node_property:NodeProperty",
        "graph/edge_mask": "unlabel_graph.tasks.edge_mask:EdgeMask",
        "graph/pairwise_distance": "unlabel_graph.tasks.pairwise_distance:PairwiseDistance",
        "graph/distance2clusters": "unlabel_graph.tasks.distance2clusters:Distance2Clusters",
        "graph/attribute_mask": "unlabel_graph.tasks.attribute_mask:AttributeMask",
        "graph/pairwise_attr_sim": "unlabel_graph.tasks.pairwise_attr_sim:PairwiseAttrSim",
        "graph/distance2labeled": "unlabel_graph.tasks.distance2labeled:Distance2Labeled",
        "graph/context_label": "unlabel_graph.tasks.context_label:ContextLabel",
        "graph/ensemble_label": "unlabel_graph.tasks.ensemble_label:EnsembleLabel",
        "graph/corrected_label": "unlabel_graph.tasks.corrected_label:CorrectedLabel",
        "graph/random_target": "unlabel_graph.tasks.random_target:RandomTarget",
        "graph/paretognn": "unlabel_graph.tasks.paretognn:ParetoGNN",
        "graph/feature_reconstruction": "unlabel_graph.tasks.feature_reconstruction:FeatureReconstruction",
        "graph/topology_reconstruction": "unlabel_graph.tasks.topology_reconstruction:TopologyReconstruction",
        "graph/decorrelation": "unlabel_graph.tasks.decorrelation:Decorrelation",
        "graph/node_graph_contrast": "unlabel_graph.tasks.node_graph_contrast:NodeGraphContrast",
        "graph/node_subgraph_contrast": "unlabel_graph.tasks.node_subgraph_contrast:NodeSubgraphContrast",
        "graph/dgi": "unlabel_graph.tasks.dgi:DGI",
        "graph/grace": "unlabel_graph.tasks.grace:GRACE",
        "graph/graphmae": "unlabel_graph.tasks.graphmae:GraphMAE",
        "graph/cca_ssg": "unlabel_graph.tasks.cca_ssg:CCASSG",
    }


@hookimpl
def encoders() -> dict[str, str]:
    return {
        "graph/gcn": "unlabel_graph.encoders.gcn:gcn",
        "graph/sage": "unlabel_graph.encoders.sage:sage",
        "graph/gat": "unlabel_graph.encoders.gat:gat",
        "graph/gin": "unlabel_graph.encoders.gin:gin",
    }


@hookimpl
def datasets() -> dict[str, str]:
    return {
        "graph/sbm": "unlabel_graph.datasets.sbm:BlockModel",
        "graph/planetoid": "unlabel_graph.datasets.planetoid:Planetoid",
        "graph/amazon": "unlabel_graph.datasets.gnn_benchmark:Amazon",
        "graph/coauthor": "unlabel_graph.datasets.gnn_benchmark:Coauthor",
        "graph/heterophilous": "unlabel_graph.datasets.heterophilous:Heterophilous",
        "graph/wikics": "unlabel_graph.datasets.wikics:WikiCS",
        "graph/file": "unlabel_graph.datasets.file:GraphFile",
    }


@hookimpl
def evaluations() -> dict[str, str]:
    return {
        "graph/node_classification": "unlabel_graph.evaluations.node_classification:node_classification",
        "graph/frozen_classification": "unlabel_graph.evaluations.frozen_classification:frozen_classification",
        "graph/node_clustering": "unlabel_graph.evaluations.node_clustering:node_clustering",
        "graph/link_prediction": "unlabel_graph.evaluations.link_prediction:link_prediction",
        "graph/partition_prediction": "unlabel_graph.evaluations.partition_prediction:partition_prediction",
    }
