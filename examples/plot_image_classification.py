"""
Classifying images on a CPU
===========================

From an array of pictures to a classifier, with a small convolutional network that needs no
GPU: an embedding by H-SCL and logistic regression on it, beside classifiers of the pixels.
"""

# %%
# Images come as they are: here (n_samples, height, width) of bytes, without channels. They
# stay bytes until a batch needs them.
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
# ``encoder="conv"`` knows the size of the images. Each epoch shifts them by up to a pixel,
# as ``augment="auto"`` does with images.
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
# Which digits are still taken for others, and which pictures are these?
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
for ax, place in zip(right.axes, wrong, strict=False):
    ax.imshow(X_test[place], cmap="gray_r")
    ax.set_title(f"{y_test[place]} taken for {predicted[place]}", fontsize=7)
plt.show()
