"""
A healthy run and a collapsed one
=================================

A network can map all images to one point. How is this detected? We train the same deep
network at the default and at a far too high learning rate, and compare both.
"""

# %%
# Both runs train on half of the digits; the other half is for evaluation.
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
# ``diagnose`` reports it in words. ``?`` marks a warning, ``!`` a problem, each followed by
# what to try next. The suspicious labels in the healthy run are those of digits that are
# hard to read; such a deep network is not the best for them.
for name, embedder in runs.items():
    print(f"{name} embedding\n{'-' * len(name)}----------")
    print(diagnose(embedder, X_train, y_train, X_val=X_test, y_val=y_test))
    print()

# %%
# The value of a loss alone means little: it increases with the batch size and decreases
# with the temperature. The dashed line is the loss if all images have the same embedding.
# The collapsed run never leaves it.


def side_by_side(height=3.6, n_columns=2):
    return plt.subplots(1, n_columns, figsize=(9, height), layout="constrained")


fig, axes = side_by_side()
for ax, (name, embedder) in zip(axes, runs.items(), strict=True):
    LossCurveDisplay.from_estimator(embedder, ax=ax).ax_.set_title(name)

# %%
# The first two principal components of held-out images: the collapsed embedding is a single
# point.
fig, axes = side_by_side()
for ax, (name, embedder) in zip(axes, runs.items(), strict=True):
    EmbeddingDisplay.from_estimator(embedder, X_test, y_test, ax=ax).ax_.set_title(name)

# %%
# As the loss sees it: in the healthy run, images of one digit have cosines close to 1,
# those of different digits have lower ones, and the tilt of H-SCL emphasises the highest of
# these. In the collapsed run all cosines are 1.
fig, axes = side_by_side()
for ax, (name, embedder) in zip(axes, runs.items(), strict=True):
    SimilarityDisplay.from_estimator(embedder, X_test, y_test, ax=ax).ax_.set_title(name)

# %%
# Singular values show how many dimensions are used. On the right are the cosines of the
# class means, which the loss drives towards -1/9 in the space of its projection.
fig, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
for row, (name, embedder) in zip(axes, runs.items(), strict=True):
    display = CollapseDisplay.from_estimator(embedder, X_test, y_test, axes=row)
    display.axes_[0].set_title(name)

# %%
# Finally, nearest neighbours: above each image are its digit and its cosine; dashed frames
# mark wrong digits. In the collapsed embedding all images are equally similar.
for name, embedder in runs.items():
    display = NeighborsDisplay.from_estimator(
        embedder, X_test, y_test, queries=[0, 1, 2], n_neighbors=6
    )
    display.figure_.suptitle(name)
plt.show()
