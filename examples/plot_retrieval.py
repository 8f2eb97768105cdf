"""
Image retrieval
===============

Which images are most similar to a given one? We search held-out digits by their pixels,
by an embedding trained without labels (H-UCL), and by one trained with labels (H-SCL).
"""

# %%
# Half of the images train the embeddings; each image of the other half is a query against
# the rest of that half.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors

from sklearn_hscl import HSCLEmbedder

digits = load_digits()
images = (digits.images / 16).astype(np.float32)


def nearest_five(rows):
    # Without arguments, kneighbors searches the fitted rows and excludes the query.
    return NearestNeighbors(n_neighbors=5).fit(rows).kneighbors(return_distance=False)


# %%
# Precision@5 is the fraction of the five nearest images that show the digit of the query.
# The loss compares directions only, so ``normalize=True`` removes the norm. Training shifts
# each image by up to a pixel, so we also search images that are shifted by as much.
methods = ["pixels", "H-UCL", "H-SCL"]
precision = {name: [] for name in methods}
precision_shifted = {name: [] for name in methods}
for seed in range(3):
    X_train, X_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.5, stratify=digits.target, random_state=seed
    )
    hucl = HSCLEmbedder(loss="hucl", normalize=True, random_state=seed).fit(X_train)
    hscl = HSCLEmbedder(loss="hscl", normalize=True, random_state=seed)
    hscl.fit(X_train, y_train)
    rng = np.random.default_rng(seed)
    shifts = rng.integers(-1, 2, size=(len(X_test), 2))
    shifted = np.stack(
        [np.roll(x, shift, axis=(0, 1)) for x, shift in zip(X_test, shifts, strict=True)]
    )
    for test, scores in ((X_test, precision), (shifted, precision_shifted)):
        rows = [test.reshape(-1, 64), hucl.transform(test), hscl.transform(test)]
        nearest = dict(zip(methods, map(nearest_five, rows), strict=True))
        for name, hits in nearest.items():
            scores[name].append(np.mean(y_test[hits] == y_test[:, None]))

print("Precision@5 by pixels and by embedding, three splits")
for name in methods:
    before, after = precision[name], precision_shifted[name]
    print(
        f"{name:7} original {np.mean(before):.3f} ± {np.std(before):.3f}, "
        f"shifted {np.mean(after):.3f} ± {np.std(after):.3f}"
    )

# %%
# H-SCL retrieves better than H-UCL and pixels, which are level: pixels are a strong
# baseline on small, centred images. If these are shifted, both lose much and H-SCL little.
# The first column of each group is a query among the shifted images of the last split,
# followed by its five nearest neighbours; wrong digits are red.
queries = [np.flatnonzero(y_test == digit)[0] for digit in range(0, 10, 2)]
fig, axes = plt.subplots(5, 18, figsize=(10, 3.4), layout="constrained")
for ax in axes.flat:
    ax.axis("off")
for row, query in zip(axes, queries, strict=True):
    for i, hits in enumerate(nearest.values()):
        group = row[6 * i : 6 * i + 6]
        for ax, shown in zip(group, [query, *hits[query]], strict=True):
            wrong = y_test[shown] != y_test[query]
            ax.imshow(shifted[shown], cmap="Reds" if wrong else "gray_r")
for i, name in enumerate(nearest):
    axes[0, 6 * i].set_title(name, loc="left")
plt.show()

# sphinx_gallery_thumbnail_path = "images/plot_retrieval.png"
