"""
Which labels are wrong?
=======================

Rows whose neighbours agree on another class often have a wrong label. We give one in
twenty digits a wrong label on purpose, and see how many of these are found.
"""

# %%
# The network learns from the wrong labels, too, and for long enough to know them by heart.
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
report("By an embedding of the rows themselves", finding.values["rows"])

# %%
# Hardly a suspect is wrong, but many wrong labels are missed: training draws a row towards
# its label, the more the longer it lasts. Rows that were not trained on give more away, so
# each third of the rows is now judged by an embedding of the other two. Among the new
# suspects are digits that are hard to read.
suspects = []
for train, test in KFold(3, shuffle=True, random_state=0).split(X):
    embedder = fitted(X[train], labels[train])
    held_out = {"X_val": X[test], "y_val": labels[test]}
    finding = diagnose(embedder, X[train], labels[train], **held_out)["labels"]
    suspects += test[finding.values["held_out_rows"]].tolist()
report("By embeddings of other rows", suspects)

# %%
# Suspects of the last third, and the pictures that are nearest to them. The number above a
# picture is its label, right or wrong; after it comes the cosine. Dashed frames mark labels
# that differ from the suspect's.
NeighborsDisplay.from_estimator(
    fitted(digits.images[train], labels[train]),
    digits.images,
    labels,
    queries=test[finding.values["held_out_rows"][:5]],
    n_neighbors=7,
)
plt.show()
