"""Sphinx: `sphinx-build -W docs site` makes the pages, offline, with warnings as errors."""

from jaxage import __version__

project, author, release = "jaxage", "The jaxage developers", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme, html_title, html_copy_source = "furo", f"jaxage {release}", False
html_show_copyright = False
myst_heading_anchors = 3
autodoc_typehints = "none"  # the signature has them
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
exclude_patterns = ["_build"]
smartquotes = False  # it makes dashes of --options


def _without_colon(app, what, name, obj, options, lines):
    """Of an attribute, napoleon takes what stands before a colon for its type."""
    if what == "attribute" and lines:
        lines[0] = lines[0].replace(": ", " \N{EN DASH} ", 1)


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _without_colon, priority=400)
