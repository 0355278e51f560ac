"""The cases of a training part in memory."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.pool import ThreadPool

from monai.data import CacheDataset

from ..console import Progress

__all__ = ["CachedCases"]


class CachedCases(CacheDataset):
    """MONAI's ``CacheDataset``, whose progress is told as that of all commands; its own bar runs into the log."""

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list:
        indices = list(range(self.cache_num)) if indices is None else indices
        cache = []
        with ThreadPool(self.num_workers) as pool, Progress("Loading images", len(indices), "cases") as progress:
            for item in pool.imap(self._load_cache_item, indices):
                cache.append(item)
                progress.update()
        return cache
