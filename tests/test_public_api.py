"""The API reference and ``__all__`` of the public packages list the same names."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import sklearn_hscl

REFERENCE = Path(__file__).parent.parent / "docs/reference/index.rst"
# Public packages, and public modules whose names have no ``__all__``.
PUBLIC = {
    "": sklearn_hscl.__all__,
    **{
        name: importlib.import_module(f"sklearn_hscl.{name}").__all__
        for name in (
            "arrow",
            "augment",
            "diagnostics",
            "display",
            "encoders",
            "losses",
            "metrics",
            "model_selection",
            "persistence",
            "semi_supervised",
            "theory",
        )
    },
    "export": ["to_onnx"],
    "gemm": ["use_fast_gemm", "uses_fast_gemm"],
    "image_files": ["ImageFiles"],
}
# Listed by their other name, or not a name to document.
ELSEWHERE = {
    "BatchedGridSearchCV",
    "ContrastiveLoss",
    "diagnostics.diagnose",
    "__version__",
}


def reference():
    """Return the names that the reference lists, without the package's own."""
    text = REFERENCE.read_text()
    listed = re.findall(r"^    ([\w.]+)$", text, re.MULTILINE)
    return listed + re.findall(r"autodata:: sklearn_hscl\.([\w.]+)", text)


def test_the_reference_lists_what_is_public():
    public = {
        f"{package}.{name}".strip(".")
        for package, names in PUBLIC.items()
        for name in names
    }
    listed = reference()
    assert len(listed) == len(set(listed))
    assert set(listed) - {"losses.presets"} == public - ELSEWHERE


@pytest.mark.parametrize("name", reference())
def test_listed_names_can_be_imported_and_are_documented(name):
    package, _, attribute = f"sklearn_hscl.{name}".rpartition(".")
    if name == "losses.presets":
        documented = importlib.import_module(f"sklearn_hscl.{name}")
    else:
        documented = getattr(importlib.import_module(package), attribute)
    assert documented.__doc__


def test_packages_are_public_or_say_that_they_are_internal():
    for module in pkgutil.iter_modules(sklearn_hscl.__path__):
        if module.name[0] != "_" and module.name not in {*PUBLIC, "embedder"}:
            imported = importlib.import_module(f"sklearn_hscl.{module.name}")
            assert imported.__doc__.startswith("Internal."), module.name


@pytest.mark.parametrize(
    "name", ["losses.ContrastiveLoss", "model_selection.BatchedGridSearchCV"]
)
def test_short_names(name):
    package, _, attribute = f"sklearn_hscl.{name}".rpartition(".")
    assert attribute in dir(sklearn_hscl)
    documented = getattr(importlib.import_module(package), attribute)
    assert getattr(sklearn_hscl, attribute) is documented
