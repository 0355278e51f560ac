"""Ensembles of masks: how they are sampled, fused, and post-processed.

Names are imported when first used, so that arguments can be checked without torch and MONAI.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
