"""The bundles that the page offers, each loaded when it is first chosen."""

from __future__ import annotations

from ...bundle.config import bundles_dir
from ...bundle.segmenter import Segmenter, load_segmenter


class Bundles:
    """The bundle of the command, and those under ``bundles/`` that have weights.

    Args:
        segmenter: that of the command, with its weights and overrides.
        seed: of the others.
    """

    def __init__(self, segmenter: Segmenter, seed: int) -> None:
        self.first = segmenter.bundle_dir.name
        self.seed = seed
        self._loaded = {self.first: segmenter}

    @property
    def names(self) -> list[str]:
        """The command's first."""
        paths = bundles_dir().glob("*/models/model.pt")
        return list(dict.fromkeys([self.first, *sorted(path.parents[1].name for path in paths)]))

    def load(self, name: str) -> Segmenter:
        """Load a bundle by its name.

        Raises:
            InputError: see :func:`~medseglatdiff_monai.bundle.segmenter.load_segmenter`.
        """
        if name not in self._loaded:
            self._loaded[name] = load_segmenter(name, seed=self.seed)
        return self._loaded[name]
