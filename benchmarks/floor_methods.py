"""Embeddings, raw rows and other models of bench_floor.py, and their readouts."""

import numpy as np
import pandas as pd
from floor_cells import LABELED, Cell, Data, Rows
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    r2_score,
    roc_auc_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    NeighborhoodComponentsAnalysis,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    StandardScaler,
)
from sklearn.semi_supervised import SelfTrainingClassifier
from tabular_models import preprocessed

from sklearn_hscl import HSCLEmbedder

NEIGHBORS = 10
MAX_DIMENSIONS = 64  # of PCA, NCA and PLS
Pair = tuple[Rows, Rows]
METRIC = {  # by kind of target
    "labels": "macro average precision",
    "number": "R2",
    "numbers": "mean R2",
    "rare": "AUC",
}


def metric(cell: Cell) -> str:
    return METRIC.get(cell.target, "accuracy")


# Representations ----------------------------------------------------------------------


def embedded(cell: Cell, data: Data, seed: int, options: dict[str, object]) -> Pair:
    """Return embeddings of training and test rows."""
    y = data.y_train
    if cell.target in LABELED:
        options, y = {"unlabeled_label": -1} | options, data.y_few
    if cell.target == "none":
        y = None
    if cell.is_numeric:
        options = {"target_type": "continuous"} | options
    embedder = HSCLEmbedder(random_state=seed, **options).fit(data.X_train, y)
    return embedder.transform(data.X_train), embedder.transform(data.X_test)


def labelled(cell: Cell, data: Data, seed: int) -> Pair | None:
    """Return embeddings of a fit to the labeled rows alone, where labels are few."""
    if cell.target not in LABELED:
        return None
    X = data.X_train
    few = X.iloc[data.labeled] if isinstance(X, pd.DataFrame) else X[data.labeled]
    embedder = HSCLEmbedder(random_state=seed).fit(few, data.y_few[data.labeled])
    return embedder.transform(X), embedder.transform(data.X_test)


def raw(cell: Cell, data: Data) -> Pair:
    """Return the rows as a user would prepare them for other models."""
    scaler = _preparation(cell, data.X_train).fit(data.X_train)
    return scaler.transform(data.X_train), scaler.transform(data.X_test)


def _preparation(cell: Cell, X: Rows) -> BaseEstimator:
    if isinstance(X, pd.DataFrame):
        return preprocessed()
    if cell.rows == "images":
        return FunctionTransformer(_as_fractions)
    if cell.rows == "counts":
        return MaxAbsScaler()
    if cell.rows == "curves":
        return StandardScaler()
    return FunctionTransformer()  # TF-IDF and sentence embeddings are of unit norm


def _as_fractions(X: np.ndarray) -> np.ndarray:
    return X.reshape(len(X), -1).astype(np.float32) / 255


def pca(cell: Cell, data: Data, seed: int) -> Pair:
    """Return principal components with 95 % of the variance, 64 at most."""
    X, X_test = raw(cell, data)
    limit = min(MAX_DIMENSIONS, X.shape[0] - 1, X.shape[1])
    if sparse.issparse(X):
        model = TruncatedSVD(min(limit, X.shape[1] - 1), random_state=seed).fit(X)
        return model.transform(X), model.transform(X_test)
    model = PCA(limit, random_state=seed).fit(X)
    explained = np.cumsum(model.explained_variance_ratio_)
    n = int(np.searchsorted(explained, 0.95)) + 1
    return model.transform(X)[:, :n], model.transform(X_test)[:, :n]


def supervised(cell: Cell, data: Data, seed: int) -> Pair | None:
    """Return NCA of principal components for classes, scores of PLS for numbers."""
    if cell.target in ("none", "labels"):
        return None
    X, X_test = pca(cell, data, seed)
    rows, y = data.labeled, data.y_train[data.labeled]
    n = min(X.shape[1], len(rows) - 1)
    if cell.is_numeric:
        model = PLSRegression(min(n, 10)).fit(X[rows], y)
    else:
        model = NeighborhoodComponentsAnalysis(min(n, 32), random_state=seed)
        model.fit(X[rows], y.astype(str))
    return model.transform(X), model.transform(X_test)


OTHERS = {"labelled": labelled, "pca": pca, "supervised": supervised}


# Readouts -----------------------------------------------------------------------------


def readouts(cell: Cell, data: Data, Z: Rows, Z_test: Rows) -> dict[str, float]:
    """Return the scores of nearest neighbours and of a linear model."""
    k = min(NEIGHBORS, len(data.labeled))
    if cell.is_numeric:
        models = {"knn": KNeighborsRegressor(k), "linear": Ridge()}
    else:
        linear = LogisticRegression(max_iter=1000)
        if cell.target == "labels":
            linear = OneVsRestClassifier(linear)
        models = {"knn": KNeighborsClassifier(k), "linear": linear}
    rows = data.labeled
    return {
        name: score(cell, data, model.fit(Z[rows], target(cell, data)), Z_test)
        for name, model in models.items()
    }


def target(cell: Cell, data: Data) -> np.ndarray:
    """Return the targets of the labeled training rows."""
    y = data.y_train[data.labeled]
    if cell.is_numeric:
        return y
    return y.astype(int) if cell.target == "labels" else y.astype(str)


def score(cell: Cell, data: Data, model: BaseEstimator, Z: Rows) -> float:
    """Return the metric of the cell on the test rows."""
    y = data.y_test
    if cell.is_numeric:
        return r2_score(y, model.predict(Z))
    if cell.target == "labels":
        return _average_precision(y, model.predict_proba(Z))
    if cell.target == "rare":
        return roc_auc_score(y.astype(str) == "positive", model.predict_proba(Z)[:, 1])
    return accuracy_score(y.astype(str), model.predict(Z))


def _average_precision(y: np.ndarray, probabilities: np.ndarray | list) -> float:
    """Return the mean over the labels that test rows have."""
    if isinstance(probabilities, list):  # one array per label, of 0 and 1
        probabilities = np.stack(
            [p[:, 1] if p.shape[1] == 2 else np.zeros(len(p)) for p in probabilities],
            axis=1,
        )
    used = y.any(axis=0)
    return average_precision_score(y[:, used], probabilities[:, used], average="macro")


# Other models -------------------------------------------------------------------------


def peers(cell: Cell, data: Data, seed: int) -> dict[str, float]:
    """Return the scores of models of the rows that are strong for this kind of target."""
    X, X_test = raw(cell, data)
    rows, y = data.labeled, target(cell, data)
    models = _peers(cell, X, seed)
    scores = {
        name: score(cell, data, model.fit(X[rows], y), X_test)
        for name, model in models.items()
    }
    if cell.target in LABELED:
        codes = data.y_few
        model = SelfTrainingClassifier(LogisticRegression(max_iter=1000)).fit(X, codes)
        classes = np.unique(data.y_train)  # code by code
        predicted = classes[model.predict(X_test)]
        scores["self-training"] = accuracy_score(
            data.y_test.astype(str), predicted.astype(str)
        )
    return scores


def _peers(cell: Cell, X: Rows, seed: int) -> dict[str, BaseEstimator]:
    if not cell.is_numeric:
        forest = RandomForestClassifier(random_state=seed)
        if cell.target == "labels":
            linear = LogisticRegression(max_iter=1000)
            return {"forest": forest, "one-vs-rest": OneVsRestClassifier(linear)}
        return {"forest": forest}
    models = {"forest": RandomForestRegressor(random_state=seed)}
    models["ridge"] = RidgeCV(np.logspace(-3, 4, 15))
    if sparse.issparse(X):
        reduced = TruncatedSVD(min(100, X.shape[1] - 1), random_state=seed)
        models["PLS"] = make_pipeline(reduced, PLSRegression(10))
    else:  # more components than the rank would be noise, without bounds
        models["PLS"] = PLSRegression(min(10, np.linalg.matrix_rank(X)))
    return models
