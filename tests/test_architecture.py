"""The packages are layered as docs/architecture/index.rst lists them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sklearn_hscl"
PAGES = ROOT / "docs/architecture"
INDEX = (PAGES / "index.rst").read_text()


def module_name(path):
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
PUBLIC = {}  # names of the package itself, and the modules that they come from
for statement in ast.parse((PACKAGE / "__init__.py").read_text()).body:
    if isinstance(statement, ast.ImportFrom):
        PUBLIC |= {alias.name: statement.module for alias in statement.names}


def imports(source):
    """Yield the modules of the package that a source imports, at any level."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("sklearn_hscl."))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            if node.module == "sklearn_hscl":
                for alias in node.names:
                    name = f"sklearn_hscl.{alias.name}"
                    if alias.name != "__version__":
                        yield name if name in FILES else PUBLIC[alias.name]
            elif node.module.startswith("sklearn_hscl."):
                for alias in node.names:  # a module of a package, or a name of a module
                    name = f"{node.module}.{alias.name}"
                    yield name if name in FILES else node.module


def drawn_layers():
    """Return the drawings of layers: for each one, the layer of each name, 0 on top."""
    for block in re.findall(r"code-block:: text\n\n((?:    .*\n)+)", INDEX):
        layers = re.split(r"    -+\n", block)
        names = (re.findall(r"^    (\w+) ", layer, re.MULTILINE) for layer in layers)
        yield {name: i for i, layer in enumerate(names) for name in layer}


PACKAGE_LAYERS, TRAINING_LAYERS = drawn_layers()
DRAWINGS = {"sklearn_hscl": PACKAGE_LAYERS, "sklearn_hscl.training": TRAINING_LAYERS}


@pytest.mark.parametrize("package", DRAWINGS)
def test_everything_has_a_layer(package):
    inside = [name for name in FILES if name.startswith(f"{package}.")]
    depth = package.count(".") + 1
    assert {name.split(".")[depth] for name in inside} == set(DRAWINGS[package])


@pytest.mark.parametrize("package", DRAWINGS)
def test_imports_point_downwards(package):
    layers, depth = DRAWINGS[package], package.count(".") + 1
    wrong = []
    for importer, path in FILES.items():
        if not importer.startswith(f"{package}."):
            continue  # such as the package itself, which imports its public names
        here = importer.split(".")[depth]
        for imported in imports(path.read_text()):
            there = (
                imported.split(".")[depth] if imported.startswith(f"{package}.") else here
            )
            if there != here and layers[there] <= layers[here]:
                wrong.append((importer, imported))
    assert not wrong


@pytest.mark.parametrize("package", DRAWINGS)
def test_nothing_could_be_one_layer_lower(package):
    layers, depth = DRAWINGS[package], package.count(".") + 1
    used = {name: set() for name in layers}
    for importer, path in FILES.items():
        if importer.startswith(f"{package}."):
            here = importer.split(".")[depth]
            names = [n for n in imports(path.read_text()) if n.startswith(f"{package}.")]
            used[here] |= {name.split(".")[depth] for name in names} - {here}
    lowest = max(layers.values())
    for name, layer in layers.items():
        assert layer == lowest or layer + 1 in {layers[n] for n in used[name]}, name


def listed_modules():
    """Return the modules that the page lists under each package."""
    pattern = r"^``(sklearn_hscl[\w/]*)``\n~+\n((?:(?!^``).*\n)*)"
    for package, text in re.findall(pattern, INDEX, re.MULTILINE):
        heads = re.findall(r"^- ((?:``\w+``(?:, )?)+):", text, re.MULTILINE)
        modules = [name for head in heads for name in re.findall(r"``(\w+)``", head)]
        yield package.replace("/", "."), modules


def test_the_page_lists_each_module_once():
    listed = [f"{package}.{name}" for package, names in listed_modules() for name in names]
    present = [name for name, path in FILES.items() if path.name != "__init__.py"]
    assert [name for name in listed if name not in present] == []
    assert [name for name in present if name not in listed] == []
    assert len(listed) == len(set(listed))


def named_files(page):
    """Return the files of the repository that a page names."""
    text = (PAGES / page).read_text()
    return re.findall(r"(?<![\w/.])[\w/]+\.(?:py|rst|md|cfg|txt)\b", text)


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.rst")))
def test_named_files_exist(page):
    missing = [
        name
        for name in named_files(page)
        if not any((root / name).exists() for root in (ROOT, PACKAGE))
    ]
    assert not missing


def test_functions_in_the_pictures_exist():
    page = (PAGES / "the_path_of_a_sample.rst").read_text()
    source = "\n".join(path.read_text() for path in FILES.values())
    names = re.findall(r"(\w+)\(\)|<b>(\w+)</b>", page)
    assert names
    missing = [
        function or cls
        for function, cls in names
        if not re.search(rf"^\s*(?:def {function}\(|class {cls}\b)", source, re.MULTILINE)
    ]
    assert not missing


@pytest.mark.parametrize(
    "source",
    [
        "import sklearn_hscl.embedder",
        "from sklearn_hscl import HSCLEmbedder",
        "from sklearn_hscl.embedder import HSCLEmbedder",
        "def f():\n    from sklearn_hscl import embedder",
    ],
)
def test_imports_are_found(source):
    assert list(imports(source)) == ["sklearn_hscl.embedder"]


# How much there is to hold in one's head ---------------------------------------------

IMPORTS = {name: set(imports(path.read_text())) - {name} for name, path in FILES.items()}


def functions():
    """Yield the functions of the package, with the names of their modules."""
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield name, node


def is_internal(module, function):
    """Return whether a function is private, or not exported by a public package."""
    package = module.split(".")[1]
    source = FILES.get(f"sklearn_hscl.{package}")
    exported = source is not None and "__all__" in source.read_text()
    return (function.name.startswith("_") and function.name != "__init__") or not exported


COUNTS = {
    "modules": (len(FILES), 164),
    "modules beside packages at the root": (
        sum(
            path.parent == PACKAGE and path.name != "__init__.py" for path in FILES.values()
        ),
        3,
    ),
    "modules with a single importer": (
        sum(
            path.name != "__init__.py"
            and sum(name in imported for imported in IMPORTS.values()) == 1
            for name, path in FILES.items()
        ),
        30,
    ),
    "modules that one module imports": (max(map(len, IMPORTS.values())), 15),
    "lines that say Any": (
        sum(
            bool(re.search(r"\bAny\b", line))
            for path in FILES.values()
            for line in path.read_text().splitlines()
        ),
        200,
    ),
}


@pytest.mark.parametrize("count", COUNTS)
def test_the_structure_stays_small(count):
    found, limit = COUNTS[count]
    assert found <= limit


# skorch's constructor, and functions that Triton compiles.
MANY_ARGUMENTS = ("training.loop.net", "losses.kernels.triton")


def test_internal_functions_take_at_most_six_arguments():
    too_many = []
    for module, function in functions():
        arguments = function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
        n_arguments = len([n for n in names if n not in ("self", "cls")])
        n_arguments += len(arguments.kwonlyargs)
        is_excused = any(part in module for part in MANY_ARGUMENTS)
        if n_arguments > 6 and is_internal(module, function) and not is_excused:
            too_many.append((module, function.name, n_arguments))
    public = {("sklearn_hscl.embedder", "__init__")}
    assert [found for found in too_many if found[:2] not in public] == []
