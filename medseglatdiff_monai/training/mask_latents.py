"""Mask latents of a training set, computed once: those of every rater's mask under every flip and rotation.

The mask codec is frozen while the denoiser is trained, so x_0 = scale · standardise(E(T_k m)) depends only on the
mask m and the symmetry T_k that augmentation drew. It is computed from the flipped or rotated mask, since
E(T_k m) ≠ T_k E(m) for a convolutional encoder. Image latents are not kept: by default the image encoder is trained
together with the denoiser, and augmented intensities make every image different.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from ..errors import InputError
from ..networks.segmenter import LatentDiffusionSegmenter
from ..networks.symmetries import apply_symmetry, count_symmetries
from .targets import TARGETS

# Masks that the encoder takes at a time, symmetries included.
MASKS_AT_ONCE = 256

logger = logging.getLogger(__name__)


class MaskLatents:
    """Scaled mask latents x_0 by case, rater and symmetry, in half precision in main memory.

    They take 2 · S · d · h · w bytes per mask (S = 8 symmetries of a square, 4 of a rectangle, 1 without flips); empty
    masks share one entry. At d = 8 that is 32 KiB for a mask of 64 × 64 with f = 4, and 128 KiB for one of 256 × 256
    with f = 8: 0.85 GB for the 26,000 marked masks of the 9,209 LIDC slices of the benchmark's training part. Every
    process of a distributed run keeps all of them. Half precision changes x_0 by less than 0.1%, less than mixed
    precision does.
    Filling the store costs as many encodings as S · R / draws epochs of training, so it pays off for longer training.

    Args:
        dataset: the training set; items have ``label`` (R, H, W) in {0, 1}, all of one size, and ``case``, a unique id.
        segmenter: network whose mask codec encodes, on its device.
        target: a key of :data:`~medseglatdiff_monai.training.targets.TARGETS`, whose masks are kept.
        flips: keep all symmetries; if False, only the masks as they are (k = 0).

    Raises:
        InputError: an empty data set, a case without id, two with the same id, or masks that differ in size or number.
    """

    def __init__(
        self, dataset: Dataset, segmenter: LatentDiffusionSegmenter, target: str = "random_rater", flips: bool = True
    ) -> None:
        self.target = target
        self._positions: dict[str, int] = {}
        items = range(len(dataset))  # type: ignore[arg-type]
        marked: list[torch.Tensor] = []
        shape: tuple[int, ...] | None = None
        for i in items:
            case, masks = self._read(dataset, i)
            if case in self._positions:
                raise InputError(f"Two training cases are called {case!r}: latents are kept by case. Rename one.")
            shape = shape or tuple(masks.shape)
            if tuple(masks.shape) != shape:
                raise InputError(
                    f"The masks of case {case} are {tuple(masks.shape)}, those of the cases before it {shape}. Latents "
                    "are kept for masks of one size and number of raters: resize them, or train with "
                    "--cache_latents false."
                )
            self._positions[case] = i
            marked.append(masks.flatten(1).any(1))
        if shape is None:
            raise InputError("The training set is empty: there are no masks whose latents could be kept.")

        # Row 0 is the empty mask, which is the same under every symmetry.
        is_marked = torch.stack(marked)
        self._rows = torch.where(is_marked, is_marked.flatten().cumsum(0).view_as(is_marked), 0)
        number = count_symmetries(*shape[1:]) if flips else 1
        empty = self._encode(torch.zeros(1, 1, *shape[1:]), segmenter)
        self._latents = torch.empty(int(is_marked.sum()) + 1, number, *empty.shape[1:], dtype=torch.float16)
        self._latents[0] = empty
        at_once = max(1, MASKS_AT_ONCE // (number * shape[0]))
        for start in range(0, len(items), at_once):
            part = items[start : start + at_once]
            masks = torch.cat([self._read(dataset, i)[1] for i in part])[is_marked[part.start : part.stop].flatten()]
            if len(masks):
                flipped = masks[:, None].repeat_interleave(number, dim=0)
                flipped = apply_symmetry(flipped, torch.arange(number).repeat(len(masks)))
                first = int(self._rows[part.start : part.stop].max()) - len(masks) + 1
                self._latents[first : first + len(masks)] = self._encode(flipped, segmenter).unflatten(0, (-1, number))
        logger.info("Mask latents kept: %d, %.0f MB", len(self._latents), self._latents.nbytes / 1e6)

    def __call__(self, cases: Sequence[str], raters: torch.Tensor, symmetry: torch.Tensor | None) -> torch.Tensor:
        """Look latents up.

        Args:
            cases: B ids.
            raters: (B, M) int64, the raters of each case's draws; 0 throughout where one mask is kept.
            symmetry: (B,) int64, the images' symmetries; ``None`` if they were not augmented.

        Returns:
            x_0 (B, M, d, h, w) float32 on the device of ``raters``.

        Raises:
            InputError: a case that is not in the training set, or a symmetry whose latents were not kept.
        """
        unknown = [case for case in cases if case not in self._positions]
        if unknown:
            raise InputError(f"Case {unknown[0]!r} is not in the training set whose latents were kept.")
        symmetry = torch.zeros(len(cases), dtype=torch.long) if symmetry is None else symmetry.cpu()
        if int(symmetry.max()) >= self._latents.shape[1]:
            raise InputError(
                f"Symmetry {int(symmetry.max())} was drawn, and latents of {self._latents.shape[1]} were kept. Give "
                "MaskLatents the augmentation's own flips."
            )
        positions = torch.tensor([self._positions[case] for case in cases])
        rows = self._rows[positions[:, None], raters.cpu()]
        return self._latents[rows, symmetry[:, None]].to(raters.device).float()

    def _read(self, dataset: Dataset, index: int) -> tuple[str, torch.Tensor]:
        """Id and masks (R, H, W) bool, or (1, H, W) of the first rater or of the consensus."""
        item = dataset[index]
        if "case" not in item or "label" not in item:
            raise InputError(f"Training item {index} has {sorted(item)}; latents are kept by 'case' of each 'label'.")
        label = torch.as_tensor(item["label"]) > 0
        return str(item["case"]), TARGETS[self.target](label[None])[0]

    @staticmethod
    def _encode(masks: torch.Tensor, segmenter: LatentDiffusionSegmenter) -> torch.Tensor:
        device = next(segmenter.parameters()).device
        parts = [segmenter.encode_masks(part.to(device)).cpu() for part in masks.split(MASKS_AT_ONCE)]
        return torch.cat(parts).half()
