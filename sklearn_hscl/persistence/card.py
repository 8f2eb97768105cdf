"""What a bundle says of its embedder."""

import os
from typing import Any

from sklearn_hscl.persistence.bundle import PARTS
from sklearn_hscl.persistence.container import read_document
from sklearn_hscl.persistence.errors import naming
from sklearn_hscl.persistence.facts import check_facts


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a file of :meth:`~sklearn_hscl.HSCLEmbedder.save` says of its embedder.

    Weights are not read, and nothing is built.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    dict
        ``"parameters"``, those that were stored, as JSON has them; ``"left_out"``, the
        names of the others; ``"metrics"``: figures of the best epoch and those passed to
        ``save``; ``"versions"`` of the libraries that wrote it; ``"n_features"``.

    Raises
    ------
    OSError
        If the file cannot be read.
    BundleError
        If it is no such file, or damaged.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.persistence import read_card
    >>> embedder = HSCLEmbedder(max_epochs=1).fit(*load_iris(return_X_y=True))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     embedder.save(f"{folder}/iris.safetensors", metrics={"accuracy": 0.95})
    ...     read_card(f"{folder}/iris.safetensors")["metrics"]["accuracy"]
    0.95
    """
    document = read_document(path)
    with naming(path):
        check_facts(document, "document", **PARTS)
        names = ("parameters", "left_out", "metrics", "versions")
        n_features = document["input"]["n_features_in_"]
        return {name: document[name] for name in names} | {"n_features": n_features}
