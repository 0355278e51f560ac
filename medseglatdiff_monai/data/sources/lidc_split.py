"""The published split of LIDC-IDRI by patient, of the ambiguous-segmentation benchmark (arXiv 2504.05977).

`lidc_split.csv` lists its training and validation patients; the others that have a nodule are its test patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..splits import read_split_file


class PublishedLIDCSplit:
    """For the sources of LIDC-IDRI: split as published where the user says nothing else."""

    def default_split(self, groups: Sequence[str]) -> dict[str, str]:
        """Patient ("LIDC-IDRI-0001") to ``training``, ``validation`` or ``test``."""
        listed = read_split_file(Path(__file__).with_suffix(".csv")).splits
        return {group: listed.get(group, "test") for group in groups}
