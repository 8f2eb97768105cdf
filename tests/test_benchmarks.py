"""Benchmarks take from each other only what is there."""

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = {path.stem: path for path in sorted(FOLDER.rglob("*.py"))}


def made_in(path):
    """Names that the top level of a script defines or imports."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
            yield from (n.id for n in stored if isinstance(n.ctx, ast.Store))


@pytest.mark.parametrize("name", SCRIPTS)
def test_names_are_there(name):
    for node in ast.walk(ast.parse(SCRIPTS[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in SCRIPTS:
            wanted = {alias.name for alias in node.names}
            assert wanted <= set(made_in(SCRIPTS[node.module]))
