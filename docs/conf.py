"""Settings of Sphinx for these docs: ``make docs``."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "embedseg-large"
author = "The embedseg_large developers"
copyright = f"2026, {author}"
release = version = installed_version("embedseg-large")

extensions = [
    "commandline",  # _ext: the command reference, from the commands
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
# Notebooks are read from tutorials/*.ipynb, which `make notebooks` makes from tutorials/sources.
exclude_patterns = ["_build", "tutorials/sources", "**/.ipynb_checkpoints", "**/jupyter_execute"]
templates_path = ["_templates"]
default_role = "code"  # numpydoc's single backticks
nitpicky = False
smartquotes = False  # -- is an option more often than a dash

# Markdown and notebooks
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # they are executed by `make notebooks`
nb_merge_streams = True
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

# API
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc sections give shapes and units, which types cannot
autodoc_member_order = "bysource"
# `segment` shows the options that it takes as keywords: its source has other defaults
autodoc_preserve_defaults = False
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# HTML
html_theme = "pydata_sphinx_theme"
html_title = "embedseg-large"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_favicon = "_static/logo.svg"
html_show_sourcelink = False
html_sidebars = {"quickstart": [], "comparison": [], "faq": [], "citing": []}
html_theme_options = {
    "logo": {
        "text": "embedseg-large",
        "image_light": "_static/logo.svg",
        "image_dark": "_static/logo.svg",
    },
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "show_prev_next": True,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
