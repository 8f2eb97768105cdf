"""TabM (Gorishniy et al., ICLR 2025) as a classifier of tables, by the package ``tabm``.

Preparation, model and training are those of its example: quantiles of a normal
distribution, piecewise linear embeddings with 48 bins, AdamW, gradients of norm 1, batches
of 256 rows, and the epoch of the best accuracy on 20 % of the rows, which ends training
when 16 epochs were not better.
"""

import copy
from importlib import import_module

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OrdinalEncoder, QuantileTransformer
from tables import CATEGORIES, NUMBERS
from torch import Tensor, nn

N_BINS, D_EMBEDDING = 48, 16
LR, WEIGHT_DECAY, MAX_NORM = 2e-3, 3e-4, 1.0
BATCH_SIZE, PATIENCE, VALIDATION, MAX_EPOCHS = 256, 16, 0.2, 1000
Rows = tuple[Tensor | None, Tensor | None]  # numbers and codes


class Preparation:
    """Numbers as quantiles of a normal distribution, categories as codes."""

    def fit(self, X: pd.DataFrame) -> "Preparation":
        n_quantiles = max(min(len(X) // 30, 1000), 10)
        self.imputer = SimpleImputer(strategy="median", keep_empty_features=True)
        self.quantiles = QuantileTransformer(
            n_quantiles=min(n_quantiles, len(X)),
            output_distribution="normal",
            subsample=10**9,
        )
        self.codes = OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1
        )
        self.numbers, self.categories = NUMBERS(X), CATEGORIES(X)
        if self.numbers:
            values = self.imputer.fit_transform(X[self.numbers]).astype(np.float32)
            self.varies = values.min(0) < values.max(0)
            noise = np.random.default_rng(0).normal(0, 1e-5, values.shape)
            self.quantiles.fit(values + noise)
        self.sizes = []
        if self.categories:
            self.codes.fit(X[self.categories])
            self.sizes = [len(levels) + 1 for levels in self.codes.categories_]
        return self

    def __call__(self, X: pd.DataFrame) -> Rows:
        numbers = codes = None
        if self.numbers and self.varies.any():
            values = self.imputer.transform(X[self.numbers]).astype(np.float32)
            values = self.quantiles.transform(values)[:, self.varies]
            numbers = torch.from_numpy(values.astype(np.float32))
        if self.categories:
            codes = torch.from_numpy(self.codes.transform(X[self.categories])).long() + 1
        return numbers, codes


def take(rows: Rows, index: Tensor) -> Rows:
    return tuple(None if part is None else part[index] for part in rows)


class TabM(ClassifierMixin, BaseEstimator):
    """TabM with the settings of its example."""

    def __init__(self, random_state: int) -> None:
        self.random_state = random_state

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> "TabM":
        self.classes_, codes = np.unique(y, return_inverse=True)
        torch.manual_seed(self.random_state)
        counts = np.bincount(codes)
        train, held_out = train_test_split(
            np.arange(len(y)),
            test_size=VALIDATION,
            random_state=self.random_state,
            stratify=codes
            if counts.min() > 1 and VALIDATION * len(y) >= len(counts)
            else None,
        )
        self.prepare_ = Preparation().fit(X.iloc[train])
        targets = torch.from_numpy(codes)
        parts = [(self.prepare_(X.iloc[i]), targets[i]) for i in (train, held_out)]
        self.model_ = self._model(parts[0][0])
        self._train(*parts)
        return self

    def _model(self, rows: Rows) -> nn.Module:
        numbers, _ = rows
        embeddings = None
        if numbers is not None:
            library = import_module("rtdl_num_embeddings")
            bins = library.compute_bins(numbers, n_bins=min(N_BINS, len(numbers) - 1))
            embeddings = library.PiecewiseLinearEmbeddings(
                bins, d_embedding=D_EMBEDDING, activation=False, version="B"
            )
        return import_module("tabm").TabM.make(
            n_num_features=0 if numbers is None else numbers.shape[1],
            cat_cardinalities=self.prepare_.sizes,
            d_out=len(self.classes_),
            num_embeddings=embeddings,
        )

    def _train(self, train: tuple[Rows, Tensor], held_out: tuple[Rows, Tensor]) -> None:
        (rows, y), (rows_val, y_val) = train, held_out
        optimizer = torch.optim.AdamW(
            self.model_.parameters(), lr=LR, weight_decay=WEIGHT_DECAY
        )
        best, n_worse, state = -1.0, 0, None
        for _ in range(MAX_EPOCHS):
            self.model_.train()
            for index in torch.randperm(len(y)).split(BATCH_SIZE):
                optimizer.zero_grad()
                scores = self.model_(*take(rows, index))  # (B, k, C)
                repeated = y[index].repeat_interleave(scores.shape[1])
                nn.functional.cross_entropy(scores.flatten(0, 1), repeated).backward()
                nn.utils.clip_grad_norm_(self.model_.parameters(), MAX_NORM)
                optimizer.step()
            score = float((self._probabilities(rows_val).argmax(1) == y_val).float().mean())
            n_worse = 0 if score > best else n_worse + 1
            if score > best:
                best, state = score, copy.deepcopy(self.model_.state_dict())
            if n_worse > PATIENCE:
                break
        self.model_.load_state_dict(state)

    @torch.inference_mode()
    def _probabilities(self, rows: Rows) -> Tensor:
        self.model_.eval()
        return self.model_(*rows).softmax(-1).mean(1)

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        return self._probabilities(self.prepare_(X)).double().numpy()
