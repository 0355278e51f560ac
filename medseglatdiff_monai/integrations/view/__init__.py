"""A local web page to look at ensembles: samples, consensus at any threshold, raters' masks beside them."""

from .case import Drawn, OpenCase, Sizes, open_case
from .page import view

__all__ = ["Drawn", "OpenCase", "Sizes", "open_case", "view"]
