"""Small graphs whose class is a pattern of edges, and the network as explicit loops."""

import numpy as np
import torch


def rings_and_stars(n_graphs=40, seed=0, n_kinds=2):
    """Return pairs of one-hot node features and edges, with the class of each graph."""
    rng = np.random.default_rng(seed)
    graphs, labels = [], []
    for index in range(n_graphs):
        n_nodes = int(rng.integers(4, 9))
        nodes = np.arange(n_nodes)
        if index % 2:
            edges = np.stack([nodes, (nodes + 1) % n_nodes], 1)
        else:
            edges = np.stack([np.zeros(n_nodes - 1, int), nodes[1:]], 1)
        features = np.eye(n_kinds, dtype=np.float32)[rng.integers(0, n_kinds, n_nodes)]
        graphs.append((features, edges))
        labels.append("ring" if index % 2 else "star")
    return graphs, np.array(labels)


def loop_embedding(encoder, features, edges):
    """Embed one graph in evaluation mode by loops over its nodes, from the formula."""
    neighbors = {i: set() for i in range(len(features))}
    for a, b in edges:
        neighbors[int(a)].add(int(b))
        neighbors[int(b)].add(int(a))
    h = [torch.as_tensor(row) / encoder.scale for row in features]
    sums = []
    for layer in encoder.layers:
        linear, norm, _, _, second, last_norm, _ = layer
        new = []
        for i in range(len(h)):
            total = h[i]
            for j in neighbors[i]:
                total = total + h[j]
            hidden = torch.relu(_norm(norm, linear.weight @ total + linear.bias))
            new.append(torch.relu(_norm(last_norm, second.weight @ hidden + second.bias)))
        h = new
        sums.append(sum(h))
    return _norm(encoder.norm, torch.cat(sums))


def _norm(norm, values):
    scaled = (values - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return scaled * norm.weight + norm.bias
