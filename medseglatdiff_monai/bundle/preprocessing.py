"""MONAI's chain of transforms, whose errors about bad input reach the caller as they were raised."""

from __future__ import annotations

from typing import Any

from monai.transforms import Compose

from ..errors import unwrapped_errors


class UnwrappedCompose(Compose):
    """MONAI's ``Compose``, but an ``InputError`` of a transform is not wrapped into a ``RuntimeError``."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See MONAI."""
        with unwrapped_errors():
            return super().__call__(*arguments, **options)
