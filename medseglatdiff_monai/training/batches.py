"""``prepare_batch`` of every stage: from the loader's batch to the network's input."""

from __future__ import annotations

import math
from typing import Any

import torch
from monai.engines import PrepareBatch

from ..errors import InputError
from .augmentation import BatchAugmentation, TransformAugmentation
from .mask_latents import MaskLatents
from .targets import TARGETS


def _load_batch(batch: dict, device: Any, non_blocking: bool, keys: tuple[str, ...]) -> list[torch.Tensor]:
    tensors = []
    for key in keys:
        if key not in batch:
            raise InputError(f"A batch has no '{key}', only {sorted(batch)}. Give the dataset's items this key.")
        value = batch[key].as_tensor() if hasattr(batch[key], "as_tensor") else batch[key]
        tensors.append(value.to(device, non_blocking=non_blocking))
    return tensors


class _Augmented(PrepareBatch):
    def __init__(self, augmentation: BatchAugmentation | TransformAugmentation | None = None) -> None:
        self.augmentation = augmentation

    def _load(self, batchdata: dict, device: Any, non_blocking: bool) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = _load_batch(batchdata, device, non_blocking, ("image", "label"))
        image = image.float()
        return self.augmentation(image, label) if self.augmentation is not None else (image, label)


class PrepareImages(_Augmented):
    """Image codec: the image is input and target."""

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (image, image)."""
        image, _ = self._load(batchdata, device, non_blocking)
        return image, image


class PrepareMasks(_Augmented):
    """Mask codec: one rater's mask of each case is input and target.

    Where few raters marked anything, most masks would be empty and teach nothing, so a non-empty mask is chosen if
    there is one, except in a share of ``empty_share`` of the choices.

    Args:
        empty_share: share of the choices that are made among all raters, empty masks included.
        augmentation: see :class:`BatchAugmentation`.
    """

    def __init__(self, empty_share: float = 0.1, augmentation: BatchAugmentation | None = None) -> None:
        super().__init__(augmentation)
        self.empty_share = empty_share

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (masks, masks), each (B, 1, H, W) float32."""
        _, label = self._load(batchdata, device, non_blocking)
        marked = label.flatten(2).any(2).float()
        anyone = torch.rand(len(label), 1, device=label.device) < self.empty_share
        # Raters to choose from: all if anyone is allowed or nobody marked, else those who marked.
        weight = torch.where(anyone | (marked.sum(1, keepdim=True) == 0), torch.ones_like(marked), marked)
        rater = torch.multinomial(weight, 1, replacement=True)
        masks = label[torch.arange(len(label), device=label.device)[:, None], rater].float()
        return masks, masks


class _Targets(_Augmented):
    def __init__(
        self, target: str = "random_rater", augmentation: BatchAugmentation | TransformAugmentation | None = None
    ) -> None:
        super().__init__(augmentation)
        if target not in TARGETS:
            raise InputError(f"target is {target!r}; expected one of {', '.join(TARGETS)}.")
        self.target = target

    def _select(self, label: torch.Tensor) -> torch.Tensor:
        """All raters' masks (B, R, H, W), or (B, 1, H, W) of the first or of their consensus."""
        return TARGETS[self.target](label)


class PrepareDenoising(_Targets):
    """Segmenter: an image and its target masks, to which a denoiser's draws of noise are added.

    Args:
        draws: draws of noise and timestep for each image.
        target: ``"random_rater"``: the raters in random order, each equally often, including those who marked nothing;
            ``"first_rater"``: that mask in every draw; ``"consensus"``: the consensus of at least half of the raters.
        augmentation: see :class:`BatchAugmentation`.
        latents: precomputed latents of the training masks, made for the same target and flips; ``None``: the network
            encodes the masks at every step.

    Raises:
        InputError: unknown target, or latents that were made for the other one.
    """

    def __init__(
        self,
        draws: int = 1,
        target: str = "random_rater",
        augmentation: BatchAugmentation | TransformAugmentation | None = None,
        latents: MaskLatents | None = None,
    ) -> None:
        super().__init__(target, augmentation)
        flips_only = isinstance(augmentation, BatchAugmentation) and not augmentation.is_affine
        if latents is not None and augmentation is not None and not flips_only:
            raise InputError(
                "Latents are kept only for flips and rotations by 90 degrees, and the augmentation does more: train "
                "with --cache_latents false."
            )
        if latents is not None and latents.target != target:
            raise InputError(f"target is {target!r}, the latents were made for {latents.target!r}.")
        self.latents = latents
        self.draws = draws

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (image, label, (masks[, latents]), {}); masks (B, draws, H, W), latents (B, draws, d, h, w)."""
        image, label = _load_batch(batchdata, device, non_blocking, ("image", "label"))
        image, symmetry = image.float(), None
        if isinstance(self.augmentation, BatchAugmentation):
            symmetry = self.augmentation.draw(image)
            image, label = self.augmentation(image, label, symmetry)
        elif self.augmentation is not None:
            image, label = self.augmentation(image, label)
        candidates = self._select(label)
        raters = candidates.shape[1]
        if raters == 1:
            order = torch.zeros(len(label), self.draws, dtype=torch.long, device=label.device)
        else:
            rounds = math.ceil(self.draws / raters)
            order = torch.rand(rounds, len(label), raters, device=label.device).argsort(-1)
            order = order.transpose(0, 1).flatten(1)[:, : self.draws]
        masks = candidates[torch.arange(len(label), device=label.device)[:, None], order].float()
        if self.latents is None:
            return image, label, (masks,), {}
        if "case" not in batchdata:
            raise InputError(f"A batch has no 'case', only {sorted(batchdata)}: latents are kept by case.")
        return image, label, (masks, self.latents(batchdata["case"], order, symmetry)), {}


class PrepareScoring(_Targets):
    """Scoring stage: an image and the masks that its samples are scored against.

    Args:
        target: a key of :data:`~medseglatdiff_monai.training.targets.TARGETS`.
        augmentation: see :class:`BatchAugmentation`.

    Raises:
        InputError: unknown target.
    """

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (image, label, (raters,), {}); raters (B, R, H, W) float32, R = 1 unless it is all of them."""
        image, label = self._load(batchdata, device, non_blocking)
        return image, label, (self._select(label).float(),), {}


class PrepareEnsemble(PrepareBatch):
    """Evaluation: the image, all raters' masks and the case ids that the noise belongs to."""

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (image, label, (), {"cases": list of ids})."""
        image, label = _load_batch(batchdata, device, non_blocking, ("image", "label"))
        cases = batchdata.get("case")
        return image.float(), label, (), {"cases": list(cases)} if cases is not None else {}


class PrepareInference(PrepareBatch):
    """Inference: the image alone, which is all that ``inference.json`` loads."""

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (image, None)."""
        _load_batch(batchdata, device, non_blocking, ("image",))
        # With its metadata: postprocessing needs it to map the masks back.
        return batchdata["image"].to(device, non_blocking=non_blocking).float(), None
