"""The parameters of HSCLEmbedder: one order, stored unchanged, in a short docstring."""

import inspect
import re

from sklearn_hscl import HSCLEmbedder
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
    for names in documented("Attributes"):
        for name in names.split(", "):
            assert hasattr(embedder, name) or name in optional
