"""Pictures: the panel of an ensemble, and the comparison of samples with raters."""

from .comparison import ComparedCase, plot_comparison
from .panel import plot_panel

__all__ = ["ComparedCase", "plot_comparison", "plot_panel"]
