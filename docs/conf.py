"""Sphinx configuration."""

import warnings
from importlib.metadata import version as installed_version

project = "sklearn-hscl"
author = "the sklearn-hscl developers"
copyright = f"2026, {author}"
version = release = installed_version("sklearn-hscl")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "sklearn-hscl"
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}

autosummary_generate = True
# These methods are scikit-learn's, and refer to scikit-learn's own pages.
autodoc_default_options = {
    "members": True,
    "exclude-members": "set_fit_request, set_partial_fit_request",
}
numpydoc_show_class_members = False
copybutton_prompt_text = ">>> "

# Diagrams are drawn by the browser, in the width of the page.
mermaid_output_format = "raw"
mermaid_height = "auto"

# Pages are built without the network: no intersphinx, and names of other projects are
# written as literals.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    # Only the quickstarts are executed, a few seconds each: the others take longer, and the
    # test suite runs them. The demo is no page.
    "filename_pattern": r"/plot_.*_quickstart\.py",
    "ignore_pattern": r"demo\.py",
    "download_all_examples": False,
    "show_memory": False,
    "reference_url": {"sklearn_hscl": None},
}
warnings.filterwarnings("ignore", message=".*non-interactive.*", category=UserWarning)
