"""
Which labels are wrong?
=======================

Samples whose neighbours agree on another class often have a wrong label. We give one in
twenty digits a wrong label on purpose, and count how many of these are found.
"""

# %%
# The network is trained on the wrong labels, too, and for long enough to memorise them.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import KFold

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.display import NeighborsDisplay

digits = load_digits()
X, labels = digits.data, digits.target.copy()
rng = np.random.default_rng(0)
wrong = rng.choice(len(X), len(X) // 20, replace=False)
labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10


def fitted(rows, y):
    return HSCLEmbedder(encoder="mlp", max_epochs=60, random_state=0).fit(rows, y)


def report(name, found):
    right = len(set(found) & set(wrong))
    print(f"{name}: {len(found)} suspects, {right} of {len(wrong)} wrong labels among them")


finding = diagnose(fitted(X, labels), X, labels)["labels"]
print(finding.summary)
report("By an embedding of the same samples", finding.values["rows"])

# %%
# Nearly all suspects are correct, but many wrong labels are missed: training draws a sample
# towards its label, more so the longer it lasts. Held-out samples reveal more, so each
# third of the samples is now evaluated in an embedding trained on the other two. Among the
# new suspects are digits that are hard to read.
suspects = []
for train, test in KFold(3, shuffle=True, random_state=0).split(X):
    embedder = fitted(X[train], labels[train])
    held_out = {"X_val": X[test], "y_val": labels[test]}
    finding = diagnose(embedder, X[train], labels[train], **held_out)["labels"]
    suspects += test[finding.values["held_out_rows"]].tolist()
report("By embeddings of other samples", suspects)

# %%
# Suspects of the last third and their nearest images. Above each image are its label, right
# or wrong, and its cosine. Dashed frames mark labels that differ from the suspect's.
NeighborsDisplay.from_estimator(
    fitted(digits.images[train], labels[train]),
    digits.images,
    labels,
    queries=test[finding.values["held_out_rows"][:5]],
    n_neighbors=7,
)
plt.show()
