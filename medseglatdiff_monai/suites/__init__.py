"""Suites of experiments: several systems trained and scored under the same settings, and compared with intervals.

Names are imported when first used, so that arguments can be checked without torch, MONAI and pandas.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
