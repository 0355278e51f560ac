"""The bundles that the page offers, each loaded when it is first chosen."""

from __future__ import annotations

from ...bundle.folders import known_bundles
from ...bundle.segmenter import Segmenter, load_segmenter


class Bundles:
    """The bundle of the command, and those that are found by name and have weights.

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
        trained = [name for name, root in known_bundles().items() if (root / "models" / "model.pt").is_file()]
        return list(dict.fromkeys([self.first, *trained]))

    def load(self, name: str) -> Segmenter:
        """Load a bundle by its name.

        Raises:
            InputError: see :func:`~medseglatdiff_monai.bundle.segmenter.load_segmenter`.
        """
        if name not in self._loaded:
            self._loaded[name] = load_segmenter(name, seed=self.seed)
        return self._loaded[name]
