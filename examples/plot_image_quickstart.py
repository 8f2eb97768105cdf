"""
Images and a custom torch module
================================

How do I train a custom network on images and use its embedding? A small convolutional
module embeds 8×8 images of digits; we then retrieve the nearest images of a query.
"""

# %%
# Images have shape (n_samples, height, width), or with channels
# (n_samples, channels, height, width) or (n_samples, height, width, channels).
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import nn

from sklearn_hscl import HSCLEmbedder

digits = load_digits()
images = digits.images.astype(np.float32) / 16  # (1797, 8, 8) in [0, 1]
X_train, X_test, y_train, y_test = train_test_split(
    images, digits.target, stratify=digits.target, random_state=0
)

# %%
# Any module that maps (B, channels, height, width) to (B, n_components) can be used. A
# function builds a new one in each fit, from ``random_state``.


def small_conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 64),
    )


embedder = HSCLEmbedder(encoder=small_conv, normalize=True, random_state=0)
embedding = embedder.fit(X_train, y_train).transform(X_test)

# %%
# Every epoch shifts the images by a pixel in a random direction, so that a shifted digit
# remains close in the embedding.
n_train = len(X_train)
pixels = KNeighborsClassifier().fit(X_train.reshape(n_train, -1), y_train)
neighbors = KNeighborsClassifier().fit(embedder.transform(X_train), y_train)
print(f"5 nearest neighbours on pixels: {pixels.score(X_test.reshape(-1, 64), y_test):.3f}")
print(f"on the embedding: {neighbors.score(embedding, y_test):.3f}")

# %%
# Retrieval: the first column shows held-out queries, the others their nearest training
# images.
index = NearestNeighbors(n_neighbors=6).fit(embedder.transform(X_train))
queries = [int(np.flatnonzero(y_test == digit)[0]) for digit in (3, 5, 8)]
nearest = index.kneighbors(embedding[queries], return_distance=False)

fig, axes = plt.subplots(3, 7, figsize=(7, 3.2), layout="constrained")
for row, query, hits in zip(axes, queries, nearest, strict=True):
    for ax, image in zip(row, [X_test[query], *X_train[hits]], strict=True):
        ax.imshow(image, cmap="gray_r")
        ax.set(xticks=[], yticks=[])
axes[0, 0].set_title("query")
axes[0, 1].set_title("nearest", loc="left")
plt.show()
