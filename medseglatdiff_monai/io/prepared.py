"""Reading the files of a prepared case as a MONAI transform."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, PILReader
from monai.transforms import EnsureChannelFirst, LoadImage, MapTransform, Transform

from ..console import quiet_loaders
from ..errors import InputError
from .formats import NIFTI_SUFFIXES
from .nifti import count_bytes
from .pictures import read_picture

quiet_loaders()


class LoadCase(Transform):
    """Load one file of a prepared folder, row first: ``images/*.png``, ``images/*.nii.gz`` or ``masks/*.nii.gz``.

    Args:
        is_label: whether the file holds raters' masks, (row, column[, slice], rater).
        spatial_dims: 2, or 3 for volumes (row, column, slice).
    """

    def __init__(self, is_label: bool = False, spatial_dims: int = 2) -> None:
        self.is_label = is_label
        self.spatial_dims = spatial_dims
        dtype = np.uint8 if is_label else np.float32
        self._nifti = LoadImage(reader="NibabelReader", image_only=True, dtype=dtype)
        self._raster = LoadImage(reader=PILReader(reverse_indexing=False), image_only=True, dtype=dtype)

    def __call__(self, path: str | Path) -> torch.Tensor:
        """Load the file.

        Returns:
            A MetaTensor: the image, (C, H, W[, D]) float32 in the file's own grey values, or the masks,
            (R, H, W[, D]) uint8 in {0, 1}.

        Raises:
            InputError: the file is missing or cannot be read.
        """
        if not Path(path).is_file():
            raise InputError(
                f"{path}: no such file; prepare the data set again, or give the folder of its dataset.json."
            )
        try:
            # MONAI's readers take what they find, damaged or not.
            if str(path).lower().endswith(NIFTI_SUFFIXES):
                count_bytes(Path(path))
                array = self._nifti(str(path))
            else:
                read_picture(Path(path))
                array = self._raster(str(path))
        except InputError:
            raise
        except Exception as error:  # MONAI's readers raise all kinds
            raise InputError(f"{path}: unreadable or truncated ({type(error).__name__}); prepare it again.") from error
        # Without a further axis a mask is a single rater's and an image is grey; else the last holds raters or colours.
        return EnsureChannelFirst(channel_dim="no_channel" if array.ndim == self.spatial_dims else -1)(array)


class LoadCased(MapTransform):
    """Dictionary form of `LoadCase`.

    Args:
        keys: keys whose paths are to be loaded; "label" holds raters' masks.
        allow_missing_keys: skip keys that are absent, e.g. "label" where only an image is given.
        spatial_dims: see `LoadCase`.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        allow_missing_keys: bool = False,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self._load_image = LoadCase(spatial_dims=spatial_dims)
        self._load_label = LoadCase(is_label=True, spatial_dims=spatial_dims)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace paths by images and masks; arrays and tensors (C, H, W[, D]), which MONAI Deploy passes, stay.

        ``num_channels`` and ``num_raters``, which
        :func:`~medseglatdiff_monai.data.datalist.load_datalist` adds, are compared with the files and taken out.

        Raises:
            InputError: none of the keys; an array with more or fewer axes; a file that is missing, cannot be read, or
                has another number of channels or raters.
        """
        if not isinstance(data, Mapping) or not any(key in data for key in self.keys):
            found = f"the keys {', '.join(map(repr, data))}" if isinstance(data, Mapping) else type(data).__name__
            wanted = " or ".join(map(repr, self.keys))
            raise InputError(f"Found {found}; expected a dictionary with {wanted}.")
        loaded = dict(data)
        channels, raters = loaded.pop("num_channels", None), loaded.pop("num_raters", None)
        for key in self.key_iterator(loaded):
            value, is_label = loaded[key], key == "label"
            if isinstance(value, np.ndarray | torch.Tensor):
                if value.ndim != self._load_image.spatial_dims + 1:
                    axes = "(C, H, W, D)" if self._load_image.spatial_dims == 3 else "(C, H, W)"
                    raise InputError(f"{key!r} has the shape {tuple(value.shape)}; expected {axes}.")
                loaded[key] = value if isinstance(value, torch.Tensor) else MetaTensor(torch.from_numpy(value.copy()))
            else:
                loaded[key] = (self._load_label if is_label else self._load_image)(value)
                _check_length(value, loaded[key], is_label, raters if is_label else channels)
        return loaded


def _check_length(path: str | Path, loaded: torch.Tensor, is_label: bool, expected: int | None) -> None:
    """Compare a file's channels or raters with what the data set says of all cases; ``None``: it says nothing."""
    if expected is not None and len(loaded) != expected:
        what = "raters' masks" if is_label else "channels"
        raise InputError(
            f"{path}: holds {len(loaded)} {what}; expected {expected}, as its dataset.json says of all cases. "
            "Prepare data of one kind together, or correct num_raters and num_channels there."
        )
