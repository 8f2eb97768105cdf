"""Rows and targets of the cells of bench_floor.py: columns, classes and their bits."""

from collections.abc import Callable
from functools import cache, partial

import floor_sources as sources
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import OneHotEncoder

Rows = np.ndarray | pd.DataFrame | sparse.csr_matrix
Read = Callable[[], tuple[Rows, np.ndarray]]


def _frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert bools to numbers and words to categories, as bench_tabular.py does."""
    bools = frame.select_dtypes("bool").columns
    frame = frame.astype(dict.fromkeys(bools, "int8"))
    words = frame.columns.difference(frame.select_dtypes("number").columns)
    return frame.astype(dict.fromkeys(words, "category"))


def catalogue(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    frame = sources.table(name)
    return _frame(frame.drop(columns="target")), frame["target"].to_numpy(str)


def catalogue_sparse(name: str) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return a table of counts or indicators as sparse rows; categories are one-hot."""
    X, y = catalogue(name)
    words = X.select_dtypes("category")
    numbers = X.drop(columns=words.columns).fillna(0).to_numpy(np.float32)
    parts = [sparse.csr_matrix(numbers)]
    if words.shape[1]:
        parts.append(OneHotEncoder(dtype=np.float32).fit_transform(words))
    return sparse.hstack(parts, format="csr"), y


def rare(read: Read, positive: str, fraction: float | None = None) -> tuple:
    """Return one class against the rest, optionally thinned to a fraction of all rows."""
    X, y = read()
    is_positive = np.asarray(y).astype(str) == positive
    labels = np.where(is_positive, "positive", "other").astype(object)
    if fraction is not None:
        rows = np.flatnonzero(is_positive)
        n = round(fraction / (1 - fraction) * (~is_positive).sum())
        left_out = np.random.default_rng(0).permutation(rows)[n:]
        labels[left_out] = None
    return X, labels


def columns(
    frame: Callable[[], pd.DataFrame],
    *targets: str,
    drop: tuple[str, ...] = (),
    log: bool = False,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return columns as targets, optionally their logarithms, and the others as rows."""
    data = frame()
    y = data[list(targets)]
    words = not all(pd.api.types.is_numeric_dtype(kind) for kind in y.dtypes)
    values = y.to_numpy(object if words else np.float64)
    if log:
        values = np.log1p(values)
    rows = data.drop(columns=[*targets, *drop])
    return _frame(rows), values[:, 0] if len(targets) == 1 else values


def r(name: str, *targets: str, **options: object) -> Read:
    return partial(columns, partial(sources.r_data, name), *targets, **options)


def binary(read: Read) -> tuple[Rows, np.ndarray]:
    """Return the targets as indicators: 1 of 0 and 1, "Yes" of words."""
    X, y = read()
    return X, ((y == 1) | (y == "Yes")).astype(np.int64)


def bits(read: Read, *groups: set[str]) -> tuple[Rows, np.ndarray]:
    """Return for each group of classes whether a row belongs to it."""
    X, y = read()
    words = np.asarray(y).astype(str)
    indicators = [np.isin(words, sorted(group)) for group in groups]
    return X, np.stack(indicators, axis=1).astype(np.int64)


def words_of(name: str, column: str = "target") -> tuple[np.ndarray, np.ndarray]:
    frame = sources.texts(name)
    return frame["text"].to_numpy(object), frame[column].to_numpy(object)


def sentences_of(name: str, column: str = "target") -> tuple[np.ndarray, np.ndarray]:
    y = sources.embedded_texts(name)[column].to_numpy(object)
    return sources.sentences(name), y


def log_counts(read: Callable, *names: str) -> tuple[Rows, np.ndarray]:
    """Return tweets, with logarithms of how often they were shared or liked."""
    y = np.stack([read("dslabs/trump_tweets", name)[1] for name in names], axis=1)
    y = np.log1p(y.astype(np.float64))
    X, _ = read("dslabs/trump_tweets", names[0])
    return X, y[:, 0] if len(names) == 1 else y


def coarse_and_fine(read: Callable) -> tuple[Rows, np.ndarray]:
    """Return questions, with indicators of coarse and of frequent fine labels."""
    X, coarse = read("trec")
    fine = pd.Series(read("trec", "fine")[1])
    counts = fine.value_counts()
    frequent = pd.get_dummies(fine)[sorted(counts.index[counts >= 40])]
    return X, np.hstack([pd.get_dummies(pd.Series(coarse)), frequent]).astype(np.int64)


def as_numbers(read: Read) -> tuple[Rows, np.ndarray]:
    X, y = read()
    return X, y.astype(np.float64)


def mice_bits() -> tuple[pd.DataFrame, np.ndarray]:
    """Return genotype, behaviour and treatment, which the classes combine."""
    X, y = catalogue("mice_protein")
    parts = np.char.split(y, "-")
    return X, np.array([[a == "t", b == "CS", c == "m"] for a, b, c in parts]).astype(int)


def adult_bits() -> tuple[pd.DataFrame, np.ndarray]:
    """Return sex, being married, income and birth in the United States."""
    frame = sources.table("adult").dropna(subset=["native_country"])
    married = frame["marital_status"].astype(str).str.startswith("Married")
    parts = [frame["sex"] == "Male", married, frame["target"] == ">50K"]
    parts.append(frame["native_country"] == "United-States")
    hidden = ["sex", "marital_status", "relationship", "target", "native_country"]
    return _frame(frame.drop(columns=hidden)), np.stack(parts, axis=1).astype(int)


def movies() -> pd.DataFrame:
    """Return movies of a known genre with at least 100 votes, without titles."""
    frame = sources.r_data("ggplot2movies/movies")
    known = frame[list(GENRES)].any(axis=1) & (frame["votes"] >= 100)
    return frame[known].drop(columns="title")


GENRES = ("Action", "Animation", "Comedy", "Drama", "Documentary", "Romance", "Short")


@cache
def movies_by_users() -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Return ratings by users of the films with at least 10, and the films."""
    frame = sources.r_data("dslabs/movielens").dropna(subset=["year", "title"])
    frame = frame[frame.groupby("movieId")["rating"].transform("size") >= 10]
    films = frame.groupby("movieId")[["year", "genres"]].first()
    films["rating"] = frame.groupby("movieId")["rating"].mean()
    row = films.index.get_indexer(frame["movieId"])
    values = (frame["rating"].astype(np.float32), (row, frame["userId"] - 1))
    return sparse.csr_matrix(values), films


def film_genres() -> tuple[sparse.csr_matrix, np.ndarray]:
    X, films = movies_by_users()
    genres = films["genres"].str.get_dummies("|")
    return X, genres.loc[:, genres.sum() >= 40].to_numpy(np.int64)


def film_numbers(*names: str) -> tuple[sparse.csr_matrix, np.ndarray]:
    X, films = movies_by_users()
    y = films[list(names)].to_numpy(np.float64)
    return X, y[:, 0] if len(names) == 1 else y


def cases(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a table without identifiers whose classes are states, countries or models."""
    column, hidden = MANY[name.rpartition("/")[2]]
    X, y = columns(partial(sources.r_data, name), column, drop=hidden)
    return X, y.astype(str)


MANY = {  # column of the class, and columns that identify rows
    "Guns": ("state", ()),
    "USSeatBelts": ("state", ()),
    "planes": ("model", ("tailnum", "manufacturer")),
    "hfi": ("countries", ("ISO_code", "region")),
    "gapminder": ("country", ()),
}


def diabetes() -> tuple[pd.DataFrame, np.ndarray]:
    X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    return X, y.to_numpy()


def communities() -> tuple[pd.DataFrame, np.ndarray]:
    """Return violent crimes, from census and police, without places and folds."""
    frame = sources.keel("communities/communities.data")
    return columns(lambda: frame, "127", drop=("0", "1", "2", "3", "4"))


def ambient() -> tuple[pd.DataFrame, np.ndarray]:
    frame = sources.r_data("robustbase/ambientNOxCH").drop(columns="date")
    return columns(lambda: frame, "ad", "ba", "ef")


def chicago() -> tuple[pd.DataFrame, np.ndarray]:
    """Return riders of three stations, from weather and events alone."""
    frame = sources.r_data("modeldata/Chicago")
    first = frame.columns.get_loc("temp_min")
    stations = ["ridership", "Austin", "Addison"]
    return columns(
        lambda: frame[[*stations, *frame.columns[first:]]].drop(columns="date"), *stations
    )


def meats() -> tuple[np.ndarray, np.ndarray]:
    frame = sources.r_data("modeldata/meats")
    y = frame[["water", "fat", "protein"]].to_numpy(np.float64)
    return frame.filter(like="x_").to_numpy(np.float64), y


def kinds_of_courses(read: Callable) -> tuple[Rows, np.ndarray]:
    """Return titles of courses, with the kinds of course that 50 or more are."""
    X, _ = read("openintro/ucla_f18", "subject")
    names = ["seminar", "ind_study", "apprenticeship", "laboratory", "special_topic"]
    return X, sources.texts("openintro/ucla_f18")[names].to_numpy(np.int64)


CLOTHES = (  # classes of Fashion-MNIST
    {"0", "2", "4", "6"},  # worn on the upper body, without dresses
    {"5", "7", "9"},  # shoes
    {"2", "3", "4"},  # long: pullover, dress, coat
    {"5", "8"},  # sandal, bag
)
DIGITS = ({"0", "6", "8", "9"}, {"1", "3", "5", "7", "9"}, {"1", "4", "7"})
ILLNESSES = ("bronch", "pepticulcer", "hayfever", "allergies", "nerves", "headache")
NHEFS_HIDDEN = ("seqn", "yrdth", "modth", "dadth", "id", "censored", "older")
SERVICES = (
    "online_security",
    "online_backup",
    "device_protection",
    "tech_support",
    "streaming_tv",
    "streaming_movies",
)
HAWKS_HIDDEN = (
    "CaptureTime",
    "ReleaseTime",
    "BandNumber",
    "Hallux",
    "StandardTail",
    "Tarsus",
    "WingPitFat",
    "KeelFat",
    "Crop",
)
CARS_HIDDEN = ("comb_mpg", "carline", "release_date", "mfr_code", "model_type_index")
