"""Data: preparation of data sets, and MONAI transforms for images with the masks of several readers.

Transforms are imported when first used, so that the worker processes of `prepare` start without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# At once: the function must take the name over from the submodule of the same name, whichever is imported first.
from medseglatdiff_monai.data.prepare import prepare

if TYPE_CHECKING:
    from medseglatdiff_monai.data.nodule_crop import ExtractNoduleCrop, ExtractNoduleCropd, ExtractSlice, ExtractSliced
    from medseglatdiff_monai.data.transforms import (
        LoadCase,
        LoadCased,
        NormalizeCrop,
        NormalizeCropd,
        RandomReader,
        RandomReaderd,
        ReaderConsensus,
        ReaderConsensusd,
        WindowHU,
        WindowHUd,
    )

__all__ = [
    "ExtractNoduleCrop",
    "ExtractNoduleCropd",
    "ExtractSlice",
    "ExtractSliced",
    "LoadCase",
    "LoadCased",
    "NormalizeCrop",
    "NormalizeCropd",
    "RandomReader",
    "RandomReaderd",
    "ReaderConsensus",
    "ReaderConsensusd",
    "WindowHU",
    "WindowHUd",
    "prepare",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "nodule_crop" if name.startswith("Extract") else "transforms"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
