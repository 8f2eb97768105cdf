"""The displays, by what they draw."""

import subprocess
import sys
from html import escape

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.sparse import csr_array
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.manifold import MDS
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch.utils.data import TensorDataset

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.display import (
    CollapseDisplay,
    EmbeddingDisplay,
    LossCurveDisplay,
    NeighborsDisplay,
    SimilarityDisplay,
)
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.metrics import singular_value_decay
from sklearn_hscl.metrics.knn import nearest_rows
from sklearn_hscl.plotting.axes import COLORS, class_style, shown_name

matplotlib.use("agg")
WINE = load_wine(as_frame=True)
X, Y = WINE.data, WINE.target.to_numpy()
DIGITS = load_digits()
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def mlp(**params):
    settings = {"encoder": "mlp", "hidden_layer_sizes": (32,), "max_epochs": 8}
    return HSCLEmbedder(**settings | params, random_state=0)


@pytest.fixture(scope="module")
def fitted():
    return mlp(early_stopping=True).fit(X, Y)


def pixels(figure):
    """Return the colours of a drawn figure, (height, width, 3), from 0 to 1."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255


def fraction_of(figure, color, tolerance=0.02):
    """Return the fraction of pixels that have (nearly) a colour."""
    return (np.abs(pixels(figure) - to_rgb(color)).max(-1) < tolerance).mean()


def clusters(n_classes, n_each=30, spread=0.02):
    """Make classes around points of a circle, in a plane of six dimensions."""
    angle = np.arange(n_classes) * 2 * np.pi / n_classes
    corner = np.column_stack([np.cos(angle), np.sin(angle), *np.zeros((4, n_classes))])
    codes = np.repeat(np.arange(n_classes), n_each)
    rng = np.random.default_rng(0)
    return corner[codes] + spread * rng.normal(size=(len(codes), 6)), codes


# The loss curve


def test_loss_curve_shows_the_record_of_the_fit(fitted):
    display = LossCurveDisplay.from_estimator(fitted)
    assert display.train_line_.get_ydata().tolist() == fitted.loss_curve_
    assert display.train_line_.get_xdata()[0] == 1
    scores = [epoch["valid_score"] for epoch in fitted.history_]
    assert display.valid_line_.get_ydata().tolist() == scores
    assert display.score_ax_ is not display.ax_
    assert display.score_ax_.get_ylabel() == "Held-out k-NN accuracy"
    assert display.chance_line_.get_ydata()[0] == fitted.chance_loss_
    assert display.best_line_.get_xdata()[0] == fitted.best_epoch_
    low, high = display.ax_.get_ylim()
    assert low == 0 and high > fitted.chance_loss_
    names = [text.get_text() for text in display.score_ax_.get_legend().get_texts()]
    assert names[0] == "Training loss" and names[2] == "Chance level"
    assert fraction_of(display.figure_, display.train_line_.get_color()) > 0


def test_a_held_out_loss_is_on_the_axis_of_the_loss():
    embedder = mlp(early_stopping=True).fit(X)
    display = LossCurveDisplay.from_estimator(embedder)
    assert display.score_ax_ is display.ax_
    assert (display.valid_line_.get_ydata() > 0).all()
    assert display.valid_line_.get_label() == "Held-out loss"


def test_a_held_out_loss_above_chance_is_in_sight():
    display = LossCurveDisplay(
        [3.0, 2.0],
        chance_loss=4.0,
        valid_score=[-9.0, np.nan],
        valid_score_name="negative loss",
    )
    assert display.plot().ax_.get_ylim()[1] > 9


def test_a_loss_curve_alone():
    display = LossCurveDisplay([3.0, 2.0]).plot()
    assert display.valid_line_ is display.chance_line_ is display.best_line_ is None
    pipe = make_pipeline(StandardScaler(), mlp()).fit(X, Y)
    assert LossCurveDisplay.from_estimator(pipe).valid_line_ is None


# The embedding


def test_embedding_of_an_estimator_is_its_principal_components(fitted):
    display = EmbeddingDisplay.from_estimator(fitted, X, Y)
    rows = fitted.transform(X)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centred = rows - rows.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ directions[:2].T
    assert np.abs(display.points) == pytest.approx(np.abs(expected), abs=1e-4)
    share = values[0] ** 2 / (values**2).sum()
    assert display.ax_.get_xlabel() == f"Principal component 1 ({share:.0%})"


def test_two_classes_have_a_legend_and_two_colours():
    display = EmbeddingDisplay.from_embedding(*clusters(2))
    assert [text.get_text() for text in display.legend_.get_texts()] == ["0", "1"]
    colors = [to_hex(points.get_facecolor()[0]).upper() for points in display.points_]
    assert colors == list(COLORS[:2])
    assert not display.labels_
    # Each class is drawn on its side of the picture.
    display.legend_.remove()
    image = pixels(display.figure_)
    middle = display.ax_.transData.transform((0, 0))[0]
    for color, points in zip(colors, display.points_, strict=True):
        on_white = 0.7 * np.array(to_rgb(color)) + 0.3
        drawn = (np.abs(image - on_white).max(-1) < 0.03).any(0).nonzero()[0]
        is_right = points.get_offsets()[:, 0].mean() > 0
        assert len(drawn) and np.all((drawn > middle) == is_right)


def test_a_hundred_classes_are_named_next_to_their_points():
    rows, codes = clusters(100)
    display = EmbeddingDisplay.from_embedding(rows, codes)
    assert display.legend_ is None
    assert len(display.points_) == len(display.labels_) == 100
    visible = [text for text in display.labels_ if text.get_visible()]
    assert len(visible) >= 50
    boxes = [text.get_window_extent() for text in visible]
    overlaps = [a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k]]
    assert not any(overlaps)
    assert all(text.get_fontsize() >= 7 for text in visible)
    for label in visible[:5]:
        k = int(label.get_text())
        assert label.get_position() == pytest.approx(
            np.median(display.points[codes == k], axis=0)
        )


def test_styles_differ_for_56_classes_and_do_not_rest_on_colour_alone():
    assert len({class_style(k) for k in range(56)}) == 56
    assert class_style(0)[0] == class_style(7)[0]
    assert class_style(0)[1] != class_style(7)[1]


def test_colour_blind_readers_can_distinguish_the_colours():
    # Deuteranopia after Viénot, Brettel and Mollon (1999), in linear light.
    seen = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    light = np.array([to_rgb(color) for color in COLORS]) ** 2.2
    shown = np.clip(light @ seen.T, 0, 1) ** (1 / 2.2)
    distances = [np.linalg.norm(a - b) for k, a in enumerate(shown) for b in shown[:k]]
    assert min(distances) > 0.1


def test_collapsed_rows_look_collapsed():
    rows = np.ones((50, 4)) + 1e-4 * np.random.default_rng(0).normal(size=(50, 4))
    display = EmbeddingDisplay.from_embedding(rows)
    extent = np.ptp(display.points, axis=0).max()
    assert np.ptp(display.ax_.get_xlim()) > 1000 * extent
    assert fraction_of(display.figure_, "white") > 0.9


def test_numbers_have_a_colour_bar():
    rows, codes = clusters(3)
    display = EmbeddingDisplay.from_embedding(rows, codes + 0.25)
    assert display.colorbar_ is not None and len(display.points_) == 1
    assert np.asarray(display.points_[0].get_array()) == pytest.approx(codes + 0.25)


def test_any_reducer_is_accepted(fitted):
    reducer = MDS(2, n_init=1, max_iter=5, init="random", random_state=0)
    display = EmbeddingDisplay.from_estimator(fitted, X[:40], Y[:40], reducer=reducer)
    assert display.points.shape == (40, 2)
    assert display.ax_.get_ylabel() == "MDS 2"
    with pytest.raises(
        ValueError, match=r"reducer to return an array of shape \(60, 2\), got \(60, 3\)"
    ):
        EmbeddingDisplay.from_embedding(clusters(2)[0], reducer=PCA(3))
    with pytest.raises(TypeError, match="reducer to have fit_transform, got 'tsne'"):
        EmbeddingDisplay.from_embedding(clusters(2)[0], reducer="tsne")


def test_equal_rows_are_drawn_at_one_point():
    display = EmbeddingDisplay.from_embedding(np.ones((30, 4)), np.arange(30) % 3)
    assert np.all(display.points == 0)
    assert display.ax_.get_xlabel() == "Principal component 1 (0%)"


@pytest.mark.parametrize("display", [EmbeddingDisplay, NeighborsDisplay, SimilarityDisplay])
def test_max_rows_has_to_be_a_number_of_rows(display, fitted):
    for max_rows in (0, 2.5, "all"):
        with pytest.raises(ValueError, match=f"max_rows={max_rows!r} must be an integer"):
            display.from_estimator(fitted, X, Y, max_rows=max_rows)


def test_embedding_draws_from_many_rows_and_takes_axes(fitted):
    ax = Figure().subplots()
    display = EmbeddingDisplay.from_estimator(fitted, X, Y, max_rows=60, ax=ax)
    assert display.ax_ is ax and len(display.points) == 60
    assert sum(len(points.get_offsets()) for points in display.points_) == 60
    assert len(EmbeddingDisplay.from_estimator(fitted, X).points_) == 1
    with pytest.raises(ValueError, match=r"y to have shape \(178,\), got \(3,\)"):
        EmbeddingDisplay.from_estimator(fitted, X, Y[:3])


@pytest.mark.parametrize("width", [1, 2])
def test_narrow_embeddings(width):
    rows = np.random.default_rng(0).normal(size=(20, width))
    assert EmbeddingDisplay.from_embedding(rows).points.shape == (20, 2)


# Neighbours


def test_neighbours_of_images():
    images = DIGITS.images[:300]
    labels = DIGITS.target[:300]
    embedder = HSCLEmbedder(max_epochs=2, random_state=0).fit(images, labels)
    display = NeighborsDisplay.from_estimator(
        embedder, images, labels, queries=[7, 90], n_neighbors=4
    )
    embedding = embedder.transform(images)
    found, cosines = nearest_rows(embedding, 4)
    assert display.places.tolist() == [[7, *found[7]], [90, *found[90]]]
    assert display.cosines == pytest.approx(cosines[[7, 90]])
    canvas = display.image_.get_array()
    assert canvas[:8, :8].filled() == pytest.approx(images[7] / 16)
    wrong = (labels[display.places[:, 1:]] != labels[[7, 90], None]).sum()
    assert len(display.frames_) == wrong
    captions = {text.get_text() for text in display.ax_.texts}
    assert f"{labels[found[7, 0]]} · {cosines[7, 0]:.2f}" in captions
    dark = (pixels(display.figure_) < 0.5).all(-1).mean()
    assert 0.02 < dark < 0.6


def test_neighbours_of_another_class_have_a_frame():
    images = DIGITS.images[:60]
    constant = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    labels = np.arange(60) % 2
    embedder = HSCLEmbedder(encoder=constant, max_epochs=1, lr=1e-8, random_state=0)
    embedder.fit(images, labels)
    display = NeighborsDisplay.from_estimator(embedder, images, labels, queries=3)
    wrong = (labels[display.places[:, 1:]] != labels[display.places[:, :1]]).sum()
    assert wrong > 0 and len(display.frames_) == wrong
    assert display.frames_[0].get_linestyle() == "--"
    assert fraction_of(display.figure_, display.frames_[0].get_edgecolor()[:3]) > 0


def test_neighbours_of_colour_images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 6, 8, 3)).astype(np.uint8)
    embedder = HSCLEmbedder(encoder="mlp", max_epochs=1, random_state=0)
    embedder.fit(images, np.arange(30) % 2)
    display = NeighborsDisplay.from_estimator(embedder, images, queries=[0])
    first = np.asarray(display.image_.get_array()[:6, :8])
    assert first == pytest.approx(images[0] / 255, abs=0.01)
    assert display.frames_ == []


def test_neighbours_of_table_rows(fitted):
    display = NeighborsDisplay.from_estimator(
        fitted, X, Y, queries=[61, 5], n_neighbors=3, max_columns=2
    )
    lines = display.table_.get_celld()
    text = [
        [lines[row, column].get_text().get_text() for column in range(5)]
        for row in range(9)
    ]
    assert text[0] == ["row", "cosine", "class", "alcohol", "malic_acid"]
    assert text[1] == [
        "61",
        "query",
        "1",
        f"{X.alcohol[61]:.3g}",
        f"{X.malic_acid[61]:.3g}",
    ]
    assert text[2][0] == str(display.places[0, 1])
    assert text[2][1] == f"{display.cosines[0, 0]:.2f}"
    for i, row in enumerate(display.places.ravel()):
        same = Y[row] == Y[display.places[i // 4, 0]]
        assert ("✗" in text[i + 1][2]) == (not same)


def test_neighbours_of_categories_and_of_a_pipeline():
    frame = pd.DataFrame({"colour": ["a long word indeed", "b"] * 30, "size": range(60)})
    embedder = HSCLEmbedder(max_epochs=2, random_state=0).fit(frame, np.arange(60) % 2)
    display = NeighborsDisplay.from_estimator(embedder, frame, queries=2)
    assert {len(cell) <= 14 for cell in display.cells.ravel()} == {True}
    assert "a long word i…" in display.cells
    pipe = make_pipeline(StandardScaler(), mlp()).fit(X.to_numpy(), Y)
    display = NeighborsDisplay.from_estimator(pipe, X.to_numpy(), queries=[0])
    assert display.columns[:2] == ["x0", "x1"]
    assert display.cells[0, 0, 0] == f"{X.iloc[0, 0]:.3g}"


@pytest.mark.parametrize("form", ["csr", "coo"])
def test_sparse_rows_are_shown(form):
    rows = scipy.sparse.random_array((60, 20), density=0.3, random_state=0, format=form)
    codes = np.arange(60) % 3
    embedder = HSCLEmbedder(max_epochs=1, random_state=0).fit(rows, codes)
    display = NeighborsDisplay.from_estimator(embedder, rows, codes, queries=[7])
    assert display.cells[0, 0, 0] == f"{rows.toarray()[7, 0]:.3g}"
    assert len(EmbeddingDisplay.from_estimator(embedder, rows, codes).points) == 60


def test_a_query_is_never_its_own_neighbour(fitted):
    rows = pd.concat([X[:30], X[:30]])  # each row twice
    every = {"queries": np.arange(60), "n_neighbors": 2}
    display = NeighborsDisplay.from_estimator(fitted, rows, **every)
    assert (display.places[:, 1:] != display.places[:, :1]).all()
    assert display.cosines[:, 0] == pytest.approx(1, abs=1e-5)
    few = NeighborsDisplay.from_estimator(fitted, rows, max_rows=20, **every)
    assert (few.places[:, 1:] != few.places[:, :1]).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"queries": [500]}, r"queries to be indices from 0 to 177, got \[500\]"),
        ({"queries": 0}, "queries to be at least 1, got 0"),
        ({"queries": [0.5]}, r"a list of indices, got \[0.5\]"),
        ({"n_neighbors": 178}, "n_neighbors to be from 1 to 177, .* got 178"),
    ],
)
def test_neighbours_that_cannot_be_shown(fitted, params, message):
    with pytest.raises(ValueError, match=message):
        NeighborsDisplay.from_estimator(fitted, X, **params)


@pytest.mark.parametrize("display", [NeighborsDisplay, EmbeddingDisplay, CollapseDisplay])
@pytest.mark.parametrize("y", [Y[:5], np.eye(3, dtype=int)[Y], X.to_numpy()[:, :2]])
def test_rows_need_one_label_each(fitted, display, y):
    with pytest.raises(
        ValueError, match=r"y to have shape \(178,\), got .* one label for each sample"
    ):
        display.from_estimator(fitted, X, y)


def test_labels_of_several_types_are_refused(fitted):
    y = np.array([Y[0], "a", 2.5], dtype=object)[np.arange(len(Y)) % 3]
    with pytest.raises(ValueError, match="y holds labels of types .*compared.*strings"):
        EmbeddingDisplay.from_estimator(fitted, X, y)


@pytest.mark.parametrize(
    "kind", [csr_array, lambda rows: TensorDataset(torch.tensor(rows))]
)
def test_samples_of_every_type_are_shown(kind):
    rows = kind(X.to_numpy())
    embedder = mlp(max_epochs=1).fit(rows, Y)
    for display in (EmbeddingDisplay, CollapseDisplay):
        assert display.from_estimator(embedder, rows, Y).figure_ is not None
    shown = NeighborsDisplay.from_estimator(embedder, rows, Y, queries=[3])
    assert shown.cells[0, 0, 0] == f"{X.iloc[3, 0]:.3g}"


def test_neighbours_show_what_a_pipeline_gets():
    texts = [f"word{i % 7} other{i % 3}" for i in range(60)]
    pipe = make_pipeline(TfidfVectorizer(), mlp(max_epochs=1)).fit(texts, np.arange(60) % 3)
    display = NeighborsDisplay.from_estimator(pipe, texts, queries=[3])
    assert display.cells[0, 0].tolist() == [texts[3]] and display.columns == ["x0"]
    rows = X.to_numpy()[:, :2]
    pipe = make_pipeline(PolynomialFeatures(), mlp(max_epochs=1)).fit(rows, Y)
    assert NeighborsDisplay.from_estimator(pipe, rows, Y).columns == ["x0", "x1"]


# Similarities


def test_similarities_are_densities_of_pairs():
    rows, codes = clusters(3, n_each=20, spread=0.1)
    loss = ContrastiveLoss("hscl", beta=2.0, temperature=0.5)
    display = SimilarityDisplay.from_embedding(rows, codes, loss=loss)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines, same = unit @ unit.T, codes[:, None] == codes
    tilt = np.exp(4 * cosines) * ~same
    tilt /= tilt.sum(1, keepdims=True)
    off_diagonal = ~np.eye(60, dtype=bool)
    for found, weights in [
        (display.positive, (same & off_diagonal).astype(float)),
        (display.negative, (~same).astype(float)),
        (display.tilted, tilt),
    ]:
        expected, _ = np.histogram(cosines, display.edges, weights=weights, density=True)
        assert found == pytest.approx(expected, abs=1e-6)
        assert (found * np.diff(display.edges)).sum() == pytest.approx(1)
    middles = (display.edges[:-1] + display.edges[1:]) / 2
    assert display.tilted @ middles > display.negative @ middles


def test_similarities_are_drawn(fitted):
    display = SimilarityDisplay.from_estimator(fitted, X, Y)
    assert display.negative_.get_data().values.tolist() == display.negative.tolist()
    assert display.ax_.get_xlim() == (-1, 1)
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["Positives", "Negatives", "Negatives under the tilt"]
    assert display.positive_.get_hatch()
    assert fraction_of(display.figure_, "white") < 0.95
    again = SimilarityDisplay.from_estimator(fitted, X, Y, ax=display.ax_)
    assert again.tilted == pytest.approx(display.tilted)


def test_a_strong_tilt_moves_negatives_to_the_right(fitted):
    strong = mlp(beta=20.0).fit(X, Y)
    display = SimilarityDisplay.from_estimator(strong, X, Y)
    middles = (display.edges[:-1] + display.edges[1:]) / 2
    mean = display.negative @ middles / display.negative.sum()
    tilted = display.tilted @ middles / display.tilted.sum()
    assert tilted > mean + 0.1


@pytest.mark.parametrize("loss", ["hucl", "sscl"])
def test_similarities_of_other_losses(loss):
    embedder = mlp(loss=loss, max_epochs=2).fit(X, Y)
    display = SimilarityDisplay.from_estimator(embedder, X, None if loss == "hucl" else Y)
    assert (display.tilted * np.diff(display.edges)).sum() == pytest.approx(1)


# Collapse


def test_collapse_shows_the_simplex():
    corners = np.eye(5) - 0.2
    codes = np.repeat(np.arange(5), 4)
    display = CollapseDisplay.from_embedding(corners[codes], codes)
    expected = np.where(np.eye(5, dtype=bool), 1, -0.25)
    assert display.cosines == pytest.approx(expected)
    assert np.asarray(display.image_.get_array()) == pytest.approx(expected)
    assert display.image_.get_clim() == (-1, 1)
    assert "cosine -0.25, ideal -0.25" in display.axes_[1].get_title()
    rows, means = display.lines_
    assert means.get_ydata() == pytest.approx(np.full(4, 0.5))
    assert rows.get_ydata()[:4] == pytest.approx(np.full(4, 0.5))
    assert [label.get_text() for label in display.axes_[1].get_yticklabels()] == list(
        "01234"
    )


def test_collapse_to_one_point_is_at_the_bottom():
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(4), 10)
    display = CollapseDisplay.from_embedding(1 + 1e-6 * rng.normal(size=(40, 6)), codes)
    low = display.axes_[0].get_ylim()[0]
    for line in display.lines_:
        assert line.get_ydata().max() < 2 * low
    assert display.cosines.min() > 0.99
    darkest = display.image_.cmap(display.image_.norm(1.0))[:3]
    assert fraction_of(display.figure_, darkest) > 0.1


def test_singular_values_are_those_of_the_metric(fitted):
    display = CollapseDisplay.from_estimator(fitted, X, Y)
    values = display.mean_singular_values
    decay = singular_value_decay(fitted.transform(X), Y)
    assert 2 * np.log(values / values[0]) == pytest.approx(decay, abs=1e-4)


def test_collapse_without_classes(fitted):
    display = CollapseDisplay.from_estimator(fitted, X)
    assert display.image_ is None and len(display.lines_) == 1
    unit = fitted.transform(X)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    mean = (unit @ unit.T)[np.triu_indices(178, 1)].mean()
    assert display.cosines.mean() == pytest.approx(mean, abs=1e-5)
    assert len(display.axes_[1].patches) == 50


@pytest.mark.parametrize("display", [CollapseDisplay, EmbeddingDisplay])
@pytest.mark.parametrize("labels", [Y[1:], [*Y, 0]], ids=["too few", "too many"])
def test_each_row_needs_one_label(fitted, display, labels):
    message = rf"y to have shape \(178,\), got \({len(labels)},\). Pass one label"
    with pytest.raises(ValueError, match=message):
        display.from_estimator(fitted, X, labels)
    with pytest.raises(ValueError, match=message):
        display.from_embedding(X, labels)


def test_collapse_of_a_hundred_classes():
    axes = Figure(figsize=(9, 4)).subplots(1, 2)
    display = CollapseDisplay.from_embedding(*clusters(100), axes=axes)
    assert display.cosines.shape == (100, 100)
    assert len(display.axes_[1].get_yticklabels()) < 15
    assert display.figure_ is axes[0].figure


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install sklearn-hscl\[plots\]"):
        LossCurveDisplay([3.0, 2.0]).plot()


def test_matplotlib_is_imported_only_to_plot():
    code = (
        "import sys; import sklearn_hscl.display; "
        "sys.exit(any(name.startswith('matplotlib') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Names that matplotlib reads as something else

# Labels of classes, and what is shown of them in legends, axes and tables.
NAMES = {
    "$x$": "$x$",
    "$\\frac{$": "$\\frac{$",
    "cost \\$5": "cost \\$5",
    "_hidden": "_hidden",
    "": "''",
    " ": "' '",
    "two\nlines": "two\\nlines",
    "tab\t": "tab\\t",
    "<b>[0]{1}%</b>": "<b>[0]{1}%</b>",
    "a" * 50 + "1": "a" * 26 + "…" + "a" * 12 + "1",
}
OTHER = "zz"  # a second class


def drawn(figure):
    """Draw a figure; return the texts that are seen in it, which are not formulas."""
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible()]
    return [text.get_text() for text in texts if not text.get_parse_math()]


@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_class_names_are_shown_as_they_are(name, shown):
    rows, codes = clusters(2)
    labels = np.array([name, OTHER], dtype=object)[codes]
    legend = EmbeddingDisplay.from_embedding(rows, labels).legend_
    assert {text.get_text() for text in legend.get_texts()} == {shown, OTHER}
    assert {shown, OTHER} <= set(drawn(legend.figure))
    axes = CollapseDisplay.from_embedding(rows, labels).figure_
    texts = drawn(axes)
    assert texts.count(shown_name(name, 24)) == texts.count(OTHER) == 2
    rows, codes = clusters(12)
    labels = np.array([name, *map(str, range(11))], dtype=object)[codes]
    display = EmbeddingDisplay.from_embedding(rows, labels)
    assert shown in [text.get_text() for text in display.labels_]
    assert not any(text.get_parse_math() for text in display.labels_)
    drawn(display.figure_)


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_show_names_as_they_are(name):
    rows, codes = clusters(2)
    frame = pd.DataFrame(rows[:, :2], columns=["number", name]).assign(text=name)
    fitted = mlp(max_epochs=1, categorical_features=["text"]).fit(frame, codes)
    labels = np.array([name, OTHER], dtype=object)[codes]
    display = NeighborsDisplay.from_estimator(
        fitted, frame, labels, queries=[0], n_neighbors=2
    )
    drawn(display.figure_)
    cells = {k: cell.get_text() for k, cell in display.table_.get_celld().items()}
    assert not any(text.get_parse_math() for text in cells.values())
    assert cells[0, 4].get_text() == NAMES[name]  # the column
    assert cells[1, 2].get_text() == shown_name(name, 14)  # the class
    assert cells[1, 5].get_text()[:9] == ("" if name == "" else NAMES[name][:9])
    images = RNG.random((8, 6, 6))
    fitted = mlp(max_epochs=1).fit(images)
    labels = np.array([name] * 8, dtype=object)
    display = NeighborsDisplay.from_estimator(
        fitted, images, labels, queries=[0], n_neighbors=2
    )
    assert len(drawn(display.figure_)) == 3


@pytest.mark.parametrize("name", ["$x$", "<b>&", "_hidden", "two\nlines", ""])
def test_reports_escape_names(name):
    days = pd.date_range("2024-01-01", periods=len(Y)).astype(str)
    frame = X.iloc[:, :2].assign(**{name: days})
    with pytest.warns(UserWarning, match="hold"):
        fitted = mlp(max_epochs=1).fit(frame, np.array([name, "a", "b"], dtype=object)[Y])
    diagnosis = diagnose(fitted, frame, np.array([name, "a", "b"], dtype=object)[Y])
    assert repr(name) in str(diagnosis)
    assert escape(repr(name)) in diagnosis._repr_html_()
    assert "<b>&" not in diagnosis._repr_html_() + fitted._repr_html_()
