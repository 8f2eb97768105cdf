"""Pipelines are split at their embedder, or refused with the reason."""

import numpy as np
import pytest
from helpers.searches import embedder, pipeline, some_rows
from sklearn.decomposition import PCA
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline

from sklearn_hscl.model_selection.pipeline_split import NoEmbedderError, split_pipeline


class Resampling(Pipeline):
    """Pipeline of another library."""


def test_a_bare_embedder_has_no_steps_around_it():
    bare = embedder()
    split = split_pipeline(bare)
    assert split.embedder is bare
    assert (split.before, split.name, split.after) == ([], "", [])
    assert split.step_names == [""]


def test_steps_before_and_after():
    pipe = pipeline()
    split = split_pipeline(pipe)
    assert split.steps == pipe.steps
    assert split.step_names == ["scale", "embed", "classify"]
    assert (split.name, split.embedder) == ("embed", pipe["embed"])
    assert [name for name, _ in split.before] == ["scale"]
    assert [name for name, _ in split.after] == ["classify"]


def test_samples_pass_through_the_steps_before():
    X, y = some_rows(60)
    pipe = make_pipeline(PCA(2), "passthrough", embedder(), GaussianNB()).fit(X, y)
    np.testing.assert_array_equal(
        split_pipeline(pipe).transform_before(X), pipe[0].transform(X)
    )
    assert split_pipeline(embedder()).transform_before(X) is X


REFUSED = {
    "an HSCLEmbedder or a Pipeline with one .*, got PCA": PCA(),
    "exactly one HSCLEmbedder among .*, got 0": make_pipeline(PCA(), GaussianNB()),
    "exactly one HSCLEmbedder among .*, got 2": make_pipeline(embedder(), embedder()),
    "got the subclass .*Resampling, which may resample": Resampling(pipeline().steps),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises(NoEmbedderError, match=f"Expected .*{message}"):
        split_pipeline(REFUSED[message])
