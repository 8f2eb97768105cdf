"""Graphs as X: forms and faults, the network, views, and the estimator around them."""

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.graphs import loop_embedding, rings_and_stars
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.augment import (
    AttributeMasking,
    EdgePerturbation,
    FeatureCorruption,
    Graphs,
    NodeDropping,
    Subgraph,
)
from sklearn_hscl.data.graphs import check_graphs
from sklearn_hscl.encoders import GINEncoder
from sklearn_hscl.export import to_onnx
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.training.fitted_state import is_shape

X, Y = rings_and_stars()
NEW, NEW_Y = rings_and_stars(seed=1)
SHORT = {"encoder": "gin", "max_epochs": 3, "batch_size": 16, "random_state": 0}
VIEWS = [NodeDropping, EdgePerturbation, Subgraph, AttributeMasking]
PATH = (np.eye(3), np.array([[0, 1], [1, 2]]))


@pytest.fixture(scope="module")
def fitted():
    return HSCLEmbedder(**SHORT).fit(X, Y)


def as_geometric(graph):
    """Return what is read of a Data of PyTorch Geometric."""
    features, edges = graph
    both = np.concatenate([edges, edges[:, ::-1]]).T
    return SimpleNamespace(
        x=torch.as_tensor(features),
        edge_index=torch.from_numpy(both.copy()),
        num_nodes=len(features),
    )


def as_networkx(graph):
    """Return the graph as one of networkx, whose nodes have names."""
    networkx = pytest.importorskip("networkx")
    features, edges = graph
    made = networkx.Graph()
    made.add_nodes_from((f"node {i}", {"x": row}) for i, row in enumerate(features))
    made.add_edges_from((f"node {a}", f"node {b}") for a, b in edges)
    return made


# Forms and faults ----------------------------------------------------------------------


def object_array(graphs):
    array = np.empty(len(graphs), dtype=object)
    array[:] = graphs
    return array


FORMS = {
    "tuple": tuple,
    "array of objects": object_array,
    "array of pairs": lambda graphs: np.array(graphs, dtype=object),
    "Series": pd.Series,
    "frame of one column": lambda graphs: pd.DataFrame({"graph": graphs}),
    "tensors": lambda graphs: [tuple(map(torch.as_tensor, graph)) for graph in graphs],
    "lists": lambda graphs: [(f.tolist(), e.tolist()) for f, e in graphs],
    "edges in both directions": lambda graphs: [
        (f, np.concatenate([e, e[::-1, ::-1]])) for f, e in graphs
    ],
    "Graphs": lambda graphs: check_graphs(graphs, "X"),
    "PyTorch Geometric": lambda graphs: list(map(as_geometric, graphs)),
    "networkx": lambda graphs: list(map(as_networkx, graphs)),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_are_the_same_graphs(fitted, form):
    embedding = fitted.transform(FORMS[form](NEW))
    assert_allclose(embedding, fitted.transform(NEW), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("graph", "n_nodes", "pairs"),
    [
        ((3, []), 3, []),
        ((np.zeros((1, 2)), np.zeros((0, 2), int)), 1, []),
        ((2, [[0, 0], [0, 1], [1, 0], [0, 1]]), 2, [[0, 0], [0, 1]]),
        ((2, [[1, 0]]), 2, [[0, 1]]),
        ((np.zeros((2, 0)), [[1, 0]]), 2, [[0, 1]]),
    ],
    ids=["no edges", "one node", "self-loop and repeated edges", "one direction", "no x"],
)
def test_unusual_graphs_are_accepted(graph, n_nodes, pairs):
    graphs = check_graphs([graph], "X")
    assert len(graphs.nodes) == n_nodes
    assert sorted(graphs.pairs.T.tolist()) == pairs
    embedding = GINEncoder(torch.ones(graphs.shape[-1])).eval()(graphs.float())
    assert embedding.isfinite().all()


BAD = {
    "a path": ("molecules.sdf", "got 'molecules.sdf' of type str.*Read files of molecules"),
    "SMILES": (["CCO", "CC"], "graph 0 of X to be a pair.*got 'CCO' of type str.*RDKit"),
    "one graph": (as_geometric(PATH), r"X is one graph. Pass a list .* \[X\]"),
    "a pair alone": (PATH, "graph 0 of X to be a pair.*ndarray"),
    "None": ([PATH, None], "graph 1 of X to be a pair.*got None"),
    "an iterator": (iter([PATH]), "list, an array or a column of graphs"),
    "a table": (np.zeros((4, 3)), r"shape \(4, 3\) is not one column"),
    "no nodes": ([PATH, (np.zeros((0, 3)), [])], "graph 1 of X to have at least one node"),
    "0 nodes": ([(0, [])], "graph 0 of X to have at least one node"),
    "widths": ([PATH, (np.eye(4), [])], "got 3 in graph 0 and 4 in graph 1"),
    "some without features": ([PATH, (2, [])], "got 3 in graph 0 and 0 in graph 1"),
    "transposed": ([(5, [[0, 1, 2], [1, 2, 3]])], r"\(2, 3\). Pass edges.T"),
    "adjacency": ([(3, np.ones((3, 3), int))], r"\(3, 3\).*np.argwhere\(adjacency\)"),
    "floats": ([(3, [[0.0, 1.0]])], "graph 0 of X to be integers.*got float64"),
    "too large": (
        [PATH, (np.eye(3), [[0, 1], [2, 3]])],
        r"graph 1 of X .* 0 to 2, got \(2, 3\)",
    ),
    "negative": ([(3, [[0, -1]])], r"graph 0 of X .* 0 to 2, got \(0, -1\)"),
    "NaN": ([PATH, (np.array([[0, 1, 2], [0, np.nan, 0]]), [])], "node 1 of graph 1 of X"),
    "too large for float32": ([(np.array([[2**200]], object), [])], "got object"),
    "labels": ([(np.array([0, 1]), [])], r"of shape \(2,\). Encode labels .* one-hot"),
    "strings": ([(np.array([["C"], ["O"]]), [])], "got <U1 of shape"),
}
BAD["widths"] = ([PATH, (np.eye(4), []), PATH], BAD["widths"][1])
BAD["some without features"] = ([PATH, (2, [])], BAD["some without features"][1])


@pytest.mark.parametrize("fault", BAD)
def test_faults_are_named(fault):
    graphs, message = BAD[fault]
    with pytest.raises(ValueError, match=message):
        HSCLEmbedder(encoder="gin").fit(graphs, None)


def test_attributes_of_some_nodes_alone_are_refused():
    networkx = pytest.importorskip("networkx")
    graph = networkx.Graph()
    graph.add_nodes_from([(0, {"x": [1.0]}), (1, {})])
    with pytest.raises(ValueError, match="2 nodes of graph 0 of X .* 1 without it"):
        check_graphs([graph], "X")
    directed = networkx.MultiDiGraph([(0, 1), (0, 1), (1, 0), (2, 2)])
    assert check_graphs([directed], "X").pairs.T.tolist() == [[0, 1], [2, 2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.transform([(np.eye(3), [])]), "3 node features.* fitted with 2"),
        (lambda e: e.transform([]), "0 graphs, but a minimum of 1"),
        (lambda e: clone(e).fit(X[:1], Y[:1]), "1 graphs, but a minimum of 2"),
        (lambda e: e.transform("graphs.parquet"), "Parquet files, but .* takes graphs"),
        (lambda e: to_onnx(e, "graphs.onnx"), "got one of graphs"),
        (
            lambda e: clone(e).set_params(augment=FeatureCorruption()).fit(X),
            "needs a table",
        ),
        (
            lambda e: HSCLEmbedder(augment=NodeDropping()).fit(np.eye(4), [0, 1, 0, 1]),
            "NodeDropping to get graphs",
        ),
        (lambda e: clone(e).set_params(augment=NodeDropping(1)).fit(X), r"\[0, 1\)"),
        (
            lambda e: copy.copy(e).set_params(encoder="mlp", warm_start=True).fit(X, Y),
            "takes tables or images, but the fit to continue",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_misuse_is_named(fitted, change, message):
    with pytest.raises(ValueError, match=message):
        change(fitted)


# The network ---------------------------------------------------------------------------


def graphs_of(pairs):
    return check_graphs(pairs, "X")


def trained_statistics(encoder, graphs):
    """Give an encoder running statistics other than 0 and 1."""
    encoder.train()
    for _ in range(3):
        encoder(graphs)
    return encoder.eval()


def test_the_network_is_that_of_the_formula():
    double = [(f.astype(np.float64), e) for f, e in X]
    graphs = graphs_of(double)
    encoder = trained_statistics(GINEncoder(torch.tensor([1.0, 2.0])).double(), graphs)
    expected = torch.stack([loop_embedding(encoder, *graph) for graph in double])
    assert_allclose(encoder(graphs).detach(), expected.detach(), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_formula():
    graphs = graphs_of([(f.astype(np.float64), e) for f, e in X[:3]])
    encoder = GINEncoder(torch.ones(2), hidden_layer_sizes=(3, 2)).double().eval()

    def embed(nodes):
        return encoder(graphs.with_nodes(nodes))

    nodes = torch.rand(graphs.nodes.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(embed, (nodes,))


@given(seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_the_order_of_nodes_and_edges_does_not_matter(fitted, seed):
    rng = np.random.default_rng(seed)
    features, edges = NEW[seed % len(NEW)]
    order = rng.permutation(len(features))
    position = np.argsort(order)
    shuffled = (features[order], rng.permutation(position[edges]))
    embedding = fitted.transform([(features, edges), shuffled])
    assert_allclose(*embedding, rtol=1e-4, atol=1e-5)


def test_an_embedding_depends_on_its_graph_alone(fitted):
    together = fitted.transform(NEW)
    alone = np.concatenate([fitted.transform([graph]) for graph in NEW])
    assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    assert_array_equal(fitted.transform(NEW[:7]), together[:7])


def test_features_are_scaled_unless_they_are_indicators(fitted):
    assert_array_equal(fitted.module_.scale, [1, 1])
    large = [(np.column_stack([f, 1e6 * np.arange(len(f))]), e) for f, e in X]
    embedder = HSCLEmbedder(**SHORT).fit(large, Y)
    assert_array_equal(embedder.module_.scale[:2], [1, 1])
    assert embedder.module_.scale[2] > 1e6
    assert np.isfinite(embedder.transform(large)).all()


# Rows of one kind ----------------------------------------------------------------------


def as_lists(graphs):
    """Return features and edges of each graph, as lists."""
    return [(graph.nodes.tolist(), graph.edges.tolist()) for graph in graphs.split(1)]


@given(index=st.lists(st.integers(0, len(X) - 1), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_graphs_are_indexed_as_rows(index):
    graphs = graphs_of(X)
    each = as_lists(graphs)
    chosen = graphs[torch.tensor(index)]
    assert as_lists(chosen) == [each[i] for i in index]
    assert as_lists(Graphs.cat([chosen, graphs[3:9:2]])) == [
        *(each[i] for i in index),
        *each[3:9:2],
    ]
    mask = np.isin(np.arange(len(X)), index)
    assert as_lists(graphs[mask]) == [each[i] for i in np.unique(index)]
    parts = chosen.tensor_split(min(3, len(chosen)))
    assert [graph for part in parts for graph in as_lists(part)] == as_lists(chosen)


# Views ---------------------------------------------------------------------------------


def random_graphs(seed):
    """Return graphs of 1 to 7 nodes, with self-loops and without edges among them."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 8, 6)
    pairs = [rng.integers(0, n, (int(rng.integers(0, 2 * n)), 2)) for n in sizes]
    features = [rng.normal(size=(n, 2)) for n in sizes]
    return graphs_of(list(zip(features, pairs, strict=True)))


@pytest.mark.parametrize("view", VIEWS)
@given(seed=st.integers(0, 2**16), p=st.floats(0, 0.95))
@settings(max_examples=30, deadline=None)
def test_views_are_graphs(view, seed, p):
    graphs = random_graphs(seed)
    before = graphs.clone()
    found = view(p).fitted(graphs)(graphs, torch.Generator().manual_seed(seed))
    assert found.shape == graphs.shape
    assert (found.node_counts >= 1).all()
    assert (found.node_counts <= graphs.node_counts).all()
    assert found.node_counts.sum() == len(found.nodes)
    assert found.edge_counts.sum() == found.edges.shape[1]
    sizes = found.node_counts.repeat_interleave(found.edge_counts)
    assert ((found.edges >= 0) & (found.edges < sizes)).all()
    again = Graphs.of_pairs(found.nodes, found.pairs, found.node_counts)
    assert torch.equal(found.edges, again.edges)  # in both directions, once, in order
    assert as_lists(graphs) == as_lists(before)
    if view is not AttributeMasking:
        rows = set(map(tuple, graphs.nodes.tolist()))
        assert set(map(tuple, found.nodes.tolist())) <= rows


def views_of(view, graph, n_views=400):
    graphs = graphs_of([graph] * n_views)
    return view.fitted(graphs)(graphs, torch.Generator().manual_seed(0))


def test_nodes_are_dropped_with_their_edges():
    found = views_of(NodeDropping(0.25), (np.eye(8), [[0, 1], [1, 2], [2, 0], [6, 7]]))
    assert abs(found.node_counts.float().mean() / 8 - 0.75) < 0.03
    is_there = torch.stack([part.nodes.sum(0) for part in found.split(1)]).bool()  # (n, 8)
    for i, pair in [(0, [0, 1]), (3, [6, 7])]:
        assert i < 8 and (is_there[:, pair].all(1)).any()
    n_expected = sum(is_there[:, pair].all(1) for pair in ([0, 1], [1, 2], [2, 0], [6, 7]))
    assert_array_equal(found.edge_counts, 2 * n_expected)


def test_edges_are_replaced():
    n = 30
    ring = np.stack([np.arange(n), (np.arange(n) + 1) % n], 1)
    found = views_of(EdgePerturbation(0.2), (n, ring))
    difference = (found.edges[0] - found.edges[1]).abs()
    is_old = (difference == 1) | (difference == n - 1)
    assert abs(is_old.float().sum() / (2 * n * len(found)) - 0.8) < 0.03
    assert (found.node_counts == n).all()
    assert found.edge_counts.float().mean() / (2 * n) > 0.95


def test_subgraphs_are_connected_and_of_the_size():
    ring = np.stack([np.arange(10), (np.arange(10) + 1) % 10], 1)
    found = views_of(Subgraph(0.4), (np.eye(10), ring))
    assert (found.node_counts == 6).all()
    assert (found.edge_counts == 10).all()  # a path of 6 nodes
    counts = found.nodes.sum(0)
    assert counts.min() > 0.85 * counts.mean()  # any node may be among them
    apart = views_of(Subgraph(0.4), (np.eye(4), [[0, 1], [2, 3]]))
    assert (apart.node_counts == 2).all()
    assert (apart.edge_counts == 2).all()


def test_masked_nodes_get_the_mean():
    found = views_of(AttributeMasking(0.3), (np.eye(5), []))
    is_masked = (found.nodes == 0.2).all(1)
    assert abs(is_masked.float().mean() - 0.3) < 0.04
    assert (found.nodes[~is_masked].sum(1) == 1).all()


# The benchmark -------------------------------------------------------------------------


def test_the_benchmark_reads_attributes_and_makes_folds(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks/papers")
    import graph_data

    monkeypatch.setattr(graph_data, "FOLDER", tmp_path)
    one = "3 -1\n5 1 1 0.5 2\n7 2 0 2 -1 0\n5 1 1 1e-2 4\n"
    alone = "1 1\n7 0 3 3\n"
    (tmp_path / "SOME.txt").write_text("20\n" + one * 10 + alone * 10)
    data = graph_data.read_set("SOME")
    assert (data.n_tags, data.n_attributes, len(data.folds)) == (2, 2, 10)
    assert_array_equal(np.sort(np.concatenate(data.folds)), np.arange(20))
    assert_array_equal(data.y, np.repeat([0, 1], 10))
    pairs = data.as_pairs()
    assert_allclose(pairs[0][0], [[1, 0, 0.5, 2], [0, 1, -1, 0], [1, 0, 0.01, 4]])
    assert_array_equal(check_graphs(pairs, "X").edge_counts, [4] * 10 + [0] * 10)
    assert_allclose(data.histograms()[[0, 10]], [[2, 1, -0.49, 6], [0, 1, 3, 3]])
    depths = data.weisfeiler_lehman(2)
    assert [counts[0].sum() for counts in depths] == [3, 6, 9]
    assert (depths[2][0] @ depths[2][10].T).toarray() == [[1]]  # the tag 7 alone is shared
    (tmp_path / "SOME_test_folds.txt").write_text("0 1\n2 3\n\n")
    assert_array_equal(graph_data.read_set("SOME").training(0), np.arange(2, 20))


# The estimator -------------------------------------------------------------------------


def test_training_brings_classes_together():
    embedder = HSCLEmbedder(encoder="gin", random_state=0).fit(X, Y)
    classifier = KNeighborsClassifier(3).fit(embedder.transform(X), Y)
    assert classifier.score(embedder.transform(NEW), NEW_Y) > 0.95


def test_graphs_without_features_are_told_apart_by_their_edges():
    train, test = ([(len(f), e) for f, e in graphs] for graphs in (X, NEW))
    embedder = HSCLEmbedder(encoder="gin", random_state=0).fit(train, Y)
    classifier = KNeighborsClassifier(3).fit(embedder.transform(train), Y)
    assert classifier.score(embedder.transform(test), NEW_Y) > 0.95


@pytest.mark.parametrize("loss", ["ucl", "hucl", "scl", "hscl", "sscl"])
@pytest.mark.parametrize("augment", ["auto", *(view() for view in VIEWS)], ids=str)
def test_all_losses_and_views(loss, augment):
    embedder = HSCLEmbedder(loss, augment=augment, **SHORT | {"max_epochs": 1})
    embedding = embedder.fit(X, Y if "scl" in loss else None).transform(NEW)
    assert np.isfinite(embedding).all()
    assert len(np.unique(embedding.round(5), axis=0)) > len(NEW) // 2


def test_a_function_makes_views():
    def swap(graphs, generator):
        return graphs.with_nodes(graphs.nodes.flip(1))

    HSCLEmbedder(augment=swap, **SHORT).fit(X)
    with pytest.raises(ValueError, match="or graphs for graphs"):
        HSCLEmbedder(augment=lambda graphs, generator: graphs[:1], **SHORT).fit(X)


def test_the_same_seed_gives_the_same_bits(fitted):
    state = torch.get_rng_state()
    assert_array_equal(
        HSCLEmbedder(**SHORT).fit(X, Y).transform(NEW), fitted.transform(NEW)
    )
    assert torch.equal(torch.get_rng_state(), state)
    without = [HSCLEmbedder(**SHORT).fit(X).transform(NEW) for _ in range(2)]
    assert_array_equal(*without)
    other = HSCLEmbedder(**SHORT | {"random_state": 1}).fit(X).transform(NEW)
    assert (other != without[0]).any()


def test_types_and_attributes(fitted):
    assert fitted.transform(NEW).dtype == np.float32
    assert fitted.transform([(f.astype(float), e) for f, e in NEW]).dtype == np.float64
    assert (fitted.n_features_in_, fitted.input_shape_) == (2, (-1, 2))
    assert fitted.transform(NEW).shape == (len(NEW), 96)
    assert len(fitted.get_feature_names_out()) == 96
    options = {"hidden_layer_sizes": (8, 4), "n_components": 5, "dropout": 0.1}
    assert HSCLEmbedder(**SHORT, **options).fit_transform(X, Y).shape == (len(X), 5)
    double = HSCLEmbedder(precision="float64", **SHORT).fit(X, Y)
    assert {w.dtype for w in double.module_.parameters()} == {torch.float64}


@pytest.mark.parametrize("way", ["pickle", "bundle", "deepcopy"])
@pytest.mark.parametrize("augment", ["auto", Subgraph(0.3)], ids=str)
def test_the_way_through_a_file(tmp_path, way, augment):
    options = {"n_components": 6, "hidden_layer_sizes": (8, 8), "dropout": 0.1}
    embedder = HSCLEmbedder(augment=augment, **SHORT, **options).fit(X)
    if way == "pickle":
        again = pickle.loads(pickle.dumps(embedder))
    elif way == "deepcopy":
        again = copy.deepcopy(embedder)
    else:
        embedder.save(tmp_path / "graphs.safetensors")
        again = HSCLEmbedder.load(tmp_path / "graphs.safetensors")
    assert_array_equal(again.transform(NEW), embedder.transform(NEW))
    assert str(again.get_params()) == str(embedder.get_params())
    again.set_params(warm_start=True).fit(X)
    assert np.isfinite(again.transform(NEW)).all()


@pytest.mark.parametrize(
    ("shape", "is_valid"),
    [
        ([-1, 2], True),
        ([-1, 0], False),
        ([2, 2], False),
        ([-1], False),
        ([-1, 2, 2], False),
    ],
)
def test_shapes_in_files(shape, is_valid):
    assert is_shape(shape) == is_valid


def test_pipelines_and_searches():
    pipeline = make_pipeline(HSCLEmbedder(**SHORT), LogisticRegression())
    assert cross_val_score(pipeline, X, Y, cv=2).min() > 0.6
    grid = {"hsclembedder__beta": [0.0, 1.0]}
    plain = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    batched = BatchedGridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    assert_allclose(
        *(s.cv_results_["mean_test_score"] for s in (plain, batched)), atol=1e-6
    )
    search = GridSearchCV(
        HSCLEmbedder(augment=NodeDropping(), n_views=2, **SHORT),
        {"augment__p": [0.1, 0.3]},
        scoring=lambda embedder, X, y=None: embedder.transform(X).std(),
        cv=2,
    )
    assert search.fit(X, Y).best_params_["augment__p"] in (0.1, 0.3)


@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping": True},
        {"beta": "auto", "early_stopping": True},
        {"lr_backoff": 0.5},
        {"device_batch_size": 8},
        {"sampler": "balanced"},
        {"normalize": True},
        {"unlabeled_label": "?"},
    ],
    ids=str,
)
def test_options_of_training(options):
    some = np.where(np.arange(len(Y)) < 30, Y, "?")
    embedder = HSCLEmbedder(**SHORT, **options).fit(X, some)
    assert np.isfinite(embedder.transform(NEW)).all()


def test_held_out_graphs_and_chunks(tmp_path):
    embedder = HSCLEmbedder(**SHORT).fit(X, Y, X_val=NEW, y_val=NEW_Y)
    assert embedder.valid_score_name_
    chunks = HSCLEmbedder(**SHORT)
    for start in (0, 20):
        chunks.partial_fit(X[start : start + 20], Y[start : start + 20], ["ring", "star"])
    assert np.isfinite(chunks.transform(NEW)).all()
    whole = HSCLEmbedder(checkpoint_dir=tmp_path, **SHORT).fit(X, Y)
    resumed = HSCLEmbedder(checkpoint_dir=tmp_path, resume=True, **SHORT).fit(X, Y)
    assert_array_equal(whole.transform(NEW), resumed.transform(NEW))
    with pytest.raises(ValueError, match="X"):
        HSCLEmbedder(checkpoint_dir=tmp_path, resume=True, **SHORT).fit(NEW, Y)


def test_continuous_targets_and_diagnosis(fitted):
    sizes, new_sizes = (np.array([len(f) for f, _ in graphs], float) for graphs in (X, NEW))
    regression = HSCLEmbedder(**SHORT).fit(X, sizes, X_val=NEW, y_val=new_sizes)
    assert {"embedding_linear", "rows_linear"} <= set(regression.held_out_readout_)
    assert "loss" in str(diagnose(fitted, X, Y)).lower()


class SumOfNodes(torch.nn.Module):
    """Linear map of the sums of node features."""

    reads_graphs = True

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 4)

    def forward(self, graphs):
        return self.linear(graphs.sum_of_nodes(graphs.nodes))


def test_custom_modules_take_graphs():
    embedder = HSCLEmbedder(**SHORT | {"encoder": SumOfNodes()}).fit(X, Y)
    assert embedder.transform(NEW).shape == (len(NEW), 4)
    with pytest.raises(TypeError, match="SumOfNodes is a class. Pass an instance"):
        HSCLEmbedder(encoder=SumOfNodes).fit(X, Y)
