"""The parameters of HSCLEmbedder: one order, stored unchanged, in a short docstring."""

import inspect
import re

import pytest
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss, LinearBeta
from sklearn_hscl.training import param_constraints

SIGNATURE = inspect.signature(HSCLEmbedder).parameters
# First parameter and heading of each group.
GROUPS = {
    "loss": "Loss",
    "encoder": "Encoder and embedding",
    "augment": "Views and batches",
    "max_epochs": "Optimization",
    "early_stopping": "Early stopping",
    "device": "Runtime",
    "net_params": "skorch",
}


def documented(section):
    """Return the names and types that a section of the class docstring lists."""
    doc = inspect.getdoc(HSCLEmbedder)
    text = re.search(rf"^{section}\n-+\n(.*?)\n\n[A-Z][\w ]+\n-+\n", doc, re.M | re.S)[1]
    return dict(re.findall(r"^(\w[\w, ]*) : (.+)$", text, re.MULTILINE))


def test_constructor_docstring_and_constraints_have_one_order():
    assert len(SIGNATURE) == 52
    assert list(documented("Parameters")) == list(SIGNATURE)
    assert list(param_constraints.CONSTRAINTS) == list(SIGNATURE)


def test_assignments_and_constraints_stand_under_the_headings_of_their_groups():
    sources = {
        inspect.getsource(HSCLEmbedder.__init__): r"self\.{0} = ",
        inspect.getsource(param_constraints): r'"{0}": ',
    }
    for source, entry in sources.items():
        for name, heading in GROUPS.items():
            assert re.search(rf"# {heading}\n\s*{entry.format(name)}", source), heading


def test_documented_defaults_are_those_of_the_constructor():
    for name, text in documented("Parameters").items():
        assert re.search(r"default=(.+)$", text)[1].replace('"', "'") == repr(
            SIGNATURE[name].default
        ).replace("0.0001", "1e-4")


def test_loss_is_the_only_positional_parameter():
    positional = [
        name
        for name, parameter in SIGNATURE.items()
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert positional == ["loss"]


def test_parameters_are_stored_unchanged():
    values = {name: object() for name in SIGNATURE}
    embedder = HSCLEmbedder(**values)
    assert vars(embedder) == values


def test_the_class_docstring_has_at_most_1500_words():
    assert len(inspect.getdoc(HSCLEmbedder).split()) <= 1500


def test_documented_attributes_are_fitted(iris):
    X, y = iris
    embedder = HSCLEmbedder(max_epochs=1, early_stopping=True).fit(X, y)
    optional = {"categories_", "is_categorical_", "feature_names_in_"}
    optional |= {"held_out_readout_"}
    for names in documented("Attributes"):
        for name in names.split(", "):
            assert hasattr(embedder, name) or name in optional


# Values that are valid, but surprise ----------------------------------------------------

QUICK = {"encoder": "mlp", "max_epochs": 1, "random_state": 0}
SURPRISES = [
    ({"hardening": "threshold", "beta": 5.0}, "beta=5.0 .*hardening='threshold'"),
    ({"hardening": "top_k", "beta": LinearBeta()}, "beta=LinearBeta.*'top_k'"),
    ({"threshold": 0.5}, "threshold=0.5 has no effect with hardening='exponential'"),
    ({"loss": "supcon", "beta": 2.0}, "beta=2.0 has no effect with loss='supcon'"),
    ({"loss": ContrastiveLoss(), "beta": 5.0}, "beta=5.0 has no effect, as loss is a Con"),
    ({"loss": ContrastiveLoss(), "tau_plus": 0.1}, "tau_plus=0.1 .*set loss__tau_plus"),
    ({"temperature": 1e-4}, "temperature=0.0001 is extreme"),
    ({"temperature": 1e4}, "temperature=10000.0 is extreme"),
    ({"n_members": 3}, "n_members=3 has no effect with encoder='mlp'.*'tabular'"),
    ({"encoder": nn.Linear(4, 3), "dropout": 0.3}, "dropout=0.3 .*encoder=Linear. Leave"),
    ({"encoder": lambda: nn.Linear(4, 3), "hidden_layer_sizes": [5]}, "sizes=.5. has no"),
    ({"lr": 50.0}, "lr=50.0 is extreme: its steps destroy"),
    ({"lr": 1e-12}, "lr=1e-12 is extreme: its steps change no weight"),
]


@pytest.mark.parametrize(("params", "message"), SURPRISES)
def test_one_warning_for_a_value_that_surprises(iris, params, message):
    embedder = HSCLEmbedder(**(QUICK | params))
    with pytest.warns(UserWarning, match=message) as caught:
        embedder.fit(*iris)
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(UserWarning, match=message) as caught:
        HSCLEmbedder(**(QUICK | params)).partial_fit(*iris).partial_fit(*iris)
    assert len(caught) == 1


SILENT = [
    {"n_members": 1, "dropout": 0.3, "hidden_layer_sizes": [5]},
    {"encoder": "tabular", "n_members": 2, "dropout": 0.3, "hidden_layer_sizes": [5, 5]},
    {"encoder": "auto", "n_members": 2, "dropout": 0.3},
    {"encoder": nn.Linear(4, 3), "n_members": 1, "dropout": 0.0},
]


@pytest.mark.parametrize("params", SILENT)
def test_parameters_of_layers_that_draw_no_warning(iris, params):
    HSCLEmbedder(**(QUICK | params)).fit(*iris)


def test_a_beta_without_effect_is_not_selected(iris):
    params = {"early_stopping": True, "hardening": "threshold", "beta": "auto"}
    assert HSCLEmbedder(**(QUICK | params)).fit(*iris).beta_ == 1.0


def test_a_rate_that_breaks_the_training_raises_its_error_alone(iris):
    with pytest.raises(FloatingPointError, match="lr"):
        HSCLEmbedder(**(QUICK | {"lr": 1e30})).fit(*iris)


def test_schedules_set_the_beta_of_any_loss(iris):
    params = {"loss": ContrastiveLoss(), "beta": LinearBeta(2.0, 3.0)}
    fitted = HSCLEmbedder(**(QUICK | params)).fit(*iris)
    assert fitted.net_.criterion_.options.beta == 2.0
