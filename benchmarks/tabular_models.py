"""Classifiers of tables, with their defaults, on one thread.

All take a DataFrame with numbers, categories and missing values, and the codes of classes.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from tables import CATEGORIES, NUMBERS
from tabm_classifier import TabM
from tabular_parts import WithoutBins, WithoutRelevance, WithoutSkip

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import ClassCorruption, FeatureCorruption

OURS = "HSCLEmbedder"
ABLATIONS = {
    "other random_state": {"shift": 1000},  # shows the noise
    "encoder='mlp'": {"encoder": "mlp"},
    "loss='scl'": {"loss": "scl"},
    "n_members=1": {"n_members": 1},
    "n_components=32": {"n_components": 32},  # without forests
    "no skip path": {"kind": WithoutSkip},
    "no bins": {"kind": WithoutBins},
    "no column relevance": {"kind": WithoutRelevance},
    "cross_fit=5": {"cross_fit": 5},
    "corrupted views": {"augment": FeatureCorruption(), "n_views": 2},
    "class-corrupted views": {"augment": ClassCorruption(p=0.2), "n_views": 2},
    "ce_weight=0": {"ce_weight": 0.0},
    "ce_weight=1": {"ce_weight": 1.0},
    "early_stopping=False": {"early_stopping": False},
    "dropout=0": {"dropout": 0.0},
    "temperature=0.2": {"temperature": 0.2},
    "beta=5": {"beta": 5.0},
}


def linear() -> LogisticRegression:
    """Return the classifier of embeddings, which is also a competitor."""
    return LogisticRegression(max_iter=2000)


def ours(
    seed: int, kind: type = HSCLEmbedder, shift: int = 0, **changes: object
) -> BaseEstimator:
    """Return the embedder, which receives the raw table."""
    return make_pipeline(kind(random_state=seed + shift, **changes), linear())


def preprocessed(*steps: BaseEstimator) -> BaseEstimator:
    """Precede the steps by imputation, standardisation and one-hot encoding."""
    numbers = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()
    )
    categories = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    return make_pipeline(
        make_column_transformer((numbers, NUMBERS), (categories, CATEGORIES)), *steps
    )


def coded(classifier: BaseEstimator, max_categories: int | None = None) -> BaseEstimator:
    """Precede the steps by integer codes of categories; numeric columns are unchanged."""
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,
        max_categories=max_categories,
    )
    return make_pipeline(
        make_column_transformer((codes, CATEGORIES), remainder="passthrough"), classifier
    )


class FrameClassifier(ClassifierMixin, BaseEstimator):
    """Classifier of another library that needs to know the categorical columns."""

    def __init__(self, classifier: object, argument: str | None = None) -> None:
        self.classifier = classifier
        self.argument = argument

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> "FrameClassifier":
        names = CATEGORIES(X)
        named = {} if self.argument is None else {self.argument: names}
        self.fitted_ = clone(self.classifier).fit(self.words(X), y, **named)
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        return self.fitted_.predict_proba(self.words(X))

    def words(self, X: pd.DataFrame) -> pd.DataFrame:
        """Convert categories to strings, including missing values, as CatBoost requires."""
        if self.argument != "cat_features":
            return X
        return X.assign(
            **{name: X[name].astype(object).fillna("missing") for name in CATEGORIES(X)}
        )


def logistic_regression(seed: int) -> BaseEstimator:
    return preprocessed(linear())


def k_nn(seed: int) -> BaseEstimator:
    return preprocessed(KNeighborsClassifier())


def mlp(seed: int) -> BaseEstimator:
    return preprocessed(MLPClassifier(random_state=seed))


def random_forest(seed: int) -> BaseEstimator:
    return coded(RandomForestClassifier(random_state=seed))


class HistGradientBoosting(ClassifierMixin, BaseEstimator):
    """Histogram gradient boosting with the 255 most frequent levels of a category."""

    def __init__(self, random_state: int) -> None:
        self.random_state = random_state

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> "HistGradientBoosting":
        boosting = HistGradientBoostingClassifier(
            random_state=self.random_state,
            categorical_features=range(len(CATEGORIES(X))),
        )
        self.fitted_ = coded(boosting, max_categories=255).fit(X, y)
        self.classes_ = self.fitted_.classes_
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        return self.fitted_.predict_proba(X)


def xgboost(seed: int) -> BaseEstimator:
    boosting = import_module("xgboost").XGBClassifier
    return FrameClassifier(boosting(random_state=seed, n_jobs=1, enable_categorical=True))


def lightgbm(seed: int) -> BaseEstimator:
    boosting = import_module("lightgbm").LGBMClassifier
    return FrameClassifier(boosting(random_state=seed, n_jobs=1, verbose=-1))


def catboost(seed: int) -> BaseEstimator:
    boosting = import_module("catboost").CatBoostClassifier
    return FrameClassifier(
        boosting(
            random_seed=seed, thread_count=1, verbose=False, allow_writing_files=False
        ),
        "cat_features",
    )


def real_mlp(seed: int) -> BaseEstimator:
    """Return RealMLP with imputed numeric columns; missing levels are levels."""
    network = import_module("pytabkit").RealMLP_TD_Classifier
    complete = make_column_transformer(
        (SimpleImputer(strategy="median", keep_empty_features=True), NUMBERS),
        remainder="passthrough",
        verbose_feature_names_out=False,
    )
    return make_pipeline(
        complete.set_output(transform="pandas"),
        FrameClassifier(
            network(random_state=seed, device="cpu", n_threads=1), "cat_col_names"
        ),
    )


def nca(seed: int) -> BaseEstimator:
    return preprocessed(NeighborhoodComponentsAnalysis(random_state=seed), linear())


def supervised_umap(seed: int) -> BaseEstimator:
    """Return a pipeline that passes the classes to UMAP with its categorical metric."""
    return preprocessed(import_module("umap").UMAP(random_state=seed, n_jobs=1), linear())


PEERS: dict[str, Callable[[int], BaseEstimator]] = {
    "LogisticRegression": logistic_regression,
    "k-NN": k_nn,
    "MLPClassifier": mlp,
    "RandomForest": random_forest,
    "HistGradientBoosting": HistGradientBoosting,
    "XGBoost": xgboost,
    "LightGBM": lightgbm,
    "CatBoost": catboost,
    "RealMLP-TD": real_mlp,
    "TabM": TabM,
    "NCA+LR": nca,
    "UMAP+LR": supervised_umap,
}
LIBRARIES = {  # of which a result depends, beyond numpy and sklearn
    "XGBoost": ["xgboost"],
    "LightGBM": ["lightgbm"],
    "CatBoost": ["catboost"],
    "RealMLP-TD": ["pytabkit", "torch"],
    "TabM": ["tabm", "rtdl_num_embeddings", "torch"],
    "UMAP+LR": ["umap", "numba"],
}
EMBEDDERS = ["k-NN", "NCA+LR", "UMAP+LR"]  # with an embedding before the classifier
MODELS = {
    OURS: ours,
    **PEERS,
    **{f"{OURS}({name})": partial(ours, **kw) for name, kw in ABLATIONS.items()},
}


def libraries(model: str) -> list[str]:
    """Return the modules whose versions a result of this model depends on."""
    own = ["torch"] if model.startswith(OURS) else LIBRARIES.get(model, [])
    return ["numpy", "sklearn", *own]


def versions(model: str) -> dict[str, str]:
    """Return versions of these modules; raise ImportError if one is missing."""
    modules = {name: import_module(name) for name in libraries(model)}
    return {
        name: getattr(module, "__version__", None) or version(name)
        for name, module in modules.items()
    }
