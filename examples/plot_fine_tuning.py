"""
Fine-tuning a torch module
==========================

You have a network that was pretrained on other images, and few labels for yours. Which of
its layers should be trained? We freeze some, lower the learning rate of all, and compare
with the pretrained weights and with training from scratch.
"""

# %%
# The network is pretrained on the digits 0 to 4, with labels. The task is to classify the
# digits 5 to 9, given ten images of each.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import nn

from sklearn_hscl import HSCLEmbedder

digits = load_digits()
images = np.round(digits.images * 255 / 16).astype(np.uint8)
below = digits.target < 5


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 64),
    )


first = HSCLEmbedder(encoder=network, random_state=0)
pretrained = first.fit(images[below], digits.target[below]).module_

# %%
# A module is copied, and training starts at its weights. ``freeze`` lists the submodules
# that are not trained, by torch's names: ``"0"`` is the first convolution, ``"1"`` the
# batch normalisation after it, which keeps its statistics. ``net_params`` sets a lower
# learning rate for the encoder; the new projection head keeps the default.
ways = {
    "from scratch": {"encoder": network},
    "all layers": {"encoder": pretrained},
    "lower rate": {
        "encoder": pretrained,
        "net_params": {"optimizer__param_groups": [("encoder.*", {"lr": 5e-4})]},
    },
    "first layer frozen": {"encoder": pretrained, "freeze": ["0", "1"]},
    "convolutions frozen": {"encoder": pretrained, "freeze": ["0", "1", "3", "4"]},
}

accuracy = {"pretrained": []} | {name: [] for name in ways}
for seed in range(3):
    X_train, X_test, y_train, y_test = train_test_split(
        images[~below],
        digits.target[~below],
        train_size=50,
        stratify=digits.target[~below],
        random_state=seed,
    )
    embedders = {"pretrained": first} | {
        name: HSCLEmbedder(batch_size=25, random_state=seed, **way).fit(X_train, y_train)
        for name, way in ways.items()
    }
    for name, embedder in embedders.items():
        probe = LogisticRegression(max_iter=1000)
        probe.fit(embedder.transform(X_train), y_train)
        accuracy[name].append(probe.score(embedder.transform(X_test), y_test))

print(
    "Accuracy of LogisticRegression on the embedding, three draws of ten images per class"
)
for name, scores in accuracy.items():
    print(f"{name:20} {np.mean(scores):.3f} ± {np.std(scores):.3f}")

# %%
# Pretraining on other digits gains two to three points on average. Freezing layers makes no
# difference beyond the noise of the draws, and saves their computation. With the lower
# rate, training makes less progress in the same number of steps.
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for y_axis, scores in enumerate(accuracy.values()):
    ax.plot(scores, [y_axis] * len(scores), "o", color="C0", alpha=0.4)
    ax.plot(np.mean(scores), y_axis, "|", color="C0", markersize=18)
ax.set_yticks(range(len(accuracy)), accuracy)
ax.invert_yaxis()
ax.set_xlabel("Accuracy on test images")
plt.show()
