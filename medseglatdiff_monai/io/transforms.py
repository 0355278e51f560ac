"""MONAI transforms that open an image and write its masks as `predict` does, for bundles that MONAI runs by itself.

``LoadImaged`` and ``SaveImaged`` would do neither: the one reads a NIfTI along its own axes, the other takes rows of a
picture for columns.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from ..errors import InputError
from .raster import RasterInput
from .reading import VolumeInput, open_input
from .writing import save_png, save_volume


class LoadInputd(MapTransform):
    """Load users' files row first, as :func:`~medseglatdiff_monai.predict.image.segment_image` shows them the network.

    Args:
        keys: keys whose paths are to be loaded; the path is kept in the image's meta.
        channels: of the network's image, 1 or 3.
        spatial_dims: 2, or 3 for volumes, (row, column, slice) as `prepare` writes them.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.io.open_input`; a volume for a network of slices, or the reverse.
    """

    def __init__(self, keys: KeysCollection, channels: int, spatial_dims: int = 2) -> None:
        super().__init__(keys)
        self.channels = channels
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace paths by images (C, H, W[, D]); tensors, which MONAI Deploy passes, stay as they are."""
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            if not isinstance(loaded[key], torch.Tensor):
                loaded[key] = self._load(Path(loaded[key]))
        return loaded

    def _load(self, path: Path) -> MetaTensor:
        source = _open(path, self.channels, self.spatial_dims)
        if self.spatial_dims == 3:
            assert isinstance(source, VolumeInput)
            image = source.read(0, source.shape[2]).transpose(1, 2)
            affine = source.affine[:, [1, 0, 2, 3]]
        else:
            image = source.read_plane()
            affine = np.asarray(image.affine)
        return MetaTensor(
            convert_to_tensor(image).contiguous(), affine=torch.as_tensor(affine), meta={"filename_or_obj": str(path)}
        )


class SaveImageAsInputd(MapTransform):
    """Write masks and maps in the geometry and the kind of the item's "image": PNG for a picture, else NIfTI.

    Args:
        keys: keys of the values, (1, H, W[, D]) in [0, 1] on the grid that `LoadInputd` gave.
        output_dir: where ``NAME_POSTFIX.png`` or ``NAME_POSTFIX.nii.gz`` go; created if needed.
        postfixes: one for each key.
        dtypes: NumPy's name of the type in a NIfTI for each key.
        channels: see `LoadInputd`.
        spatial_dims: see `LoadInputd`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        postfixes: Sequence[str],
        dtypes: Sequence[str],
        channels: int,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.postfixes = tuple(postfixes)
        self.dtypes = tuple(dtypes)
        self.channels = channels
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files of one image; the item stays as it is."""
        item = dict(data)
        source = _open(Path(item["image"].meta["filename_or_obj"]), self.channels, self.spatial_dims)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for key, postfix, dtype in self.key_iterator(item, self.postfixes, self.dtypes):
            values = torch.as_tensor(item[key]).as_subclass(torch.Tensor)[0].cpu()
            stem = self.output_dir / f"{source.stem}_{postfix}"
            if isinstance(source, RasterInput):
                save_png(values.numpy(), stem.with_name(f"{stem.name}.png"))
                continue
            if self.spatial_dims == 3:
                volume = values.numpy().transpose(1, 0, 2)
            else:
                volume = source.paste(values, source.read_plane())
            save_volume(volume.astype(dtype), source, stem.with_name(f"{stem.name}.nii.gz"))
        return item


def _open(path: Path, channels: int, spatial_dims: int) -> RasterInput | VolumeInput:
    source = open_input(path, channels)
    volume = isinstance(source, VolumeInput) and source.needs_place
    if volume and spatial_dims == 2:
        raise InputError(
            f"{path}: a volume; expected a picture or a NIfTI of one slice. 'medseglatdiff predict' with --point cuts "
            "slices out of volumes."
        )
    if spatial_dims == 3 and not volume:
        raise InputError(f"{path}: a single image; expected a NIfTI of several slices.")
    return source
