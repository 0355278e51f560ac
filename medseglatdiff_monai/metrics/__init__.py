"""Metrics of an ensemble of masks against several raters, as functions of tensors and as MONAI cumulative metrics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
