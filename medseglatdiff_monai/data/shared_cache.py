"""Loaded cases that all data sets of a process share.

The stages of a training, and the systems of a suite, read the same files through the same transforms. MONAI's
``CacheDataset`` keeps them as long as one stage lasts; this one finds them again.
"""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from monai.data import CacheDataset
from monai.data.utils import pickle_hashing
from monai.transforms import RandomizableTrait, Transform

from ..console import Progress

# Preprocessings whose cases are kept at a time: codecs and denoisers may each have their own, and so has nnU-Net.
KEPT_PREPROCESSINGS = 3
# With a deadline, the share of the time that is left in which cases are loaded ahead.
LOADING_SHARE = 0.5

# Hashes of the transforms → hash of an item and its files → the loaded case.
_CACHES: OrderedDict[tuple[bytes, ...], dict[bytes, Any]] = OrderedDict()
_HASHES: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()


class SharedCacheDataset(CacheDataset):
    """MONAI's ``CacheDataset`` that takes what another one in this process has loaded.

    A case is the same if its item, its files' sizes and times and the transforms before the first random one are.
    Transforms that cannot be pickled share nothing.

    Args:
        arguments: those of ``CacheDataset``, by name.
        deadline: a point of ``time.monotonic()``: at half of the time until then loading ahead ends, and the other
            cases are loaded when they are first asked for. ``None``: all are loaded ahead.
    """

    def __init__(self, *, deadline: float | None = None, **arguments: Any) -> None:
        self._deadline = deadline
        self._ahead_until: float | None = None
        self._shared: dict[bytes, Any] = {}
        super().__init__(**arguments)

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list:
        self._shared = self._find_cache()
        wanted = range(self.cache_num) if indices is None else indices
        if self._deadline is not None:
            now = time.monotonic()
            self._ahead_until = now + LOADING_SHARE * (self._deadline - now)
        cache = []
        # MONAI's own bar would run into the log.
        with ThreadPool(self.num_workers) as pool, Progress("Loading images", len(wanted), "cases") as progress:
            for item in pool.imap(self._load_cache_item, wanted):
                cache.append(item)
                progress.update()
        self._ahead_until = None
        return cache

    def _load_cache_item(self, idx: int) -> Any:
        key = _key(self.data[idx])
        if key not in self._shared:
            if self._ahead_until is not None and time.monotonic() > self._ahead_until:
                # CacheDataset loads what is None when it is asked for.
                return None
            self._shared[key] = super()._load_cache_item(idx)
        return self._shared[key]

    def _find_cache(self) -> dict[bytes, Any]:
        """The cases that were loaded through the same transforms."""
        first_random = self.transform.get_index_of_first(
            lambda t: isinstance(t, RandomizableTrait) or not isinstance(t, Transform)
        )
        try:
            key = tuple(map(_hash_at_first_sight, self.transform.transforms[:first_random]))
        except (pickle.PicklingError, AttributeError, TypeError):
            return {}
        cache = _CACHES.setdefault(key, {})
        _CACHES.move_to_end(key)
        while len(_CACHES) > KEPT_PREPROCESSINGS:
            _CACHES.popitem(last=False)
        return cache


def _hash_at_first_sight(transform: Any) -> bytes:
    """Hash of a transform before it has loaded anything: MONAI's readers change their state, not what they give."""
    if transform not in _HASHES:
        _HASHES[transform] = pickle_hashing(transform)
    return _HASHES[transform]


def _key(item: Mapping[str, Any]) -> bytes:
    """Hash of a datalist item, and of the size and time of the files that it names."""
    files = [Path(str(item[name])).stat() for name in ("image", "label") if name in item]
    return pickle_hashing([dict(item), [(file.st_size, file.st_mtime_ns) for file in files]])
