"""Docstrings, messages and documentation are in plain English.

CONTRIBUTING.md lists the words to use instead.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sklearn_hscl"
AVOIDED = {
    "told": r"told",
    "tell apart": r"tell(?:s|ing)?\b[^.;:]{0,60}?\bapart",
    "by heart": r"by heart",
    "is no": r"(?<!there )(?:is|are) no(?! longer| more| less| greater| larger| smaller)",
    "comes to": r"(?:come|comes|came|coming) to",
    "goes on from": r"(?:go|goes|going|went) on from",
    "stands for": r"(?:stand|stands|stood|standing) for",
    "it is said": r"(?:it is|as is|as it is|as) said",
    "of one's own making": r"of (?:one's|its|their|your|his|my) own (?:making|kind)",
    "what it is": r"what it is",
    "who is": r"who (?:is|are)",
    "surroundings": r"surroundings",
}
# Packages and files that still have some: remove an entry once its test passes (XPASS).
PENDING = set()
TEXTS = sorted(
    str(path.relative_to(ROOT))
    for path in [
        *ROOT.glob("docs/**/*.rst"),
        *ROOT.glob("*.md"),
        *ROOT.glob("benchmarks/*.md"),
    ]
    if not {"_build", "generated", "gallery"} & set(path.parts)
)
SOURCES = sorted(
    {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if "__pycache__" not in path.parts
    }
)


def names(candidates):
    """Return parameters of a test, of which the pending ones may fail."""
    pending = pytest.mark.xfail(reason="has phrases to avoid", strict=False)
    return [
        pytest.param(name, marks=[pending] if name in PENDING else [])
        for name in candidates
    ]


def findings(text):
    """Yield the avoided phrases of a text, with what surrounds them."""
    text = " ".join(text.split())
    for name, pattern in AVOIDED.items():
        for match in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE):
            yield f"{name!r}: … {text[max(match.start() - 30, 0) : match.end() + 30]} …"


def strings(path):
    """Yield docstrings, and the strings of raised errors and of warnings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):  # of a definition, or of an attribute
                yield node.value.value
        elif isinstance(node, ast.Raise) or _is_warning(node):
            yield "".join(
                part.value
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )


def _is_warning(node):
    called = getattr(node, "func", None)
    return isinstance(node, ast.Call) and getattr(called, "attr", None) == "warn"


@pytest.mark.parametrize("name", names(SOURCES))
def test_docstrings_and_messages(name):
    root = PACKAGE / name
    paths = [root] if root.suffix else sorted(root.rglob("*.py"))
    assert not [
        f"{path.relative_to(ROOT)}: {found}"
        for path in paths
        for string in strings(path)
        for found in findings(string)
    ]


@pytest.mark.parametrize("name", names(TEXTS))
def test_documentation(name):
    text = (ROOT / name).read_text()
    if name == "CONTRIBUTING.md":  # which lists the words to avoid
        text = re.sub(r"## Words\n.*?(?=\n## )", "", text, flags=re.DOTALL)
    assert not list(findings(text))


@pytest.mark.parametrize(
    "text",
    [
        "The rows are told apart.",
        "It tells them\napart.",
        "It stands for it.",
        "X is no table.",
    ],
)
def test_avoided_phrases_are_found(text):
    assert list(findings(text))


def test_plain_phrases_are_not():
    plain = "There are no classes. The score is no longer better. It stands alone, untold."
    assert not list(findings(plain))
