"""Data: preparation of data sets, and MONAI transforms for images with the masks of several raters.

Transforms are imported when first used, so that the worker processes of `prepare` start without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
