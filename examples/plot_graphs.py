"""
Embedding graphs
================

Molecules, circuits and networks are graphs. Here they are made: rings with a tail, rings
with a chord, and trees. Their nodes are of three random kinds, which say nothing about the
class of a graph. Only its structure does.
"""

# %%
# A graph is a pair of node features and edges. The kinds of nodes are one-hot features.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_hscl import HSCLEmbedder

rng = np.random.default_rng(0)
CLASSES = ("ring with tail", "ring with chord", "tree")


def made_graph(kind):
    n_nodes = int(rng.integers(8, 16))
    n_ring = n_nodes - 3 if kind == "ring with tail" else n_nodes
    edges = [(i, (i + 1) % n_ring) for i in range(n_ring)]
    if kind == "ring with tail":
        edges += [(0, n_ring), (n_ring, n_ring + 1), (n_ring + 1, n_ring + 2)]
    elif kind == "ring with chord":
        edges += [(0, n_ring // 2)]
    else:
        edges = [(int(rng.integers(0, i)), i) for i in range(1, n_nodes)]
    return np.eye(3)[rng.integers(0, 3, n_nodes)], np.array(edges)


y = np.repeat(CLASSES, 40)
graphs = [made_graph(kind) for kind in y]

# %%
# Counts of the kinds of nodes are as good as chance; the embedding is not.
counts = FunctionTransformer(lambda X: np.array([features.sum(0) for features, _ in X]))
embedder = HSCLEmbedder(encoder="gin", random_state=0)
for name, rows in {"counts of nodes": counts, "embedding": embedder}.items():
    model = make_pipeline(rows, LogisticRegression(max_iter=1000))
    print(f"{name}: accuracy {cross_val_score(model, graphs, y, cv=3).mean():.2f}")

# %%
# Held-out graphs are close to those of their class. Without labels, graphs are compared
# with views of themselves, of which some nodes are dropped.
train = np.arange(len(y)) % 3 > 0
_, axes = plt.subplots(1, 2, figsize=(9, 4))
for ax, loss in zip(axes, ("hscl", "hucl"), strict=True):
    embedder = HSCLEmbedder(loss, encoder="gin", random_state=0)
    embedder.fit([graphs[i] for i in np.flatnonzero(train)], y[train])
    plane = PCA(2).fit_transform(embedder.transform(graphs)[~train])
    for kind in CLASSES:
        ax.scatter(*plane[y[~train] == kind].T, label=kind)
    ax.set_title(f'loss="{loss}", held-out graphs')
axes[0].legend()
plt.show()
