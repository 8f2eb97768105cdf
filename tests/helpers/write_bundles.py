"""Write the files that every later version has to load.

Run it once for a new format, after increasing its number. Files of earlier formats stay.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script
from helpers.stored_models import frame, images, labels, numbers, words
from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss, WarmUpBeta
from sklearn_hscl.persistence.safetensors_file import FORMAT_VERSION

FORMATS = Path(__file__).parents[1] / "data"
TINY = {"max_epochs": 2, "random_state": 0, "n_components": 4}
TWO = {"hidden_layer_sizes": [8, 8]}
GOLDEN = {
    "table": (TINY | TWO, frame, words),
    "table_mlp": (TINY | TWO | {"encoder": "mlp", "beta": WarmUpBeta()}, frame, labels),
    "unlabelled": (TINY | TWO | {"loss": "hucl", "normalize": True}, numbers, None),
    "loss": (TINY | TWO | {"loss": ContrastiveLoss("scl")}, numbers, labels),
    "images": (TINY | {"encoder": "conv", "hidden_layer_sizes": [4]}, images, labels),
    "float64": (TINY | TWO | {"precision": "float64"}, numbers, labels),
}


def rows_of(name):
    return GOLDEN[name][1]()


def targets_of(name):
    targets = GOLDEN[name][2]
    return None if targets is None else targets()


def main():
    """Write a bundle and the embedding of its rows for each model."""
    folder = FORMATS / f"format_{FORMAT_VERSION}"
    folder.mkdir(parents=True, exist_ok=False)
    for name, (parameters, *_) in GOLDEN.items():
        X = rows_of(name)
        embedder = HSCLEmbedder(**parameters).fit(X, targets_of(name))
        embedder.save(folder / f"{name}.safetensors", metrics={"rows": len(X)})
        np.save(folder / f"{name}.npy", embedder.transform(X))


if __name__ == "__main__":
    main()
