"""Sphinx configuration."""

import warnings
from importlib.metadata import version as installed_version
from urllib.request import urlopen

from docutils import nodes
from latex2mathml.converter import convert

from sklearn_hscl import BatchedGridSearchCV, HSCLEmbedder
from sklearn_hscl.model_selection import BatchedRandomizedSearchCV

project = "sklearn-hscl"
author = "the sklearn-hscl developers"
copyright = f"2026, {author}"
version = release = installed_version("sklearn-hscl")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "sklearn-hscl"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}

toc_object_entries_show_parents = "hide"
autosummary_generate = True
# These methods are scikit-learn's, whose pages explain them.
autodoc_default_options = {
    "members": True,
    "exclude-members": "set_fit_request, set_partial_fit_request",
}
autodoc_typehints = "none"  # types are in the lists of parameters
numpydoc_show_class_members = False
copybutton_prompt_text = ">>> "

# Diagrams are drawn by the browser, in the width of the page.
mermaid_output_format = "raw"
mermaid_height = "auto"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    # What takes at most half a minute is executed. The others have an image of an earlier
    # run, and the test suite runs them. The demo is no page.
    "filename_pattern": r"/plot_(?!beta_images|imbalance|intent_routing|retrieval)",
    "ignore_pattern": r"demo\.py",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "reference_url": {"sklearn_hscl": None},
}
warnings.filterwarnings("ignore", message=".*non-interactive.*", category=UserWarning)


def reachable(url: str) -> bool:
    """Return whether the inventory of a project can be read."""
    try:
        with urlopen(f"{url}objects.inv", timeout=3):
            return True
    except OSError:
        return False


# Without the network, names of other projects are literals, and nothing fails.
PROJECTS = {
    "sklearn": "https://scikit-learn.org/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}
intersphinx_mapping = {
    name: (url, None) for name, url in PROJECTS.items() if reachable(url)
}
intersphinx_timeout = 10
# Labels and terms in docstrings that are inherited from scikit-learn.
OF_SKLEARN = {
    "classes_",
    "df_output_transform",
    "fit",
    "metadata_routing",
    "sphx_glr_auto_examples_miscellaneous_plot_set_output.py",
}

# The "?" of an estimator in the gallery leads to its page.
for estimator, package in {
    HSCLEmbedder: "sklearn_hscl",
    BatchedGridSearchCV: "sklearn_hscl.model_selection",
    BatchedRandomizedSearchCV: "sklearn_hscl.model_selection",
}.items():
    page = f"{package}.{estimator.__name__}.html"
    estimator._doc_link_module = "sklearn_hscl"
    estimator._doc_link_template = f"../reference/generated/{page}"


def mathml(self, node):
    """Write a formula as MathML, which browsers draw without scripts or a network."""
    display = "block" if node.tagname == "math_block" else "inline"
    self.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def literal_without_network(app, env, node, contnode):
    """Return the text of a reference to scikit-learn that intersphinx did not resolve."""
    return contnode if node["reftarget"] in OF_SKLEARN else None


def setup(app):
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("missing-reference", literal_without_network, priority=900)
