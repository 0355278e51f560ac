"""Augmentation of whole batches on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.transforms import Compose

from ..errors import InputError
from ..networks.symmetries import apply_symmetry, draw_symmetry


@dataclass
class BatchAugmentation:
    """Flips and rotations, an affine map, gamma, brightness, contrast and colour, drawn per case, on a whole batch.

    Args:
        flips: draw one of the eight symmetries of the square (four of a rectangle: flips only), or of the eight flips
            of a volume.
        gamma: largest log-gamma, e.g. 0.3 for exponents between exp(-0.3) and exp(0.3).
        brightness: largest shift of the intensities.
        contrast: largest relative change of the contrast about the mean.
        colour: largest relative change of each channel by itself.
        rotation: largest angle in degrees, on top of the flips; images only, not volumes.
        scale: largest log-factor of the size, e.g. 0.2; images only.
        shift: largest shift as a share of the side; images only.
        window: side of the central part that is returned; ``None``: the whole image. If the image is larger than the
            window, rotations and shifts bring real surroundings into it; beyond the image they are mirrored.

    Raises:
        InputError: a window without rotation, scale or shift.
    """

    flips: bool = True
    gamma: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    colour: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    window: int | None = None

    def __post_init__(self) -> None:
        """Check the window."""
        if self.window is not None and not self.is_affine:
            raise InputError(
                f"window = {self.window} goes with rotation, scale or shift: set one of them, or leave it out."
            )

    @property
    def is_affine(self) -> bool:
        """Whether images are resampled, so that a symmetry of the square does not describe the change."""
        return max(self.rotation, self.scale, self.shift) > 0

    def draw(self, image: torch.Tensor) -> torch.Tensor | None:
        """Draw the symmetry (B,) in [0, 8) of each case of a batch; ``None`` without ``flips``."""
        return draw_symmetry(len(image), *image.shape[2:], device=image.device) if self.flips else None

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, symmetry: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment images (B, C, H, W[, D]) in [0, 1] and labels (B, R, H, W[, D]) in the same way; ranges are kept.

        ``symmetry`` is what :meth:`draw` gave, for callers who need to know it; it is drawn here otherwise.
        """
        shape = (len(image), *([1] * (image.ndim - 1)))
        draw = lambda largest: (torch.rand(shape, device=image.device) * 2 - 1) * largest  # noqa: E731
        symmetry = self.draw(image) if symmetry is None else symmetry
        if symmetry is not None:
            image, label = apply_symmetry(image, symmetry), apply_symmetry(label, symmetry)
        if self.is_affine:
            image, label = self._resample(image, label)
        if self.gamma > 0:
            image = image.clamp(0, 1) ** draw(self.gamma).exp()
        if self.contrast > 0:
            mean = image.mean(dim=tuple(range(1, image.ndim)), keepdim=True)
            image = (image - mean) * (1 + draw(self.contrast)) + mean
        if self.colour > 0:
            factor = torch.rand(*image.shape[:2], *shape[2:], device=image.device) * 2 - 1
            image = image * (1 + self.colour * factor)
        if self.brightness > 0:
            image = image + draw(self.brightness)
        return image.clamp(0, 1), label

    def _resample(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if image.ndim != 4:
            raise InputError("rotation, scale and shift are for images; found volumes: set them to 0.")
        batch, side = len(image), self.window or image.shape[2]
        out = (side, self.window or image.shape[3])
        angle, scale, *shift = (torch.rand(4, batch, device=image.device) * 2 - 1).unbind()
        angle, scale = torch.deg2rad(angle * self.rotation), (scale * self.scale).exp()
        cosine, sine = scale * angle.cos(), scale * angle.sin()
        # grid_sample counts in half sides of the image, so the rotation of a rectangle needs its aspect ratio.
        height, width = image.shape[2:]
        across = torch.stack([cosine * out[1], -sine * out[0], 2 * self.shift * shift[0] * out[1]], 1) / width
        down = torch.stack([sine * out[1], cosine * out[0], 2 * self.shift * shift[1] * out[0]], 1) / height
        grid = F.affine_grid(torch.stack([across, down], 1), [batch, 1, *out], align_corners=False)
        image = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
        masks = F.grid_sample(label.float(), grid, padding_mode="reflection", align_corners=False) >= 0.5
        return image, masks.to(label.dtype)


@dataclass
class TransformAugmentation:
    """MONAI's random dictionary transforms, drawn again for each case of a batch.

    All random numbers follow from PyTorch's generator, so that a resumed run draws what an uninterrupted one would.

    Args:
        transforms: from ``{"image": (C, H, W[, D]), "label": (R, H, W[, D])}`` to the same, shapes kept.
    """

    transforms: Compose

    def __call__(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment images (B, C, H, W[, D]) and labels (B, R, H, W[, D]) in the same way."""
        self.transforms.set_random_state(seed=int(torch.randint(2**31, (1,))))
        cases = [self.transforms({"image": x, "label": y}) for x, y in zip(image, label, strict=True)]
        images, labels = (torch.stack([torch.as_tensor(case[key]) for case in cases]) for key in ("image", "label"))
        return images.to(image.dtype), labels.to(label.dtype)
