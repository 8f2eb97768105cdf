"""The rooms of the house, as docs/architecture.rst draws them."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sklearn_hscl"
FACES = {"HSCLEmbedder": "embedder", "diagnose": "diagnostics"}  # of the package itself


def rooms():
    """Rooms from top to bottom."""
    text = (ROOT / "docs/architecture.rst").read_text().partition("Decisions\n")[0]
    return re.findall(r"^    (\w+)(?:/|\.py)\s", text, re.MULTILINE)


def imported(path):
    """Rooms that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, *names = node.module.split(".")
            if package == PACKAGE.name:
                yield from names[:1] or (FACES.get(n.name, n.name) for n in node.names)


def test_a_room_imports_only_rooms_below_it():
    place = {name: i for i, name in enumerate(rooms())}
    upwards = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            below = {name for name in place if place[name] >= place[room]}
            known = set(imported(path)) - {"__version__"}
            upwards += [(str(path), name) for name in known - below]
    assert not upwards
