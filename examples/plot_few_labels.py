"""
Few labels, many samples
========================

Do unlabelled samples improve the embedding if labels are few? We label two, five or twenty
images of each digit, and train with and without the others.
"""

# %%
# Half of the 1,797 images are for training. Without labels, the positives of an image are
# views of it: here, the image shifted by a pixel.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from sklearn_hscl import HSCLEmbedder

digits = load_digits()
images = (digits.images / 16).astype(np.float32)

# %%
# Samples with the label -1 have their views as only positives, and are negatives of all
# others. The embedding of the labelled samples alone gets two views as well, and 80 epochs
# of one batch instead of 20 epochs of four: the number of steps is the same, so that only
# the samples differ. A logistic regression is then fitted to the labelled samples in every
# case.
sizes = [2, 5, 20]
seeds = range(3)
methods = ["pixels", "embedding, labelled samples", "embedding, all samples"]
scores = {name: np.zeros((len(sizes), len(seeds))) for name in methods}

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
        embeddings = [lambda rows: rows.reshape(-1, 64), alone.transform, both.transform]
        for name, embed in zip(methods, embeddings, strict=True):
            classifier = LogisticRegression(max_iter=1000)
            classifier.fit(embed(X_train[few]), y_train[few])
            scores[name][i, j] = classifier.score(embed(X_test), y_test)

for name, values in scores.items():
    cells = [f"{row.mean():.3f} ± {row.std():.3f}" for row in values]
    print(f"{name:27}", *cells, sep="  ")

# %%
# With two and five labels per class the answer is yes: training on all samples has a higher
# mean accuracy than training on the labelled ones; with 20 the two are level. Part of it
# comes from the principal components of all images, which follow the encoder where labels
# are few. But pixels are best with the fewest labels, and only with 20 per class is the
# embedding better. So compare with pixels, and with the labelled samples alone.
fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, values in scores.items():
    ax.errorbar(sizes, values.mean(1), values.std(1), label=name, marker="o", capsize=3)
ax.set(xlabel="labelled samples per class", ylabel="held-out accuracy", xticks=sizes)
ax.legend()
plt.show()
