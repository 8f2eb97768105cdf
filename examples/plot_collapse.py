"""
A healthy run and a collapsed one
=================================

A network can map all pictures to one point. How does one see that? We train the same deep
network at the default and at a far too high learning rate, and look at both.
"""

# %%
# Both runs train on half of the digits; the other half is for looking at them.
import matplotlib.pyplot as plt
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.display import (
    CollapseDisplay,
    EmbeddingDisplay,
    LossCurveDisplay,
    NeighborsDisplay,
    SimilarityDisplay,
)

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(
    digits.images / 16, digits.target, test_size=0.5, stratify=digits.target, random_state=0
)
deep = HSCLEmbedder(
    encoder="mlp", hidden_layer_sizes=(128,) * 4, max_epochs=30, random_state=0
)
healthy = clone(deep).fit(X_train, y_train)
collapsed = clone(deep).set_params(lr=0.1).fit(X_train, y_train)
runs = {"Healthy": healthy, "Collapsed": collapsed}

# %%
# ``diagnose`` says it in words. ``?`` marks what deserves a look, ``!`` what is wrong, and
# what to try next stands below it. The labels that it doubts in the healthy run are those
# of digits that are hard to read; so deep a network is not the best for them.
for name, embedder in runs.items():
    print(f"{name} embedding\n{'-' * len(name)}----------")
    print(diagnose(embedder, X_train, y_train, X_val=X_test, y_val=y_test))
    print()

# %%
# A loss alone says little: it grows with the batch and falls with the temperature. The
# dashed line is the loss at which all pictures have one embedding. The collapsed run has
# never left it.


def side_by_side(height=3.6, n_columns=2):
    return plt.subplots(1, n_columns, figsize=(9, height), layout="constrained")


fig, axes = side_by_side()
for ax, (name, embedder) in zip(axes, runs.items(), strict=True):
    LossCurveDisplay.from_estimator(embedder, ax=ax).ax_.set_title(name)

# %%
# The two first principal components of pictures that were not trained on: the collapsed
# embedding is a dot.
fig, axes = side_by_side()
for ax, (name, embedder) in zip(axes, runs.items(), strict=True):
    EmbeddingDisplay.from_estimator(embedder, X_test, y_test, ax=ax).ax_.set_title(name)

# %%
# As the loss sees it: in the healthy run pictures of one digit have cosines near 1, others
# lie to the left, and the tilt of H-SCL looks at those on the right. In the collapsed run
# all cosines are 1.
fig, axes = side_by_side()
for ax, (name, embedder) in zip(axes, runs.items(), strict=True):
    SimilarityDisplay.from_estimator(embedder, X_test, y_test, ax=ax).ax_.set_title(name)

# %%
# Singular values tell how many dimensions are used. On the right, the cosines of the class
# means, which the loss drives towards -1/9 in the space of its projection.
fig, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
for row, (name, embedder) in zip(axes, runs.items(), strict=True):
    display = CollapseDisplay.from_estimator(embedder, X_test, y_test, axes=row)
    display.axes_[0].set_title(name)

# %%
# Neighbours, last: the number above a picture is its digit, the other its cosine; dashed
# frames are around wrong digits. To the collapsed embedding all pictures are alike.
for name, embedder in runs.items():
    display = NeighborsDisplay.from_estimator(
        embedder, X_test, y_test, queries=[0, 1, 2], n_neighbors=6
    )
    display.figure_.suptitle(name)
plt.show()
