"""Pictures: the panel of an ensemble, and the comparison of samples with raters."""

from .comparison import ComparedCase, draw_comparison
from .panel import draw_panel

__all__ = ["ComparedCase", "draw_comparison", "draw_panel"]
