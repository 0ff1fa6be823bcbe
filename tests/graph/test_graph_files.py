"""Graphs out of files: what is read, what is refused, and what the message says."""

from __future__ import annotations

import io
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from commandline import unlabel
from networks import blocks
from safetensors.numpy import save_file
from scipy import sparse

from unlabel import Catalog
from unlabel.claims import claimant
from unlabel.errors import UsageError
from unlabel_graph.datasets.file import GraphFile
from unlabel_graph.datasets.gnn_benchmark import Amazon, Coauthor
from unlabel_graph.datasets.heterophilous import Heterophilous
from unlabel_graph.datasets.pickled_arrays import read
from unlabel_graph.datasets.planetoid import Planetoid
from unlabel_graph.datasets.wikics import WikiCS
from unlabel_graph.graph import Graph, Nodes, checked, per_class, principal

NODES = 12


def _arrays(**changes: Any) -> dict[str, np.ndarray]:
    """A path of twelve nodes in two classes, with masks."""
    draw = np.random.default_rng(0)
    found = {
        "x": draw.random((NODES, 4)).astype(np.float32),
        "edge_index": np.stack([np.arange(NODES - 1), np.arange(1, NODES)]),
        "y": np.arange(NODES) % 2,
        "train_mask": np.arange(NODES) < 4,
        "val_mask": (np.arange(NODES) >= 4) & (np.arange(NODES) < 7),
        "test_mask": np.arange(NODES) >= 7,
    }
    found |= changes
    return {name: value for name, value in found.items() if value is not None}


def _file(folder: Path, **changes: Any) -> Path:
    np.savez(folder / "mine.npz", **_arrays(**changes))
    return folder / "mine.npz"


# What a graph becomes


def test_edges_come_in_both_directions_once_by_receiver_and_loops_stay(tmp_path: Path) -> None:
    given = np.array([[0, 1, 1, 5, 3], [1, 0, 2, 5, 1]])
    dataset = GraphFile(path=_file(tmp_path, edge_index=given))
    senders, receivers = dataset.graph.edge_index
    assert list(zip(senders, receivers, strict=True)) == [(1, 0), (0, 1), (2, 1), (3, 1), (1, 2), (1, 3), (5, 5)]
    info = dataset.info()
    assert (info["edges"], info["self_loops"], info["isolated"]) == (3, 1, NODES - 4)


def test_test_labels_are_in_no_batch_and_training_ones_are_those_of_the_mask(tmp_path: Path) -> None:
    dataset = GraphFile(path=_file(tmp_path))
    batch = dataset.context()
    assert batch["train_label"].tolist() == [0, 1, 0, 1] + [-1] * 8
    assert batch["validation_label"].tolist() == [-1] * 4 + [0, 1, 0] + [-1] * 5
    assert "label" not in dataset[3]
    train, test = dataset.split("train"), dataset.split("test")
    assert train.labels.tolist() == [0, 1, 0, 1, -1, -1, -1]
    assert test.table()["node"].tolist() == [7, 8, 9, 10, 11]
    assert test.labels.tolist() == [1, 0, 1, 0, 1]
    assert dataset.split("validation").labels.tolist() == [0, 1, 0]
    assert all(batch[name] is dataset.context()[name] for name in batch), "made once"


def test_sparse_attributes_stay_sparse_and_are_the_same(tmp_path: Path) -> None:
    x = np.zeros((NODES, 50), dtype=np.float32)
    x[np.arange(NODES), np.arange(NODES) * 3] = 2
    batch = GraphFile(path=_file(tmp_path, x=x)).context()
    assert "x" not in batch
    rows = sparse.csr_array((batch["x_value"], batch["x_column"], batch["x_indptr"]), shape=x.shape)
    np.testing.assert_array_equal(rows.toarray(), x)


def test_several_public_splits_are_chosen_by_number(tmp_path: Path) -> None:
    masks = {
        "train_mask": np.stack([np.arange(NODES) < 4, np.arange(NODES) < 2], axis=1),
        "val_mask": np.stack([np.arange(NODES) == 5, np.arange(NODES) == 6], axis=1),
        "test_mask": np.stack([np.arange(NODES) > 6, np.arange(NODES) > 8], axis=1),
    }
    path = _file(tmp_path, **masks)
    assert GraphFile(path=path, split_number=1).masks["train"].sum() == 2
    with pytest.raises(UsageError, match="split_number 2: there are 2 public splits, counted from 0"):
        GraphFile(path=path, split_number=2)


def test_random_splits_have_so_many_nodes_a_class_and_share_none() -> None:
    labels = np.repeat([0, 1, 2, -1], [50, 30, 3, 10])
    masks = per_class(labels, 5, 10, seed=0)
    counts = {name: np.bincount(labels[mask], minlength=3).tolist() for name, mask in masks.items()}
    assert counts == {"train": [5, 5, 1], "validation": [10, 10, 1], "test": [35, 15, 1]}
    assert not any(mask[labels < 0].any() for mask in masks.values())
    assert sum(mask.astype(int) for mask in masks.values()).max() == 1
    assert not np.array_equal(per_class(labels, 5, 10, seed=1)["train"], masks["train"])


def test_principal_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    x = sparse.random_array((40, 15), density=0.3, rng=np.random.default_rng(0), dtype=np.float32).tocsr()
    x.data += 0.1
    rows = x.toarray() / np.maximum(x.toarray().sum(axis=1, keepdims=True), 1e-12)
    found = principal(x, 5, "test")
    expected = PCA(5, svd_solver="full").fit_transform(rows)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)
    with pytest.raises(UsageError, match="components 16; expected 1 to 15"):
        principal(x, 16, "test")


def test_a_generated_graph_is_the_same_for_the_same_seed_and_has_communities() -> None:
    first, second = blocks(nodes=600, seed=3), blocks(nodes=600, seed=3)
    np.testing.assert_array_equal(first.graph.edge_index, second.graph.edge_index)
    assert blocks(nodes=600, seed=4).graph.edge_index.shape != first.graph.edge_index.shape
    info = first.info()
    assert 0.7 < info["edges_within_a_class"] < 0.95
    assert info["largest_degree"] > 5 * 2 * info["edges"] / 600, "hubs"
    with pytest.raises(UsageError, match=r"within 1\.5 is outside \[0, 1\]"):
        blocks(within=1.5)


# Bad input

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "edge out of range": (
        {"edge_index": np.array([[0, 12], [1, 2]])},
        r"mine\.npz: edge_index names node 12, but the nodes are 0 to 11",
    ),
    "negative edge": ({"edge_index": np.array([[0, -2], [1, 2]])}, "edge_index names node -2"),
    "no edges": ({"edge_index": np.zeros((2, 0), dtype=np.int64)}, r"mine\.npz: edge_index holds no edges"),
    "edges the wrong way": ({"edge_index": np.ones((5, 2), dtype=np.int64)}, r"shape \(5, 2\); expected integers of"),
    "edges not whole": ({"edge_index": np.ones((2, 3))}, "edge_index is float64"),
    "NaN attributes": (
        {"x": np.full((NODES, 3), np.nan)},
        r"mine\.npz: x holds NaN or infinite values, first at node 0",
    ),
    "attributes without columns": ({"x": np.zeros((NODES, 0))}, r"x has shape \(12, 0\)"),
    "attributes of text": ({"x": np.full((NODES, 2), "a")}, "x is <U1; expected numbers"),
    "labels too short": ({"y": np.arange(5)}, r"labels have shape \(5,\); x has 12 rows"),
    "labels not whole": ({"y": np.linspace(0, 1, NODES)}, r"mine\.npz: y is float64; expected whole numbers"),
    "labels below -1": ({"y": np.full(NODES, -2)}, "labels must be integers from 0 on, or -1"),
    "mask of numbers": ({"train_mask": np.ones(NODES)}, "the train mask is float64"),
    "mask too short": ({"test_mask": np.ones(3, dtype=np.bool_)}, r"the test mask is bool of shape \(3,\)"),
    "masks overlap": ({"val_mask": np.arange(NODES) < 7}, "the train and validation masks share nodes"),
    "no attributes": ({"x": None}, r"mine\.npz has no array x; it has edge_index"),
    "pickled array": ({"x": np.array([{"a": 1}] * NODES, dtype=object)}, "holds pickled objects, which can run code"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arrays_are_refused_with_file_and_field(what: str, tmp_path: Path) -> None:
    changes, message = BAD[what]
    with pytest.raises(UsageError, match=message):
        GraphFile(path=_file(tmp_path, **changes))


def test_one_bad_attribute_in_a_sparse_matrix_is_found() -> None:
    x = sparse.csr_array((np.array([1.0, np.inf]), ([0, 3], [1, 0])), shape=(5, 9))
    with pytest.raises(UsageError, match="first at node 3"):
        checked(Graph(x, np.array([[0], [1]])), "mine")


def test_missing_masks_are_drawn_and_asked_for_are_missed(tmp_path: Path) -> None:
    path = _file(tmp_path, test_mask=None)
    assert GraphFile(path=path, train_per_class=2, validation_per_class=1).masks["train"].sum() == 4
    with pytest.raises(UsageError, match=r"no test mask, so there is no public split; use --set dataset\.split=random"):
        GraphFile(path=path, split="public")
    unlabelled = GraphFile(path=_file(tmp_path, y=None, train_mask=None, val_mask=None, test_mask=None))
    assert unlabelled.split("test") is None
    assert len(unlabelled.split("train")) == NODES
    assert unlabelled.implies() == {"features": 4}


@pytest.mark.parametrize("ending", [".pt", ".pkl"])
def test_pickled_files_are_refused_with_the_reason_and_not_opened(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"graph{ending}"
    path.write_bytes(pickle.dumps(_Bomb()))
    answer = unlabel("inspect", path)
    assert answer.code == 2
    assert "is a pickled file: loading one may run code" in answer.err
    answer = unlabel("train", "graph/node_property", "--data", path, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "save plain arrays: numpy.savez" in answer.err
    assert not (tmp_path / "run").exists()


def test_an_npz_of_something_else_is_left_to_who_knows_it(tmp_path: Path) -> None:
    pytest.importorskip("unlabel_vision")
    np.savez(tmp_path / "images.npz", images=np.zeros((3, 40, 40, 3), np.uint8))
    assert json.loads(unlabel("inspect", tmp_path / "images.npz", "--json").out)["dataset"] == "vision/folder"
    graph = json.loads(unlabel("inspect", _file(tmp_path), "--json").out)
    assert graph["dataset"] == "graph/file"


class _Bomb:
    """What a hostile file holds: unpickling it would end the tests."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (exit, (3,))


# Files of one's own


def test_arrays_of_safetensors_are_those_of_npz(tmp_path: Path) -> None:
    save_file(_arrays(), tmp_path / "mine.safetensors")
    first, second = GraphFile(path=_file(tmp_path)), GraphFile(path=tmp_path / "mine.safetensors")
    for name, value in first.context().items():
        assert torch.equal(value, second.context()[name])
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"broken\.safetensors cannot be read"):
        GraphFile(path=tmp_path / "broken.safetensors")


def _tables(folder: Path, **changes: str) -> Path:
    files = {
        "edges": "source,target\n0,1\n1,2\n2,3\n",
        "features": "a,b\n1,0\n0,1\n1,1\n0,0\n",
        "labels": "label\ncat\ndog\n\ncat\n",
        "split": "train\ntrain\nval\ntest\n",
    }
    for name, text in (files | changes).items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_tables_with_and_without_header(tmp_path: Path) -> None:
    dataset = GraphFile(path=_tables(tmp_path))
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 1, -1, 0]
    assert dataset.masks["train"].tolist() == [True, True, False, False]
    assert dataset.graph.edge_index.shape == (2, 6)
    plain = _tables(tmp_path, edges="0,1\n1,2\n2,3\n", labels="0\n1\n1\n0\n", features="1\n2\n3\n4\n")
    assert GraphFile(path=plain).labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": "0,1\n1,x\n"}, r"edges\.csv: row 2 holds 'x', which is no number"),
        ({"edges": "0,1\n1,2.5\n"}, r"edges\.csv: node numbers must be whole"),
        ({"edges": "0,1,2\n"}, "3 columns; expected two"),
        ({"features": "1,2\n3\n4,5\n"}, r"features\.csv: row 2 has 1 columns, the first 2"),
        ({"features": "a,b\n"}, r"features\.csv holds no numbers"),
        ({"features": "1\nnan\n3\n4\n"}, "x holds NaN or infinite values, first at node 1"),
        ({"labels": "cat\n"}, r"labels\.csv has 1 entries; features\.csv has 4 rows"),
        ({"labels": "\n\n\n\n"}, r"labels\.csv names no class at all"),
        ({"split": "train\ntrain\nlater\ntest\n"}, r"entry 3 is 'later'; expected train, validation or test"),
    ],
)
def test_bad_tables_are_refused_with_file_and_row(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        GraphFile(path=_tables(tmp_path, **changes))


def test_a_partition_beside_the_data_comes_with_the_batch(tmp_path: Path) -> None:
    path = _file(tmp_path)
    np.savez(tmp_path / "partitions.npz", k3=(np.arange(NODES) % 3).astype(np.int8), other_k4=np.zeros(2))
    batch = GraphFile(path=path).context()
    assert batch["partition_3"].tolist() == [0, 1, 2] * 4
    assert "partition_4" not in batch
    np.savez(tmp_path / "partitions.npz", k3=np.zeros(5, dtype=np.int64))
    with pytest.raises(UsageError, match="the partition into 3 has 5 entries; x has 12 rows"):
        GraphFile(path=path)


# The papers' files


def test_wikics_is_read_from_its_json(tmp_path: Path) -> None:
    content = {
        "features": [[0.5, 1.0], [0.0, 2.0], [1.0, 1.0], [3.0, 0.1]],
        "labels": [0, 1, 1, 0],
        "links": [[1, 2], [], [3], []],
        "train_masks": [[True, False, False, False], [False, True, False, False]],
        "val_masks": [[False, True, False, False], [True, False, False, False]],
        "test_mask": [False, False, True, True],
    }
    (tmp_path / "data.json").write_text(json.dumps(content))
    dataset = WikiCS(path=tmp_path, split_number=1)
    assert dataset.info()["edges"] == 3
    assert dataset.masks["train"].tolist() == [False, True, False, False]
    assert dataset.masks["test"].tolist() == content["test_mask"]
    (tmp_path / "data.json").write_text(json.dumps({k: v for k, v in content.items() if k != "links"}))
    with pytest.raises(UsageError, match="has no links; WikiCS has features, labels, links"):
        WikiCS(path=tmp_path)


# Names, nodes, undirected edges, self-loops, attributes, classes, and the sizes of train, validation and test
REAL = {
    "planetoid/Cora": (Planetoid, "cora", (2708, 5278, 0, 1433, 7), (140, 500, 1000)),
    "planetoid/CiteSeer": (Planetoid, "citeseer", (3327, 4552, 124, 3703, 6), (120, 500, 1000)),
    "planetoid/PubMed": (Planetoid, "pubmed", (19717, 44324, 3, 500, 3), (60, 500, 1000)),
    "amazon/Photo": (Amazon, "photo", (7650, 119081, 1, 745, 8), (160, 240, 7250)),
    "amazon/Computers": (Amazon, "computers", (13752, 245861, 0, 767, 10), (200, 300, 13252)),
    "coauthor/CS": (Coauthor, "cs", (18333, 81894, 0, 6805, 15), (300, 450, 17583)),
    "heterophilous/actor.npz": (Heterophilous, "actor", (7600, 26659, 0, 932, 5), (3648, 2432, 1520)),
    "heterophilous/chameleon.npz": (Heterophilous, "chameleon", (2277, 31371, 0, 2325, 5), (1092, 729, 456)),
    "heterophilous/squirrel.npz": (Heterophilous, "squirrel", (5201, 198353, 0, 2089, 5), (2496, 1664, 1041)),
}


@pytest.mark.parametrize(
    "place",
    [pytest.param(place, marks=[pytest.mark.slow] if sizes[2][1] > 40_000 else []) for place, sizes in REAL.items()],
)
def test_the_papers_graphs_have_their_published_sizes(place: str, shared: Path) -> None:
    kind, name, sizes, parts = REAL[place]
    path = shared / "data" / place
    assert kind.claims(path)
    candidates = [offer for offer in Catalog.installed().offers("datasets") if offer.name.startswith("graph/")]
    assert claimant(path, candidates).load() is kind
    dataset = kind(path=path)
    info = dataset.info()
    found = (info["samples"], info["edges"], info["self_loops"], info["attributes"], len(dataset.classes))
    assert found == sizes
    assert tuple(int(mask.sum()) for mask in dataset.masks.values()) == parts
    assert kind(path=path, name=name.upper()).source == dataset.source


def test_planetoid_gives_what_torch_geometric_documents_about_citeseer(shared: Path) -> None:
    dataset = Planetoid(path=shared / "data/planetoid/CiteSeer")
    x = dataset.graph.x
    assert (x.sum(axis=1) == 0).sum() == 15
    assert dataset.info()["isolated"] == 48
    assert (dataset.labels < 0).sum() == 15, "nodes of the test range without a row"
    assert not dataset.masks["test"][dataset.labels < 0].any()


def test_a_folder_with_several_graphs_wants_a_name(shared: Path) -> None:
    with pytest.raises(UsageError, match=r"dataset\.name None: the Planetoid graphs there are citeseer, cora, pubmed"):
        Planetoid(path=shared / "data/planetoid")
    assert len(Planetoid(path=shared / "data/planetoid", name="Cora")) == 2708
    with pytest.raises(UsageError, match="did you mean cora"):
        Planetoid(path=shared / "data/planetoid", name="corra")


def test_a_planetoid_file_that_names_anything_else_is_refused_and_not_run(tmp_path: Path) -> None:
    for protocol in (2, 4):
        (tmp_path / "ind.cora.x").write_bytes(pickle.dumps(_Bomb(), protocol=protocol))
        with pytest.raises(UsageError, match="pickled files can run code, so it was not loaded"):
            read(tmp_path / "ind.cora.x")
    for damaged in (b"", b"\x80\x02(K\x01", b"not a pickle", pickle.dumps(np.zeros(3), protocol=2)[:-20]):
        (tmp_path / "ind.cora.x").write_bytes(damaged)
        with pytest.raises(UsageError, match="is damaged, or no pickled array"):
            read(tmp_path / "ind.cora.x")


def test_arrays_in_pickles_are_read_as_they_are(tmp_path: Path) -> None:
    """Against pickles made here, of the containers that the original files hold."""
    matrix = sparse.random(7, 9, density=0.3, format="csr", random_state=0)
    values = (np.arange(12, dtype=np.int32).reshape(3, 4), matrix.tocsr(), {0: [1, 2], 1: [0]})
    for value, write in itertools.product(values, (_python_2, lambda value: pickle.dumps(value, protocol=2))):
        (tmp_path / "file").write_bytes(write(value))
        found = read(tmp_path / "file")
        if isinstance(value, dict):
            assert found == value
        else:
            dense = [a.toarray() if sparse.issparse(a) else a for a in (found, value)]
            np.testing.assert_array_equal(*dense)
            assert dense[0].dtype == dense[1].dtype


def _python_2(value: Any) -> bytes:
    """A pickle of protocol 2; array contents as Python 2 has them, in byte strings."""

    class Old(pickle._Pickler):
        dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

        def save_bytes(self, content: bytes) -> None:
            self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
            self.memoize(content)

        dispatch[bytes] = save_bytes

    out = io.BytesIO()
    Old(out, protocol=2).dump(value)
    return out.getvalue()


def test_a_file_that_is_missing_or_does_not_fit_is_named(tmp_path: Path, shared: Path) -> None:
    source = shared / "data/planetoid/Cora/raw"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "ind.cora.test.index").write_text("1708\n1709\n")
    with pytest.raises(UsageError, match=r"the files do not fit each other: .* 2 lines in test\.index"):
        Planetoid(path=tmp_path)
    (tmp_path / "ind.cora.tx").unlink()
    with pytest.raises(UsageError, match=r"ind\.cora\.tx is missing; a Planetoid folder holds"):
        Planetoid(path=tmp_path)
    (tmp_path / "amazon_electronics_photo.npz").write_bytes(b"PK nothing")
    with pytest.raises(UsageError, match=r"amazon_electronics_photo\.npz cannot be read"):
        Amazon(path=tmp_path)


def test_nothing_is_downloaded_unless_asked_and_names_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the Planetoid graphs there are none"):
        Planetoid(path=tmp_path, name="cora")
    with pytest.raises(UsageError, match=r"download needs --set dataset\.name=NAME"):
        Planetoid(path=tmp_path, download=True)
    with pytest.raises(UsageError, match="expected cora, citeseer, pubmed"):
        Planetoid(path=tmp_path, name="coral", download=True)


def test_an_unlabelled_graph_trains_and_is_described(tmp_path: Path) -> None:
    path = _file(tmp_path, y=None, train_mask=None, val_mask=None, test_mask=None)
    answer = unlabel(
        "train", "graph/node_property", "--recipe", "tiny", "--data", path, "--out", tmp_path / "run", "--seed", "1"
    )
    assert answer.code == 0, answer.err
    assert "linear_probe, knn: not made: the dataset GraphFile has no test part" in answer.err
    assert isinstance(GraphFile(path=path), Nodes)
