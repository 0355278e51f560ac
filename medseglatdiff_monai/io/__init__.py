"""What `predict` reads and writes: PNG, JPEG, NIfTI, DICOM in; masks, maps, DICOM SEG and SR out; prepared cases.

Names are imported when first used, so that arguments can be checked without torch and MONAI.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
