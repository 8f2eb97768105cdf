"""Texts as X: what may hold them, what an encoder of texts can be, and the way back."""

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from helpers.text_models import (
    WithAdapter,
    bert,
    cross_encoder,
    llama,
    phobert,
    roberta,
    sparse_encoder,
    texts_and_labels,
    tokenizer,
    write_sentence_transformer,
)
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.texts import OBJECT_NAME
from sklearn_hscl.diagnostics import diagnose
from sklearn_hscl.encoders import TextEncoder
from sklearn_hscl.encoders.text.files import from_files, to_files
from sklearn_hscl.encoders.text.tokens import Tokenization, embed_by_length, embed_in_groups
from sklearn_hscl.export import to_onnx
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.persistence import BundleError, read_card
from sklearn_hscl.training.callbacks import checkpoint
from sklearn_hscl.training.callbacks.early_stopping import HeldOutEarlyStopping
from sklearn_hscl.training.callbacks.weights import InterpolatedWeights
from sklearn_hscl.training.config import PRETRAINED
from sklearn_hscl.training.stacked.auto_select import default_temperatures

SHORT = {"max_epochs": 2, "batch_size": 18, "lr": 1e-3, "random_state": 0}
X, Y = texts_and_labels()
NEW, NEW_Y = texts_and_labels(seed=1)
FEW = [" ".join(text.split()[:10]) for text in X]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a sentence transformer with random weights."""
    path = tmp_path_factory.mktemp("model")
    write_sentence_transformer(path)
    return path / "whole"


@pytest.fixture(scope="module")
def encoders(folder):
    """Return the same weights in the three forms that `encoder` accepts."""
    from sentence_transformers import SentenceTransformer

    return {
        "object": SentenceTransformer(str(folder), device="cpu"),
        "name": f"sentence-transformers:{folder}",
        "parts": TextEncoder(*bert()),
    }


@pytest.fixture(scope="module")
def fitted(encoders):
    return HSCLEmbedder(encoder=encoders["name"], **SHORT).fit(X, Y)


CUT = pytest.mark.filterwarnings("ignore:.*tokens or more:UserWarning")
FORMS = pytest.mark.parametrize("form", ["object", "name", "parts"])

# Training ------------------------------------------------------------------------------


@FORMS
def test_training_brings_classes_together(encoders, form):
    embedder = HSCLEmbedder(encoder=encoders[form], max_epochs=30, lr=3e-3, random_state=0)
    classifier = KNeighborsClassifier(3)
    embedder.fit(X, Y)
    after = classifier.fit(embedder.transform(X), Y).score(embedder.transform(NEW), NEW_Y)
    frozen = embedder.set_params(max_epochs=1, lr=1e-6).fit(X, Y)
    before = classifier.fit(frozen.transform(X), Y).score(frozen.transform(NEW), NEW_Y)
    assert after > before + 0.3


@FORMS
def test_all_forms_train_alike(encoders, fitted, form):
    embedding = HSCLEmbedder(encoder=encoders[form], **SHORT).fit(X, Y).transform(NEW)
    np.testing.assert_allclose(embedding, fitted.transform(NEW), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["object", "parts"])
def test_the_encoder_of_the_user_stays_as_it_is(encoders, form):
    encoder = encoders[form]
    kind, before = type(encoder), {k: v.clone() for k, v in encoder.state_dict().items()}
    HSCLEmbedder(encoder=encoder, **SHORT).fit(X, Y)
    assert type(encoder) is kind
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    "y", [None, Y, np.where(Y == "music", "?", Y)], ids=["no", "all", "some"]
)
def test_any_labels(encoders, y):
    unlabeled = {"unlabeled_label": "?"} if y is not None and "?" in y else {}
    embedder = HSCLEmbedder(encoder=encoders["name"], **SHORT, **unlabeled).fit(X, y)
    assert np.isfinite(embedder.transform(NEW)).all()


def test_the_same_seed_gives_the_same_bits(encoders, fitted):
    state = torch.get_rng_state()
    again = HSCLEmbedder(encoder=encoders["name"], **SHORT).fit(X, Y)
    assert (again.transform(NEW) == fitted.transform(NEW)).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_in_chunks_are_those_of_the_batch(encoders):
    model, made = bert()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    model.config.attention_probs_dropout_prob = 0.0
    embeddings = [
        HSCLEmbedder(encoder=TextEncoder(model, made), device_batch_size=size, **SHORT)
        .fit(X, Y)
        .transform(NEW)
        for size in ("auto", 5)
    ]
    np.testing.assert_allclose(*embeddings, rtol=1e-4, atol=1e-5)


def test_weights_end_between_those_before_and_after_training(encoders, monkeypatch):
    start = dict(encoders["object"].named_parameters())
    between = HSCLEmbedder(encoder=encoders["object"], **SHORT).fit(X, Y)
    monkeypatch.setattr(
        "sklearn_hscl.training.config.PRETRAINED", replace(PRETRAINED, interpolation=None)
    )
    after = HSCLEmbedder(encoder=encoders["object"], **SHORT).fit(X, Y)
    trained = dict(after.module_.named_parameters())
    for name, weight in between.module_.named_parameters():
        expected = start[name] + PRETRAINED.interpolation * (trained[name] - start[name])
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)


def test_held_out_texts_stop_training(encoders):
    embedder = HSCLEmbedder(encoder=encoders["name"], **SHORT)
    embedder.fit(X, Y, X_val=NEW, y_val=NEW_Y)
    split = clone(embedder).set_params(early_stopping=True, validation_fraction=0.3)
    split.fit(X, Y)
    for found in (embedder, split):
        assert found.valid_score_name_ == "k-NN accuracy"


def test_held_out_scores_are_of_the_weights_that_are_retained(encoders, monkeypatch):
    scored, score = [], HeldOutEarlyStopping.score

    def remember(monitor, net):
        scored.append(copy.deepcopy(net.module_.encoder.state_dict()))
        return score(monitor, net)

    monkeypatch.setattr(HeldOutEarlyStopping, "score", remember)
    embedder = HSCLEmbedder(encoder=encoders["name"], **SHORT | {"max_epochs": 4})
    embedder.fit(X, Y, X_val=NEW, y_val=NEW_Y)
    best = scored[embedder.best_epoch_ - 1]
    for name, value in embedder.module_.state_dict().items():
        assert torch.equal(value, best[name])


def test_a_resumed_fit_gives_the_same_bits(encoders, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_MAX_TIME_FRACTION", 1.0)  # written in every epoch
    settings = SHORT | {"encoder": encoders["name"], "max_epochs": 4}
    begun = HSCLEmbedder(checkpoint_dir=tmp_path, resume=True, **settings)
    begin = InterpolatedWeights.on_epoch_begin

    def fail(monitor, net, **kwargs):
        if net.n_completed == 2:
            raise RuntimeError("the machine stops")
        begin(monitor, net, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(InterpolatedWeights, "on_epoch_begin", fail)
        with pytest.raises(RuntimeError, match="stops"):
            begun.fit(X, Y)
    whole = HSCLEmbedder(**settings).fit(X, Y)
    np.testing.assert_array_equal(begun.fit(X, Y).transform(NEW), whole.transform(NEW))


def test_temperatures_to_select_from_hold_the_default(encoders, monkeypatch):
    class Seen(Exception):  # noqa: N818 - it ends a fit
        pass

    def see(prepare, scales):
        raise Seen({pair.temperature for pair in scales})

    monkeypatch.setattr("sklearn_hscl.training.fitting.train_best", see)
    rows = np.arange(len(X), dtype=float)[:, None]
    for encoder, samples in ((encoders["name"], X), ("mlp", rows)):
        embedder = HSCLEmbedder(encoder=encoder, temperature="auto", **SHORT)
        with pytest.raises(Seen) as seen:
            embedder.fit(samples, Y)
        default = embedder.set_params(temperature=None).fit(samples, Y).temperature_
        assert default in seen.value.args[0] == set(default_temperatures(encoder))


def test_frozen_weights_stay_and_an_adapter_trains():
    model, made = bert()
    model.requires_grad_(False)
    encoder = TextEncoder(WithAdapter(model), made)
    embedder = HSCLEmbedder(encoder=encoder, **SHORT).fit(X, Y)
    before = dict(encoder.named_parameters())
    for name, weight in embedder.module_.named_parameters():
        assert torch.equal(weight, before[name]) == (not before[name].requires_grad)


@CUT
def test_a_search_tokenizes_for_each_encoder():
    model, made = bert()
    lengths = [TextEncoder(model, made, max_length=length) for length in (4, 16)]
    pipeline = make_pipeline(HSCLEmbedder(**SHORT), LogisticRegression())
    grid = {"hsclembedder__encoder": lengths}
    scores = [
        search(pipeline, grid, cv=2, refit=False).fit(X, Y).cv_results_["mean_test_score"]
        for search in (GridSearchCV, BatchedGridSearchCV)
    ]
    np.testing.assert_allclose(*scores)


@CUT
def test_the_tokenizer_of_the_user_stays_as_it_is():
    model, made = bert()
    embedder = HSCLEmbedder(encoder=TextEncoder(model, made, max_length=4), **SHORT)
    embedder.fit(X, Y)
    assert len(made.backend_tokenizer.encode("a very very very ball").ids) == 7
    before = embedder.transform(NEW)
    made.add_tokens(["ball drum"])
    np.testing.assert_array_equal(embedder.transform(NEW), before)


@CUT
def test_a_warm_start_has_the_tokens_of_its_encoder():
    model, made = bert()
    embedder = HSCLEmbedder(encoder=TextEncoder(model, made), warm_start=True, **SHORT)
    embedder.fit(X, Y)
    embedder.set_params(encoder=TextEncoder(model, made, max_length=4)).fit(X, Y)
    again = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_array_equal(again.transform(NEW), embedder.transform(NEW))


def test_chunks_keep_their_weights(encoders, monkeypatch):
    one = HSCLEmbedder(encoder=encoders["name"], **SHORT).partial_fit(X, Y).transform(NEW)
    monkeypatch.setattr(
        "sklearn_hscl.training.config.PRETRAINED", replace(PRETRAINED, interpolation=None)
    )
    other = HSCLEmbedder(encoder=encoders["name"], **SHORT).partial_fit(X, Y)
    np.testing.assert_array_equal(other.transform(NEW), one)


def test_subclasses_are_refused(folder):
    from sentence_transformers import SentenceTransformer

    class Mine(SentenceTransformer):
        pass

    with pytest.raises(ValueError, match="Mine is a subclass"):
        HSCLEmbedder(encoder=Mine(str(folder), device="cpu"), **SHORT).fit(X, Y)


def test_embeddings_are_cut_as_by_encode(folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", truncate_dim=8)
    embedder = HSCLEmbedder(encoder=model, **SHORT).fit(X, Y)
    np.testing.assert_allclose(
        embedder.transform(NEW), embedder.module_.encode(NEW), rtol=1e-4, atol=1e-5
    )


# Containers ----------------------------------------------------------------------------

CONTAINERS = {
    "tuple": tuple,
    "array of str": np.array,
    "array of object": lambda x: np.array(x, dtype=object),
    "array of StringDType": lambda x: np.array(x, dtype=np.dtypes.StringDType()),
    "array of one column": lambda x: np.array(x)[:, None],
    "pandas series": pd.Series,
    "pandas series of object": lambda x: pd.Series(x, dtype=object),
    "pandas categorical": lambda x: pd.Series(x, dtype="category"),
    "pandas frame": lambda x: pd.DataFrame({"text": x}),
    "polars series": pl.Series,
    "polars frame": lambda x: pl.DataFrame({"text": x}),
    "arrow array": pa.array,
    "arrow chunks": lambda x: pa.chunked_array([x[:3], x[3:]]),
    "arrow table": lambda x: pa.table({"text": x}),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(fitted, container):
    contained = CONTAINERS[container](NEW)
    assert (fitted.transform(contained) == fitted.transform(NEW)).all()


BAD = {
    "single text": ("a ball", "list of texts"),
    "iterator": (iter(X), "list of texts"),
    "two columns": (pd.DataFrame({"a": X, "b": X}), "2 columns"),
    "None": ([*X[:5], None], "1 missing texts, the first in row 5"),
    "NaN": (pd.Series([X[0], np.nan]), "missing texts, the first in row 1"),
    "NA": (pd.Series([X[0], pd.NA], dtype="string"), "fillna"),
    "masked": (np.ma.array(X[:3], mask=[0, 1, 0]), "missing texts"),
    "null of arrow": (pa.array([None, "a"]), "row 0"),
    "numbers": (np.arange(6.0), "0.0 of type float in row 0"),
    "a number among texts": ([*X[:3], 7], "7 of type int in row 3"),
    "bytes": ([b"a", b"b"], "of type bytes in row 0"),
    "lists of texts": ([["a", "b"], ["c", "d"]], "in row 0, 2 values.*one text in each"),
    "ragged lists": ([["a"], ["c", "d"]], "in row 1, 2 values.*' '.join"),
    "tuples of words": ([("a", "b", "c"), "d"], "tuple in row 0, 3 values"),
    "no words": ([*X[:2], []], "in row 2, 0 values"),
    "a dictionary": ([*X[:2], {"text": "a"}], "of type dict in row 2"),
    "lone surrogate": (
        [*X[:2], "a \ud800"],
        r"surrogate '\\ud800' in row 2, as character 2",
    ),
    "half a pair": (pd.Series([*X[:2], "\udc00"], dtype=object), "row 2.*'replace'"),
    "empty": ([], "0 texts"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_bad_texts(fitted, case, method):
    bad, message = BAD[case]
    arguments = (bad, Y[: len(bad)]) if method == "fit" and hasattr(bad, "__len__") else ()
    with pytest.raises(ValueError, match=message):
        getattr(clone(fitted) if method == "fit" else fitted, method)(*arguments or (bad,))


def test_one_text_is_too_few_to_fit(fitted):
    with pytest.raises(ValueError, match="minimum of 2"):
        clone(fitted).fit(X[:1], Y[:1])


def test_an_empty_text_has_an_embedding_of_its_own(fitted):
    empty, other = fitted.transform(["", "ball"])
    assert np.isfinite(empty).all()
    assert not np.allclose(empty, other)


def test_nested_lists_of_one_column(fitted):
    assert (fitted.transform([[text] for text in NEW]) == fitted.transform(NEW)).all()


def test_texts_for_other_encoders_name_the_remedy():
    with pytest.raises(ValueError, match="sentence-transformers:"):
        HSCLEmbedder().fit(X, Y)


# Encoders that cannot be used -----------------------------------------------------------


def _class_of_library():
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer


def _factory():
    return lambda: TextEncoder(*bert())


NO_ENCODERS = {
    "class": (lambda: TextEncoder, "encoder=TextEncoder is a class. Pass an instance"),
    "class of the library": (_class_of_library, "is a class. Pass a SentenceTransformer"),
    "sparse": (sparse_encoder, "SparseEncoder does not embed.*Pass a SentenceTransformer"),
    "cross": (cross_encoder, "CrossEncoder does not embed.*Pass a SentenceTransformer"),
    "factory": (_factory, "a TextEncoder, not a function that returns one"),
    "without tokenizer": (lambda: bert()[0], "or a TextEncoder"),
}


@pytest.mark.parametrize("case", NO_ENCODERS)
def test_encoders_that_are_none_of_texts(case):
    make, message = NO_ENCODERS[case]
    with pytest.raises((TypeError, ValueError), match=message):
        HSCLEmbedder(encoder=make(), **SHORT).fit(X, Y)


def test_a_factory_of_an_encoder_of_texts_for_a_table():
    with pytest.raises(ValueError, match="returns a TextEncoder.*Pass encoder=TextEncoder"):
        HSCLEmbedder(encoder=_factory(), **SHORT).fit(np.ones((36, 2)), Y)


OTHERS = {"auto": "auto", "mlp": "mlp", "module": torch.nn.Linear(1, 3)}


@pytest.mark.parametrize("other", OTHERS)
def test_an_encoder_that_is_set_after_the_fit(fitted, other):
    changed = copy.copy(fitted).set_params(encoder=OTHERS[other], warm_start=True)
    np.testing.assert_array_equal(changed.transform(NEW), fitted.transform(NEW))
    with pytest.raises(ValueError, match=r"takes tables.*Set encoder back"):
        changed.fit(X, Y)
    with pytest.raises(ValueError, match=r"takes tables.*warm_start=False"):
        changed.partial_fit(X, Y)


def test_an_encoder_of_texts_that_is_set_after_the_fit_of_a_table(encoders):
    rows = np.arange(len(X), dtype=float)[:, None]
    table = HSCLEmbedder(encoder="mlp", **SHORT).fit(rows, Y)
    before = table.transform(rows)
    table.set_params(encoder=encoders["name"], warm_start=True)
    np.testing.assert_array_equal(table.transform(rows), before)
    with pytest.raises(ValueError, match="takes texts, but the fit to continue does not"):
        table.fit(X, Y)


@FORMS
def test_parameters_without_effect_draw_warnings(encoders, form):
    ignored = {"dropout": 0.3, "hidden_layer_sizes": [5], "n_members": 3}
    with pytest.warns(UserWarning, match="has no effect with encoder=") as caught:
        HSCLEmbedder(encoder=encoders[form], **SHORT, **ignored).fit(X, Y)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == len(ignored)
    for name in ignored:
        assert any(m.startswith(f"{name}=") and "has no effect" in m for m in messages)


def test_cross_fit_names_the_type_of_the_encoder(encoders):
    with pytest.raises(ValueError, match="got encoder=SentenceTransformer and") as caught:
        HSCLEmbedder(encoder=encoders["object"], cross_fit=3, **SHORT).fit(X, Y)
    assert len(str(caught.value)) < 250


def test_views_of_a_text_need_dropout():
    embedder = HSCLEmbedder(encoder=TextEncoder(*llama(), "last"), **SHORT)
    with pytest.raises(ValueError, match=r"2 views of a text are equal.*attention_dropout"):
        embedder.fit(X)
    assert np.isfinite(embedder.fit(X, Y).transform(NEW)).all()
    with_dropout = TextEncoder(*llama(attention_dropout=0.1), "last")
    fits = [HSCLEmbedder(encoder=with_dropout, **SHORT).fit(X) for _ in range(2)]
    np.testing.assert_array_equal(*(embedder.transform(NEW) for embedder in fits))


# Tokens --------------------------------------------------------------------------------


def test_an_embedding_depends_on_its_text_alone(fitted):
    together = fitted.transform(NEW)
    alone = np.vstack([fitted.transform([text]) for text in NEW])
    backwards = fitted.transform(NEW[::-1])[::-1]
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(backwards, together, rtol=1e-5, atol=1e-6)


def test_batches_by_length_keep_the_order():
    tokens = Tokenization(tokenizer(), 16)(np.array(NEW, dtype=object))
    assert tokens.dtype == torch.int32
    assert tokens.shape == (len(NEW), 2, 14)

    def first_and_length(batch):
        return torch.stack([batch[:, 0, 1], batch[:, 1].sum(1)], 1)

    for embed in (embed_by_length, embed_in_groups):
        assert torch.equal(embed(first_and_length, tokens), first_and_length(tokens))


def test_long_texts_are_cut_and_said_to_be(encoders):
    long = [f"{text} {' '.join(['very'] * 40)}" for text in X]
    embedder = HSCLEmbedder(encoder=encoders["name"], **SHORT)
    with pytest.warns(UserWarning, match="36 of 36 texts have 16 tokens or more") as caught:
        embedder.fit(long, Y)
    assert sum("tokens" in str(warning.message) for warning in caught) == 1
    assert caught[0].filename == __file__
    embedding = embedder.transform(long)  # without a warning
    longer = embedder.transform([text + " very very" for text in long])
    np.testing.assert_array_equal(embedding, longer)


def test_filling_stays_within_the_positions_of_the_model():
    model, made = bert(max_length=13)  # between two multiples of the rows' lengths
    embedder = HSCLEmbedder(encoder=TextEncoder(model, made), **SHORT).fit(FEW, Y)
    assert np.isfinite(embedder.transform(FEW)).all()


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooling(pooling):
    model, made = bert()
    encoder = TextEncoder(model, made, pooling).eval()
    tokens = encoder.tokenization(np.array(NEW, dtype=object))
    for text, row in zip(NEW, encoder(tokens), strict=True):
        hidden = model(**made(text, return_tensors="pt")).last_hidden_state[0]
        expected = {"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1]}
        torch.testing.assert_close(row, expected[pooling], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "max"}, "pooling='max'"),
        ({"max_length": 0}, "max_length=0 must be a positive integer of at most 16"),
        ({"max_length": -3}, "max_length=-3"),
        ({"max_length": 17}, "max_length=17.*of at most 16, the positions of the model"),
        ({"max_length": 2.5}, "max_length=2.5 must be a positive integer, or None"),
        ({"max_length": "12"}, "max_length='12'"),
        ({"max_length": True}, "max_length=True"),
        ({"model": "bert"}, "Expected model .* got 'bert'.*AutoModel"),
        ({"model": torch.nn.Linear}, "Expected model"),
        ({"tokenizer": "bert"}, "Expected tokenizer .* got 'bert'.*AutoTokenizer"),
    ],
)
def test_bad_parameters_of_a_text_encoder(change, message):
    parts = dict(zip(("model", "tokenizer"), bert(), strict=True))
    with pytest.raises((TypeError, ValueError), match=message):
        TextEncoder(**parts | change)


@CUT
def test_positions_of_models_of_the_kind_of_roberta():
    model, made = roberta(n_positions=12)
    assert model.config.max_position_embeddings == 14
    with pytest.raises(ValueError, match="max_length=13 .*at most 12"):
        TextEncoder(model, made, max_length=13)
    encoder = TextEncoder(model, made)
    assert encoder.max_length == TextEncoder(model, made, max_length=12).max_length == 12
    assert type(TextEncoder(model, made, max_length=np.int64(5)).max_length) is int
    long = [" ".join([text] * 4) for text in X]
    assert np.isfinite(
        HSCLEmbedder(encoder=encoder, **SHORT).fit(long, Y).transform(long)
    ).all()


@CUT
def test_a_maximum_beyond_the_positions_is_lowered(folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 1000
    long = [" ".join([text] * 9) for text in X]
    embedder = HSCLEmbedder(encoder=model, **SHORT).fit(long, Y)
    assert (embedder.module_.max_seq_length, model.max_seq_length) == (16, 1000)
    np.testing.assert_allclose(
        embedder.module_.encode(long), embedder.transform(long), rtol=1e-4, atol=1e-5
    )


def test_models_without_a_table_of_positions_take_any_number():
    model, made = llama()
    assert TextEncoder(model, made).max_length == 16
    assert TextEncoder(model, made, max_length=40).max_length == 40


@pytest.mark.parametrize("form", ["object", "parts"])
def test_a_tokenizer_without_padding_token(folder, form):
    from sentence_transformers import SentenceTransformer

    def encoder():
        if form == "parts":
            return TextEncoder(*bert())
        return SentenceTransformer(str(folder), device="cpu")

    without = encoder()
    without.tokenizer.pad_token = None
    np.testing.assert_array_equal(
        HSCLEmbedder(encoder=without, **SHORT).fit(X, Y).transform(NEW),
        HSCLEmbedder(encoder=encoder(), **SHORT).fit(X, Y).transform(NEW),
    )


def test_prompts_precede_texts(folder):
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "the "}
    model = SentenceTransformer(
        str(folder), device="cpu", prompts=prompts, default_prompt_name="query"
    )
    embedder = HSCLEmbedder(encoder=model, **SHORT).fit(X, Y)
    np.testing.assert_allclose(
        embedder.transform(NEW), embedder.module_.encode(NEW), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "name", ["sentence-transformers:./nothing", "sentence-transformers:"]
)
def test_names_without_a_model(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="sentence-transformers:"):
        HSCLEmbedder(encoder=name).fit(X, Y)


# Where an embedder is used ---------------------------------------------------------------


def test_pipeline_search_and_cross_validation(encoders):
    pipeline = make_pipeline(
        HSCLEmbedder(encoder=encoders["object"], **SHORT), LogisticRegression()
    )
    assert cross_val_score(pipeline, X, Y, cv=2).shape == (2,)
    search = GridSearchCV(pipeline, {"hsclembedder__beta": [0.0, 1.0]}, cv=2)
    assert len(search.fit(X, Y).predict(NEW)) == len(NEW)


@pytest.mark.parametrize("columns", ["text", ["text"]], ids=["column", "frame"])
def test_texts_beside_a_table(encoders, columns):
    frame = pd.DataFrame({"text": X, "length": [float(len(text)) for text in X]})
    both = ColumnTransformer(
        [
            ("text", HSCLEmbedder(encoder=encoders["name"], **SHORT), columns),
            ("rest", StandardScaler(), ["length"]),
        ]
    ).set_output(transform="pandas")
    result = both.fit_transform(frame, Y)
    assert result.shape == (len(X), 17)
    assert result.columns[0] == "text__hsclembedder0"


def test_partial_fit_and_warm_start(encoders):
    embedder = HSCLEmbedder(encoder=encoders["name"], **SHORT)
    for _ in range(2):
        embedder.partial_fit(X, Y)
    first = embedder.transform(NEW)
    assert (embedder.partial_fit(NEW, NEW_Y).transform(NEW) != first).any()
    warm = HSCLEmbedder(encoder=encoders["name"], warm_start=True, **SHORT).fit(X, Y)
    assert (warm.transform(NEW) != warm.fit(X, Y).transform(NEW)).any()


def test_reports(fitted):
    assert diagnose(fitted, X, Y).to_dict()
    assert "HSCLEmbedder" in fitted._repr_html_()
    assert fitted.n_features_in_ == 1
    assert not hasattr(fitted, "feature_names_in_")


def test_other_libraries_are_imported_for_texts_alone():
    source = (
        "import sys; from sklearn.datasets import load_iris; import sklearn_hscl as s; "
        "s.HSCLEmbedder(max_epochs=1).fit(*load_iris(return_X_y=True)); "
        "sys.exit(bool({'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


# The way back ----------------------------------------------------------------------------


def test_the_module_is_a_sentence_transformer(fitted, tmp_path):
    from sentence_transformers import SentenceTransformer

    assert isinstance(fitted.module_, SentenceTransformer)
    np.testing.assert_allclose(
        fitted.module_.encode(NEW), fitted.transform(NEW), rtol=1e-4, atol=1e-5
    )
    fitted.module_.save(str(tmp_path), create_model_card=False)
    assert "sklearn_hscl" not in (tmp_path / "modules.json").read_text()
    again = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(
        again.encode(NEW), fitted.transform(NEW), rtol=1e-4, atol=1e-5
    )


@FORMS
@pytest.mark.parametrize("way", ["pickle", "file"])
def test_stored_embedders_embed_alike(encoders, tmp_path, form, way, monkeypatch):
    embedder = HSCLEmbedder(encoder=encoders[form], **SHORT).fit(X, Y)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if way == "pickle":
        again = pickle.loads(pickle.dumps(embedder))
    else:
        embedder.save(tmp_path / "file")
        again = HSCLEmbedder.load(tmp_path / "file")
    assert (again.transform(NEW) == embedder.transform(NEW)).all()
    assert type(again.module_) is type(embedder.module_)


def test_a_file_needs_the_folder_no_more(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.rglob("*"):
        target = copy / path.relative_to(folder)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    embedder = HSCLEmbedder(encoder=f"sentence-transformers:{copy}", **SHORT).fit(X, Y)
    embedder.save(tmp_path / "file")
    copy.rename(tmp_path / "moved")
    again = HSCLEmbedder.load(tmp_path / "file")
    assert (again.transform(NEW) == embedder.transform(NEW)).all()
    assert (again.partial_fit(X, Y).transform(NEW) != embedder.transform(NEW)).any()


@pytest.fixture(scope="module", params=["object", "parts"])
def stored(request, encoders, tmp_path_factory):
    """Return an embedder whose encoder was passed as an object, and its file."""
    embedder = HSCLEmbedder(encoder=encoders[request.param], **SHORT).fit(X, Y)
    path = tmp_path_factory.mktemp("stored") / "file"
    embedder.save(path)
    return embedder, path


def test_a_file_holds_the_weights_of_an_object_once(stored):
    embedder, path = stored
    n_bytes = sum(4 * weight.numel() for weight in embedder.module_.parameters())
    assert path.stat().st_size < 2 * n_bytes
    assert read_card(path)["parameters"]["encoder"] == OBJECT_NAME
    assert read_card(path)["left_out"] == []


def test_a_new_fit_after_loading_needs_the_object(stored):
    embedder, path = stored
    again = HSCLEmbedder.load(path)
    with pytest.raises(ValueError, match=r"weights after training alone.*set_params"):
        clone(again).fit(X, Y)
    np.testing.assert_array_equal(again.transform(NEW), embedder.transform(NEW))
    anew = clone(again).set_params(encoder=embedder.encoder).fit(X, Y)
    np.testing.assert_array_equal(anew.transform(NEW), embedder.transform(NEW))
    further = clone(again).set_params(encoder=again.module_).fit(X, Y)
    assert (further.transform(NEW) != embedder.transform(NEW)).any()


@pytest.mark.parametrize("method", ["partial_fit", "fit"])
def test_further_training_after_loading_needs_no_object(stored, tmp_path, method):
    embedder, path = stored
    again = HSCLEmbedder.load(path).set_params(warm_start=True)
    getattr(again, method)(X, Y)
    expected = getattr(copy.deepcopy(embedder).set_params(warm_start=True), method)(X, Y)
    assert (again.transform(NEW) != embedder.transform(NEW)).any()
    again.save(tmp_path / "second")
    twice = HSCLEmbedder.load(tmp_path / "second")
    np.testing.assert_array_equal(twice.transform(NEW), again.transform(NEW))
    assert expected.n_iter_ == twice.n_iter_


def test_an_object_may_be_left_out(stored, tmp_path):
    embedder, _ = stored
    embedder.save(tmp_path / "file", leave_out=["encoder"])
    with pytest.raises(ValueError, match="encoder="):
        HSCLEmbedder.load(tmp_path / "file")
    again = HSCLEmbedder.load(tmp_path / "file", encoder=embedder.encoder)
    assert again.encoder is embedder.encoder
    np.testing.assert_array_equal(again.transform(NEW), embedder.transform(NEW))


@pytest.mark.parametrize("form", ["object", "parts"])
def test_onnx_names_what_to_do_instead(encoders, tmp_path, form):
    embedder = HSCLEmbedder(encoder=encoders[form], **SHORT).fit(X, Y)
    with pytest.raises(ValueError, match=r"save.*\(folder\).*torch.onnx.export"):
        to_onnx(embedder, tmp_path / "file.onnx")


# Files -----------------------------------------------------------------------------------


def test_all_files_of_a_tokenizer_are_stored(tmp_path):
    embedder = HSCLEmbedder(encoder=TextEncoder(*phobert(tmp_path)), **SHORT).fit(FEW, Y)
    assert "tokenizer/bpe.codes" in to_files(embedder.module_)
    embedder.save(tmp_path / "file")
    again = HSCLEmbedder.load(tmp_path / "file")
    np.testing.assert_array_equal(again.transform(FEW), embedder.transform(FEW))


class _PickledVocabulary:
    """A part of an encoder of which its library writes a pickle."""

    def __init__(self, part):
        self.part = part

    def __call__(self, folder):
        self.part(folder)
        (folder / "vocab.pkl").write_bytes(pickle.dumps({"a": 1}))


def test_files_that_could_be_code_are_not_written(tmp_path):
    encoder = TextEncoder(*bert())
    encoder.tokenizer.save_pretrained = _PickledVocabulary(
        encoder.tokenizer.save_pretrained
    )
    with pytest.raises(ValueError, match=r"unexpected file 'tokenizer/vocab.pkl'.*pickle"):
        to_files(encoder)


def test_adapters_of_peft_are_merged_before_saving():
    model, made = bert()
    model.adapter = type("Adapter", (torch.nn.Linear,), {"__module__": "peft.lora"})(2, 2)
    with pytest.raises(ValueError, match=r"adapters of peft.*module_.model.merge_and_unl"):
        to_files(TextEncoder(model, made))


def _with(files, name, value):
    return files | {name: json.dumps(value).encode()}


SUSPICIOUS = {
    "class of another package": ("modules.json", [{"type": "os.path"}]),
    "remote code": ("config.json", {"auto_map": {"AutoModel": "own--code.Model"}}),
    "file outside": ("../config.json", {}),
    "drive": ("C:/config.json", {}),
    "absolute path": ("/config.json", {}),
    "code": ("model.py", {}),
    "pickle": ("pytorch_model.bin", {}),
}


@pytest.mark.parametrize("case", SUSPICIOUS)
def test_files_that_could_hold_code_are_refused(fitted, case):
    files = to_files(fitted.module_)
    assert from_files(files)
    with pytest.raises(ValueError, match="the encoder|the file"):
        from_files(_with(files, *SUSPICIOUS[case]))


def test_weights_that_are_nan_are_refused(fitted):
    files = to_files(fitted.module_)
    broken = copy.deepcopy(fitted.module_)
    next(broken.parameters()).data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        from_files(files | {n: c for n, c in to_files(broken).items() if "safe" in n})


def test_damaged_files_are_named(fitted):
    files = to_files(fitted.module_)
    with pytest.raises(ValueError, match="cannot be"):
        from_files({name: b"{}" if "modules" in name else files[name] for name in files})


def test_a_stored_encoder_is_not_passed_again(fitted, tmp_path):
    fitted.save(tmp_path / "file")
    with pytest.raises((BundleError, ValueError), match="file"):
        HSCLEmbedder.load(tmp_path / "file", encoder="mlp")
