"""
A raw table with numbers, strings and missing values
====================================================

Must a data frame be imputed, encoded and scaled before it is embedded? Not here: we pass
a raw frame with strings, booleans and missing values to ``HSCLEmbedder``, and compare
accuracy and log loss with the usual ``ColumnTransformer``.
"""

# %%
# The table is synthetic: customers of a fictitious provider, who cancel or stay. The
# probability is a U-shaped function of usage, and depends on price differently for each
# plan. A linear model of the columns has no terms for either, so this table favours models
# that can learn them; a table with linear effects would not.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_hscl import HSCLEmbedder

rng = np.random.default_rng(0)
n = 500
usage, price = rng.normal(size=n), rng.normal(size=n)
plan = rng.choice(["basic", "family", "business"], n, p=[0.5, 0.3, 0.2])
region = rng.choice(["north", "south", "east", "west"], n)
paperless = rng.random(n) < 0.6

slope = pd.Series(plan).map({"basic": 1.5, "family": 0.0, "business": -1.5}).to_numpy()
score = 1.5 * (usage**2 - 1) + slope * price + 0.8 * paperless + (region == "north") - 0.7
y = rng.random(n) < 1 / (1 + np.exp(-score))
X = pd.DataFrame(
    {
        "usage": np.exp(usage),
        "price": 30 + 8 * price,
        "plan": plan,
        "region": region,
        "paperless": paperless,
    }
)
X.loc[rng.random(n) < 0.1, "price"] = np.nan
X.loc[rng.random(n) < 0.1, "region"] = None
print(X.head(4))

# %%
# Three pipelines end in the same logistic regression. With ``cross_fit=5``, the embedding
# of a sample that it is fitted to comes from a member that has not seen this sample.
numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
words = OneHotEncoder(handle_unknown="ignore")
columns = ColumnTransformer(
    [
        ("numbers", numbers, make_column_selector(dtype_include="number")),
        ("words", words, make_column_selector(dtype_exclude="number")),
    ]
)
steps = {
    "ColumnTransformer": columns,
    "embedding": HSCLEmbedder(random_state=0),
    "embedding, cross_fit=5": HSCLEmbedder(cross_fit=5, random_state=0),
}

# %%
# The same three random splits for each, with half of the samples held out.
splits = StratifiedShuffleSplit(3, test_size=0.5, random_state=0)
accuracy = {name: [] for name in steps}
loss = {name: [] for name in steps}
for train, test in splits.split(X, y):
    for name, step in steps.items():
        pipe = make_pipeline(clone(step), LogisticRegression())
        probabilities = pipe.fit(X.iloc[train], y[train]).predict_proba(X.iloc[test])
        accuracy[name].append(accuracy_score(y[test], probabilities[:, 1] > 0.5))
        loss[name].append(log_loss(y[test], probabilities))

for name in steps:
    print(
        f"{name:22}  accuracy {np.mean(accuracy[name]):.3f} ± {np.std(accuracy[name]):.3f}"
        f"  log loss {np.mean(loss[name]):.3f} ± {np.std(loss[name]):.3f}"
    )

# %%
# On this table both embeddings are more accurate than the preprocessed columns, by nine to
# ten points in the mean, and their probabilities are better, too. With ``cross_fit=5``, a
# classifier is not fitted to embeddings of samples that the encoder has seen. The norm of
# the default's embeddings, selected out of fold, has the same purpose, and is sufficient
# here.
fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
for ax, title, scores in zip(axes, ("accuracy", "log loss"), (accuracy, loss), strict=True):
    for name, values in scores.items():
        ax.errorbar(np.mean(values), name, xerr=np.std(values), fmt="o", capsize=4)
    ax.set_title(title)
    ax.margins(y=0.3)
plt.show()
