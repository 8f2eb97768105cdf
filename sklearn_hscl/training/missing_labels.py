"""Missing labels are predicted before training, by simple models or by a first fit."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor

from sklearn_hscl.data.training_data import TrainingData
from sklearn_hscl.encoders.inference import embed_tensor
from sklearn_hscl.encoders.linear_path import input_values, some_of
from sklearn_hscl.encoders.preprocessing import ColumnLayout
from sklearn_hscl.training.batches.tensors import LabelledRows
from sklearn_hscl.training.config import FitConfig, FitContext
from sklearn_hscl.training.loop.net import ContrastiveNet

Floats = NDArray[np.floating]
# Fraction of rows with a label up to which labels are few.
_MAX_LABELLED = 0.2
# Labels spread in so many principal components, over so many nearest neighbors, and among
# at most so many rows with a label and as many without.
_MAX_COMPONENTS, _N_NEIGHBORS, _MAX_ROWS = 64, 10, 2048
# Weight of the linear model: neighbors mislead more, in wide tables with few labels.
_LINEAR_WEIGHT = 2.0
_CHUNK_ROWS = 8192


# Which fits ------------------------------------------------------------------------------


def completes_labels(config: FitConfig, data: TrainingData, *, is_chunk: bool) -> bool:
    """Return whether simple models predict missing labels before training.

    They do so for dense tables and built-in encoders, where few rows have a label: of many
    labels the encoder learns more than these models. A chunk may hold too few labels, and
    with `cross_fit`, predictions would be made of labels that a member should not see.
    """
    rows, targets = data.train.rows, data.train.targets
    if data.target_kind != "class" or targets is None or is_chunk:
        return False
    is_table = isinstance(rows, np.ndarray) and rows.ndim == 2
    is_built_in = config.encoder in ("mlp", "tabular") and config.cross_fit is None
    if not (is_table and is_built_in and (targets >= 0).mean() <= _MAX_LABELLED):
        return False
    return _can_be_predicted(torch.from_numpy(targets))


def learns_labels(config: FitConfig, context: FitContext, *, is_chunk: bool) -> bool:
    """Return whether a first fit to the samples with a label predicts the others.

    It does so for images, whose pixels say little to simple models, and built-in encoders.
    """
    rows, targets = context.known
    is_image = isinstance(rows, Tensor) and rows.ndim > 2
    if is_chunk or not is_image or not isinstance(config.encoder, str):
        return False
    return context.data.target_kind == "class" and _can_be_predicted(targets)


def _can_be_predicted(targets: Tensor) -> bool:
    return bool((targets < 0).any()) and len(targets[targets >= 0].unique()) > 1


# A first fit ------------------------------------------------------------------------------


def labelled_alone(data: TrainingData) -> TrainingData:
    """Return the data without the training samples that have no label."""
    assert data.train.targets is not None
    labelled = data.train.select(np.flatnonzero(data.train.targets >= 0))
    return data.split(labelled, data.held_out)


def complete_by_embedding(known: LabelledRows, net: ContrastiveNet) -> LabelledRows:
    """Return samples with the labels that their embedding by a trained net predicts."""
    module = net.plain_module
    embedding = embed_tensor(module.encoder.eval(), known.rows, module.precision)
    codes = complete_labels(known.targets, embedding.float().cpu().numpy())
    return LabelledRows(known.rows, codes)


# Predictions ------------------------------------------------------------------------------


def principal_components(
    rows: Tensor, targets: Tensor, layout: ColumnLayout | None
) -> Floats:
    """Return principal components of prepared rows (n, F), of both kinds alike."""
    values = input_values(rows[_sample(targets)], layout)
    pca = PCA(min(_MAX_COMPONENTS, *values.shape), random_state=0)
    with np.errstate(invalid="ignore"):  # of equal rows
        pca.fit(values)
    chunks = (input_values(chunk, layout) for chunk in rows.split(_CHUNK_ROWS))
    return np.concatenate([pca.transform(chunk) for chunk in chunks])


def complete_labels(targets: Tensor, features: Floats) -> Tensor:
    """Replace the code -1 of samples without a label by the class that two models predict.

    As classes of their own, samples without a label would be kept apart from those of
    their class. The models are logistic regression and label spreading [1]_.

    Parameters
    ----------
    targets : Tensor of int, shape (n,)
        Class codes, of at least two classes.
    features : ndarray of shape (n, D)
        Principal components, or embeddings.

    Returns
    -------
    Tensor of int, shape (n,)

    References
    ----------
    .. [1] Zhou, Bousquet, Lal, Weston and Schoelkopf, "Learning with Local and Global
       Consistency" (NeurIPS 2003).
    """
    codes = targets.cpu().numpy().copy()
    sample, unknown = _sample(targets).numpy(), codes < 0
    codes[unknown] = _predict(features[sample], codes[sample], features[unknown])
    return torch.from_numpy(codes).to(targets.device)


def _sample(targets: Tensor) -> Tensor:
    """Return the indices of some samples with a label, and of as many without."""
    known = targets.cpu() >= 0
    parts = (some_of(part.nonzero()[:, 0], _MAX_ROWS) for part in (known, ~known))
    return torch.cat(list(parts))


def _predict(rows: Floats, codes: NDArray[np.int64], queries: Floats) -> NDArray[np.int64]:
    """Predict class codes from rows of which some have the code -1."""
    spreading = LabelSpreading(
        "knn", n_neighbors=min(_N_NEIGHBORS, len(rows)), alpha=0.5, max_iter=200
    )
    linear = LogisticRegression(max_iter=1000)
    labelled = codes >= 0
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        spreading.fit(rows, codes)
        linear.fit(rows[labelled], codes[labelled])
        by_neighbors = np.nan_to_num(spreading.predict_proba(queries))  # NaN: none has one
    probabilities = by_neighbors + _LINEAR_WEIGHT * linear.predict_proba(queries)
    classes: NDArray[np.int64] = linear.classes_
    return classes[probabilities.argmax(1)]
