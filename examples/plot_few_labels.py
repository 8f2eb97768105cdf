"""
Few labels, many rows
=====================

Do rows without label help the embedding where labels are few? We label two, five or
twenty pictures of each digit, and train with and without the others.
"""

# %%
# Half of the 1,797 pictures are for training. Without labels, a view of a picture is what
# tells the loss which pictures belong together: here, the picture shifted by a pixel.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from sklearn_hscl import HSCLEmbedder

digits = load_digits()
images = (digits.images / 16).astype(np.float32)

# %%
# Rows labelled -1 have views as their only positives, and are negatives of all others.
# The embedding of the labelled rows alone gets two views as well, and 80 epochs of one
# batch instead of 20 epochs of four: as many steps, so that the difference is the rows.
# A logistic regression then learns from the labelled rows in every case.
sizes = [2, 5, 20]
seeds = range(3)
kinds = ["pixels", "embedding, labelled rows", "embedding, all rows"]
scores = {name: np.zeros((len(sizes), len(seeds))) for name in kinds}

for j, seed in enumerate(seeds):
    X_train, X_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.5, stratify=digits.target, random_state=seed
    )
    for i, size in enumerate(sizes):
        few, _ = train_test_split(
            np.arange(len(y_train)),
            train_size=10 * size,
            stratify=y_train,
            random_state=seed,
        )
        y_few = np.full_like(y_train, -1)
        y_few[few] = y_train[few]
        alone = HSCLEmbedder(encoder="mlp", n_views=2, max_epochs=80, random_state=seed)
        alone.fit(X_train[few], y_train[few])
        both = HSCLEmbedder(encoder="mlp", unlabeled_label=-1, random_state=seed)
        both.fit(X_train, y_few)
        views = [lambda rows: rows.reshape(-1, 64), alone.transform, both.transform]
        for name, view in zip(kinds, views, strict=True):
            classifier = LogisticRegression(max_iter=1000)
            classifier.fit(view(X_train[few]), y_train[few])
            scores[name][i, j] = classifier.score(view(X_test), y_test)

for name, values in scores.items():
    cells = [f"{row.mean():.3f} ± {row.std():.3f}" for row in values]
    print(f"{name:25}", *cells, sep="  ")

# %%
# With these defaults the answer is no: training on all rows is below training on the
# labelled rows in the mean at every size. Pixels are ahead of both where labels are fewest;
# with 20 labels per class the embedding of the labelled rows is ahead of pixels. A likely
# reason is that an unlabelled row repels the rows of its own digit too, as nothing says
# that they belong together. So compare with the labelled rows alone before you add others.
fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, values in scores.items():
    ax.errorbar(sizes, values.mean(1), values.std(1), label=name, marker="o", capsize=3)
ax.set(xlabel="labelled rows per class", ylabel="held-out accuracy", xticks=sizes)
ax.legend()
plt.show()
