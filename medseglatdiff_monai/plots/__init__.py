"""Pictures: the panel of an ensemble, samples beside raters, and a codec's reconstructions."""

from .comparison import ComparedCase, plot_comparison, to_picture
from .panel import plot_panel
from .reconstruction import RebuiltImage, plot_reconstructions

__all__ = ["ComparedCase", "RebuiltImage", "plot_comparison", "plot_panel", "plot_reconstructions", "to_picture"]
