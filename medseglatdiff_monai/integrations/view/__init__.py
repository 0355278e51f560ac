"""A local web page to look at ensembles: samples, consensus at any threshold, raters' masks beside them."""

from .case import OpenCase, Shown, open_case
from .page import view

__all__ = ["OpenCase", "Shown", "open_case", "view"]
