"""
A vector index
==============

Which earlier support tickets have the same cause as a new one? An approximate index need
not compare it with all of them. How many neighbours does it miss, and how much better are
the neighbours after training?
"""

# %%
# By default, tickets are embedded from their TF-IDF. Set the environment variable to
# ``sentence-transformers:FOLDER`` to fine-tune the pretrained encoder in that folder, which
# takes minutes; see :doc:`/user_guide/texts`.
import os
import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.metrics import map_at_r

# %%
# The index is a graph of neighbours (HNSW) by ``usearch``, which has wheels for Python 3.11
# and later on all systems (at most 13 MB with its dependency ``numkong``), takes arrays of
# numpy 2, and is released often, under the Apache licence. Of the alternatives, ``hnswlib``
# has no wheels and no release since 2023, and ``faiss-cpu`` contains an OpenMP library of
# its own, which is known to crash beside that of torch on macOS.
try:
    from usearch.index import Index
except ImportError:
    Index = None
    print("Exact search only. For the index: pip install usearch")

ENCODER = os.environ.get("HSCL_TEXT_ENCODER")

# %%
# The tickets are made by a grammar, so that the example needs no download. A cause is a
# pair of device and symptom, and each word occurs with several causes. Most tickets also
# mention a device or a symptom that is not the cause.
DEVICES = {
    "printer": ["printer", "laser printer", "print station", "multifunction device"],
    "laptop": ["laptop", "notebook", "computer", "machine"],
    "phone": ["phone", "mobile", "handset", "device"],
    "router": ["router", "access point", "wifi box", "modem"],
    "screen": ["screen", "monitor", "display", "second screen"],
    "camera": ["camera", "webcam", "conference camera", "video device"],
}
SYMPTOMS = {
    "power": ["does not turn on", "stays dark", "shows no light", "is dead since"],
    "slow": ["is slow", "takes ages", "lags", "hangs for minutes"],
    "noise": ["makes a noise", "hums", "rattles", "is loud"],
    "heat": ["gets hot", "smells burnt", "overheats", "is too warm"],
    "connection": ["loses the connection", "is not found", "drops out", "is offline"],
    "setup": ["asks for a driver", "needs setup", "shows an update", "wants a password"],
}
PLACES = [
    "office",
    "meeting room",
    "lab",
    "lobby",
    "warehouse",
    "second floor",
    "reception",
]
TIMES = ["Monday", "Tuesday", "this morning", "yesterday", "last week", "noon", "the move"]
CAUSES = [(device, symptom) for device in DEVICES for symptom in SYMPTOMS]


def ticket(rng, device, symptom):
    """Describe a cause in one of many ways."""
    name, fault = rng.choice(DEVICES[device]), rng.choice(SYMPTOMS[symptom])
    other, another = rng.choice(list(DEVICES)), rng.choice(list(SYMPTOMS))
    aside = rng.choice(
        [
            f"the {rng.choice(DEVICES[other])} is fine",
            f"it is next to the {rng.choice(DEVICES[other])}",
            f"nobody else says that it {rng.choice(SYMPTOMS[another])}",
            f"the last one {rng.choice(SYMPTOMS[another])} too",
            "please help",
        ]
    )
    where, when = rng.choice(PLACES), rng.choice(TIMES)
    parts = [f"the {name} {fault}", f"in the {where}", f"since {when}", aside]
    return ", ".join(rng.permutation(parts))


def tickets(rng, n):
    """Return n different tickets and the indices of their causes."""
    causes = rng.integers(len(CAUSES), size=n)
    texts = np.array([ticket(rng, *CAUSES[cause]) for cause in causes])
    _, first = np.unique(texts, return_index=True)
    return texts[np.sort(first)], causes[np.sort(first)]


# %%
# The cause is known of the first 1,000 tickets, on which the embedding is trained. The
# others are searched: 500 are queries, and the rest is in the index.
rng = np.random.default_rng(0)
texts, causes = tickets(rng, 3000 if ENCODER else 10_000)
train, query, stored = slice(1000), slice(1000, 1500), slice(1500, None)
if ENCODER:
    from sentence_transformers import SentenceTransformer

    pretrained = SentenceTransformer(ENCODER.partition(":")[2], device="cpu")
    before = pretrained.encode(texts.tolist())
    embedder = HSCLEmbedder(encoder=ENCODER, random_state=0)
else:
    before = TfidfVectorizer().fit(texts[train]).transform(texts).toarray()
    embedder = make_pipeline(TfidfVectorizer(), HSCLEmbedder(random_state=0))
after = embedder.fit(texts[train], causes[train]).transform(texts)
rows = {
    "before": normalize(before).astype(np.float32),
    "embedding": normalize(after).astype(np.float32),
}


# %%
# Recall@10 is the fraction of the ten neighbours found by the index that are as similar as
# the tenth by exact search: tickets may be equally similar, and any of them is right. The
# more candidates the index expands in a search, the fewer neighbours it misses. MAP@R says
# how many of the neighbours have the cause of the query, by exact search.
def timed(search, *arguments, **options):
    """Return the result of a search, and the least seconds of three repetitions."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = search(*arguments, **options)
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


EXPANSIONS = [10, 20, 40, 80, 160]
quality, curves = {}, {}
for name, vectors in rows.items():
    exact = NearestNeighbors(n_neighbors=10, algorithm="brute", metric="cosine")
    exact.fit(vectors[stored])
    (distances, _), exact_seconds = timed(exact.kneighbors, vectors[query])
    quality[name] = map_at_r(
        vectors[stored], causes[stored], X_query=vectors[query], y_query=causes[query]
    )
    print(f"{name:9} MAP@R {quality[name]:.3f}, {vectors.shape[1]} columns")
    if Index is None:
        continue
    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
    index.add(np.arange(len(vectors[stored])), vectors[stored], threads=1)
    for expansion in EXPANSIONS:
        index.expansion_search = expansion
        found, seconds = timed(index.search, vectors[query], 10, threads=1)
        similar = vectors[stored][found.keys] @ vectors[query][:, :, None]  # (500, 10, 1)
        recall = np.mean(similar[:, :, 0] >= 1 - distances[:, -1:] - 1e-5)
        curves.setdefault(name, []).append((expansion, recall, exact_seconds / seconds))
        print(f"  expansion {expansion:3}: recall@10 {recall:.3f},", end=" ")
        print(f"{exact_seconds / seconds:.1f} times as fast as exact search")

# %%
# Words find hardly any ticket of the same cause: places, times and asides are as similar as
# what matters. Training makes MAP@R ten times as large, and the index misses hardly any
# neighbour. On 8,500 tickets exact search is quick as well, and with many candidates the
# index can be slower; the time of exact search grows with the number of tickets.
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
axes[0].bar(list(quality), list(quality.values()), color=["0.6", "#0072B2"], width=0.5)
axes[0].set(ylabel="MAP@R by exact search", ylim=(0, 1))
for (name, curve), style in zip(curves.items(), ("--s", "-o"), strict=False):
    recall, speed = np.array(curve).T[1:]
    color = "0.5" if name == "before" else "#0072B2"
    axes[1].plot(recall, speed, style, color=color, label=name)
axes[1].axhline(1, color="k", lw=1)
axes[1].set(xlabel="recall@10 of the index", ylabel="speed, exact search = 1", yscale="log")
axes[1].legend() if curves else axes[1].set_title("pip install usearch")
plt.show()
