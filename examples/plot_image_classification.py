"""
Classifying images on a CPU
===========================

From an array of images to a classifier, with a small convolutional network that needs no
GPU: logistic regression on an H-SCL embedding, compared with classifiers of the pixels.
"""

# %%
# The images have shape (n_samples, height, width) and dtype uint8, without channels. They
# are converted to floats batch by batch.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_hscl import HSCLEmbedder

digits = load_digits()
images = np.round(digits.images * 255 / 16).astype(np.uint8)  # (1797, 8, 8)
X_train, X_test, y_train, y_test = train_test_split(
    images, digits.target, train_size=500, stratify=digits.target, random_state=0
)

# %%
# ``encoder="conv"`` adapts to the size of the images. ``augment="auto"`` shifts them by up
# to a pixel in each epoch.
embedder = HSCLEmbedder(encoder="conv", random_state=0)
models = {
    "embedding + LogisticRegression": make_pipeline(
        embedder, LogisticRegression(max_iter=1000)
    ),
    "pixels + LogisticRegression": make_pipeline(
        FunctionTransformer(lambda stack: stack.reshape(len(stack), -1) / 255),
        LogisticRegression(max_iter=1000),
    ),
    "pixels + HistGradientBoosting": make_pipeline(
        FunctionTransformer(lambda stack: stack.reshape(len(stack), -1)),
        HistGradientBoostingClassifier(random_state=0),
    ),
}
for name, model in models.items():
    print(f"{name:31} {model.fit(X_train, y_train).score(X_test, y_test):.3f}")

# %%
# Which digits are still confused, and in which images?
pipe = models["embedding + LogisticRegression"]
predicted = pipe.predict(X_test)
wrong = np.flatnonzero(predicted != y_test)[:12]
fig = plt.figure(figsize=(8, 4.2), layout="constrained")
left, right = fig.subfigures(1, 2, width_ratios=[3, 2])
ConfusionMatrixDisplay.from_predictions(
    y_test, predicted, ax=left.subplots(), colorbar=False, cmap="Blues"
)
axes = right.subplots(4, 3).flat
for ax in axes:
    ax.axis("off")
for ax, index in zip(right.axes, wrong, strict=False):
    ax.imshow(X_test[index], cmap="gray_r")
    ax.set_title(f"{y_test[index]} predicted as {predicted[index]}", fontsize=7)
plt.show()
