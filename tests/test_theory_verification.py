"""The theory of estimators: fitted, and along training; and its figure."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.metrics import make_embedding_scorer, map_at_r
from sklearn_hscl.theory import (
    TheoryDisplay,
    TheoryMonitor,
    verify_embedding,
    verify_estimator,
)

matplotlib.use("agg")
FAST = {"n_bootstrap": 20}


def embedder(**params):
    settings = {"encoder": "mlp", "hidden_layer_sizes": (16,), "max_epochs": 3}
    return HSCLEmbedder(**(settings | params), random_state=0)


@pytest.fixture(scope="module")
def fitted(iris):
    return embedder(temperature=0.2).fit(*iris)


def test_an_embedder_brings_its_temperature(fitted, iris):
    X, y = iris
    found = verify_estimator(fitted, X, y, [1])
    expected = verify_embedding(fitted.transform(X), y, [1], temperature=0.2)
    np.testing.assert_array_equal(found.hscl, expected.hscl)
    other = verify_estimator(fitted, X, y, [1], temperature=1.0)
    assert other.hscl.value != found.hscl.value


def test_a_pipeline_brings_the_temperature_of_its_embedder(iris):
    X, y = iris
    pipe = make_pipeline(StandardScaler(), embedder(temperature=0.2)).fit(X, y)
    found = verify_estimator(pipe, X, y, [1])
    expected = verify_embedding(pipe.transform(X), y, [1], temperature=0.2)
    np.testing.assert_array_equal(found.hscl, expected.hscl)


def test_other_transformers(iris):
    X, y = iris
    pca = PCA(2).fit(X)
    found = verify_estimator(pca, X, y, [2], max_anchors=10)
    expected = verify_embedding(pca.transform(X), y, [2], max_anchors=10)
    np.testing.assert_array_equal(found.margins, expected.margins)
    with pytest.raises(TypeError, match="got LogisticRegression, which has no transform"):
        verify_estimator(LogisticRegression(), X, y)


# Along training ---------------------------------------------------------------------


def test_monitor_measures_each_epoch(iris):
    X, y = iris
    monitor = TheoryMonitor(X[::2], y[::2], betas=[0, 2], **FAST)
    fitted = embedder().set_callbacks(monitor).fit(X, y)
    curves = monitor.along_epochs(2)
    assert curves.along == "epoch"
    np.testing.assert_array_equal(curves.points, [1, 2, 3])
    last = verify_estimator(fitted, X[::2], y[::2], [0, 2], **FAST)
    for name in ("ucl", "scl", "hucl", "hscl", "assumption", "gap", "excess"):
        interval, expected = getattr(curves, name), getattr(last, name)
        assert [end[-1] for end in interval] == [end[1] for end in expected]
        assert interval.value.shape == (3,)
    np.testing.assert_array_equal(curves.margins[-1], last.margins[1])
    np.testing.assert_array_equal(
        curves.anchor_losses["hucl"][-1], last.anchor_losses["hucl"][1]
    )
    assert curves.inequality_holds.shape == (3,)
    first = monitor.along_epochs()
    np.testing.assert_array_equal(first.hscl.value, first.scl.value)  # beta=0


def test_monitor_does_not_change_training(iris):
    X, y = iris
    watched = embedder().set_callbacks(TheoryMonitor(**FAST)).fit(X, y)
    np.testing.assert_array_equal(watched.transform(X), embedder().fit(X, y).transform(X))


def test_monitor_takes_the_training_rows_and_the_last_fit(iris):
    X, y = iris
    monitor = TheoryMonitor(**FAST)
    embedder().set_callbacks(monitor).fit(X, y)
    watched = embedder(max_epochs=2).set_callbacks(monitor).fit(X, y)
    assert monitor.epochs_ == [1, 2]
    expected = verify_estimator(watched, X, y, [1], **FAST).hscl
    np.testing.assert_array_equal(monitor.estimates_[-1].hscl, expected)


def test_monitor_in_a_pipeline_and_a_search(iris):
    X, y = iris
    monitor = TheoryMonitor(**FAST)
    pipe = make_pipeline(embedder().set_callbacks(monitor), LogisticRegression())
    pipe.fit(X, y)
    assert monitor.epochs_ == [1, 2, 3]
    search = GridSearchCV(
        embedder().set_callbacks(monitor),
        {"beta": [0.0, 1.0]},
        cv=StratifiedKFold(2),
        scoring=make_embedding_scorer(map_at_r),
    )
    search.fit(X, y)
    assert monitor.epochs_ == [1, 2, 3]


def test_what_a_monitor_refuses(iris):
    X, y = iris
    with pytest.raises(ValueError, match="pass both, or neither"):
        TheoryMonitor(X)
    monitor = TheoryMonitor(betas=[1, 2], **FAST)
    with pytest.raises(ValueError, match=r"No epoch was measured.*set_callbacks"):
        monitor.along_epochs()
    embedder().set_callbacks(monitor).fit(X, y)
    with pytest.raises(ValueError, match=r"beta=3 was not measured.*\[1, 2\]"):
        monitor.along_epochs(3)
    wrong = TheoryMonitor(X[:, :2], y)
    with pytest.raises(ValueError, match="X has 2 features"):
        embedder().set_callbacks(wrong).fit(X, y)


# The figure -------------------------------------------------------------------------


def test_display_shows_losses_and_share(iris):
    X, y = iris
    display = TheoryDisplay.from_embedding(X, y, [0, 1, 8], **FAST)
    losses, share = display.axes_
    for name in ("ucl", "scl", "hucl", "hscl"):
        interval = getattr(display.estimate, name)
        line, band = display.lines_[name], display.bands_[name]
        assert line.axes is losses and band.axes is losses
        np.testing.assert_array_equal(line.get_ydata(), interval.value)
        ends = band.get_paths()[0].vertices[:, 1]
        assert ends.min() == interval.low.min() and ends.max() == interval.high.max()
    line = display.lines_["assumption"]
    assert line.axes is share
    np.testing.assert_array_equal(line.get_ydata(), display.estimate.assumption.value)
    low, high = share.get_ylim()
    assert low < 0 and high > 1
    assert share.get_xlabel() == "Strength of the hardening, beta"
    assert [t.get_text() for t in share.get_xticklabels()] == ["0", "1", "8"]
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
    display.figure_.canvas.draw()


def test_lines_differ_in_more_than_colour(iris):
    lines = TheoryDisplay.from_embedding(*iris, [0, 1], **FAST).lines_
    styles = {(line.get_linestyle(), line.get_marker()) for line in lines.values()}
    assert len(styles) >= 4
    assert lines["hucl"].get_color() == lines["ucl"].get_color()
    assert lines["hscl"].get_color() == lines["scl"].get_color()
    okabe_ito = {"#0072b2", "#d55e00", "#009e73"}
    assert {to_hex(line.get_color()) for line in lines.values()} == okabe_ito


def test_the_legend_covers_no_line(iris):
    display = TheoryDisplay.from_embedding(*iris, [0, 1, 8], **FAST)
    display.figure_.canvas.draw()
    legend = display.axes_[0].get_legend().get_window_extent()
    assert legend.y0 >= display.axes_[0].get_window_extent().y1 - 1


def test_display_of_an_estimator_in_given_axes(fitted, iris):
    X, y = iris
    figure = matplotlib.figure.Figure()
    axes = figure.subplots(1, 2)
    display = TheoryDisplay.from_estimator(fitted, X, y, [0, 1], axes=axes, **FAST)
    assert display.figure_ is figure
    assert list(display.axes_) == list(axes)
    expected = verify_estimator(fitted, X, y, [0, 1], **FAST).hscl.value
    np.testing.assert_array_equal(display.lines_["hscl"].get_ydata(), expected)


def test_display_along_epochs(iris):
    monitor = TheoryMonitor(**FAST)
    embedder(max_epochs=4).set_callbacks(monitor).fit(*iris)
    display = TheoryDisplay(monitor.along_epochs()).plot()
    np.testing.assert_array_equal(display.lines_["hscl"].get_xdata(), [1, 2, 3, 4])
    assert display.axes_[1].get_xlabel() == "Epoch"
    display.figure_.canvas.draw()
    ticks = display.axes_[1].get_xticks()
    assert (ticks == np.round(ticks)).all()
