"""
Fine-tuning your own torch module
=================================

You have a network with weights, learnt on other pictures, and few labels for yours. Which
of its layers should training move? We freeze some, lower the rate of all, and compare with
the weights as they are and with a network that starts from nothing.
"""

# %%
# The weights come from digits below 5, with labels; the task is to tell the digits from 5
# on apart, by ten pictures of each.
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
# A module is copied, and training starts at its weights. ``freeze`` names what stays as it
# is, by torch's names: ``"0"`` is the first convolution, ``"1"`` the batch normalisation
# behind it, which keeps its statistics. ``net_params`` gives all of the encoder a rate of
# its own; the projection head, which is new, keeps the usual one.
ways = {
    "from nothing": {"encoder": network},
    "all layers": {"encoder": pretrained},
    "lower rate": {
        "encoder": pretrained,
        "net_params": {"optimizer__param_groups": [("encoder.*", {"lr": 5e-4})]},
    },
    "first layer frozen": {"encoder": pretrained, "freeze": ["0", "1"]},
    "convolutions frozen": {"encoder": pretrained, "freeze": ["0", "1", "3", "4"]},
}

accuracy = {"as they are": []} | {name: [] for name in ways}
for seed in range(3):
    X_train, X_test, y_train, y_test = train_test_split(
        images[~below],
        digits.target[~below],
        train_size=50,
        stratify=digits.target[~below],
        random_state=seed,
    )
    embedders = {"as they are": first} | {
        name: HSCLEmbedder(batch_size=25, random_state=seed, **way).fit(X_train, y_train)
        for name, way in ways.items()
    }
    for name, embedder in embedders.items():
        readout = LogisticRegression(max_iter=1000)
        readout.fit(embedder.transform(X_train), y_train)
        accuracy[name].append(readout.score(embedder.transform(X_test), y_test))

print(
    "Accuracy of LogisticRegression on the embedding, three draws of ten pictures a class"
)
for name, scores in accuracy.items():
    print(f"{name:20} {np.mean(scores):.3f} ± {np.std(scores):.3f}")

# %%
# Weights from other digits are worth two to three points on average. What is frozen makes
# no difference beyond the noise of the draws, and saves the work on these layers. The lower
# rate has not come as far in as many steps.
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for place, scores in enumerate(accuracy.values()):
    ax.plot(scores, [place] * len(scores), "o", color="C0", alpha=0.4)
    ax.plot(np.mean(scores), place, "|", color="C0", markersize=18)
ax.set_yticks(range(len(accuracy)), accuracy)
ax.invert_yaxis()
ax.set_xlabel("Accuracy on the other pictures")
plt.show()
