"""Samples masks with onnxruntime and numpy alone: no torch, no MONAI. Exports carry a copy of this file.

The networks beside it were written by ``medseglatdiff export BUNDLE --format onnx``; this module holds what comes
between them: the noise, the passes of the direct sampler, the steps of DPM-Solver++(2M) (Lu et al., arXiv 2211.01095)
or DDIM (Song et al., arXiv 2010.02502, Eq. 12 with sigma = 0), the symmetries of test-time augmentation, and the fusion
of the masks. Noise is that of PyTorch's CPU generator, number for number, so that an export samples exactly the masks
that the bundle samples.

    segmenter = OnnxSegmenter("lung_onnx")
    result = segmenter(image)      # (B, C, H, W) float32 in [0, 1] → confidence_map, consensus_mask, samples
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

FORMAT_VERSION = 5
# Symmetries of an image in test-time augmentation: rotations, then mirror images; a rectangle has those below 4.
SYMMETRIES = (0, 3, 5, 6, 1, 2, 4, 7)
# Masks that go through the networks at once: bounds the memory.
CHUNK_SIZE = 64


def torch_normal(seed: int, size: int) -> np.ndarray:
    """``torch.randn(size, generator=torch.Generator().manual_seed(seed))`` without torch, for at least 16 numbers.

    PyTorch takes 24-bit uniform numbers from MT19937 and converts each block of 16 into normal ones by Box and Muller's
    transform; the last 16 are generated again where ``size`` is not a multiple of 16. Equal up to rounding (1e-6).

    Raises:
        ValueError: fewer than 16 numbers, which PyTorch generates in another way.
    """
    if size < 16:
        raise ValueError(f"size is {size}: expected at least 16. Generate the noise elsewhere and pass it as `noise`.")
    generator = np.random.MT19937()
    # RandomState seeds its bit generator in MT19937's original way, as PyTorch does.
    np.random.RandomState(generator).seed(seed & 0xFFFFFFFF)

    def uniform(count: int) -> np.ndarray:
        return (generator.random_raw(count) & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)

    def box_muller(blocks: np.ndarray) -> np.ndarray:
        radius = np.sqrt(-2.0 * np.log(1.0 - blocks[:, :8]))
        angle = np.float32(2.0 * np.pi) * blocks[:, 8:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)

    values = uniform(size)
    whole = size - size % 16
    values[:whole] = box_muller(values[:whole].reshape(-1, 16)).ravel()
    if whole != size:
        values[-16:] = box_muller(uniform(16)[None])[0]
    return values


def draw_noise(shape: Sequence[int], num_samples: int, seed: int, case: str = "", passes: int = 1) -> np.ndarray:
    """Noise (N, passes · d, h, w) of N samples of one case, from generators seeded by (seed, case, pair, pass).

    Samples 2k and 2k + 1 are a pair of opposite noise. Of pair k the mean of the first channel is the normal quantile
    of (u + k · golden ratio) modulo 1, with u from (seed, case).
    """

    def number(owner: str) -> int:
        return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8], "big")

    def draw(owner: str) -> np.ndarray:
        return torch_normal(number(owner) >> 1, int(np.prod(shape))).reshape(shape)

    drawn = []
    for pair in range((num_samples + 1) // 2):
        own = f"{seed}/{case}/{2 * pair}"
        noise = np.concatenate([draw(own), *(draw(f"{own}/{p}") for p in range(1, passes))])
        share = (number(f"{seed}/{case}") / 2**64 + pair * (math.sqrt(5) - 1) / 2) % 1
        quantile = NormalDist().inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
        noise[0] += np.float32(quantile / math.sqrt(noise[0].size)) - noise[0].mean()
        drawn += [noise, -noise]
    return np.stack(drawn[:num_samples])


def direct_timesteps(num_train_timesteps: int, passes: int) -> list[int]:
    """Timesteps of the direct sampler's passes: T - 1 and evenly on over 30% of T.

    Raises:
        ValueError: ``passes`` is not in [1, 0.3 T].
    """
    most = max(1, int(0.3 * num_train_timesteps))
    if not 1 <= passes <= most:
        raise ValueError(f"num_inference_steps of the sampler 'direct' must be in [1, {most}], found {passes}.")
    return [num_train_timesteps - 1 - round(0.3 * num_train_timesteps * i / passes) for i in range(passes)]


def sampling_timesteps(
    num_train_timesteps: int, num_inference_steps: int, power: float, last_timestep: int
) -> list[int]:
    """Timesteps that the denoiser is called at, from noise to data.

    t_k = T - 1 - (T - 1 - last) · (k / (n - 1))^power for T ``num_train_timesteps`` and n ``num_inference_steps``;
    ``last_timestep`` counts for at least T / n - 1 and at most T - n, and no two are equal.

    Raises:
        ValueError: ``num_inference_steps`` is not in [1, T].
    """
    final = num_train_timesteps - 1
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise ValueError(f"num_inference_steps must be in [1, {num_train_timesteps}], found {num_inference_steps}.")
    last = max(last_timestep, round(num_train_timesteps / num_inference_steps) - 1)
    last = min(last, num_train_timesteps - num_inference_steps)
    timesteps = [final]
    for step in range(1, num_inference_steps):
        exact = final - (final - last) * (step / (num_inference_steps - 1)) ** power
        timesteps.append(min(round(exact), timesteps[-1] - 1))
    return timesteps


def solve(
    denoise: Any,
    noise: np.ndarray,
    alpha_bar: np.ndarray,
    timesteps: Sequence[int],
    prediction_type: str,
    second_order: bool = True,
) -> np.ndarray:
    """Deterministic reverse process from ``noise`` (M, d, h, w) to the latents x_0 of the same shape.

    Args:
        denoise: network as a function of z_t (M, d, h, w) and timesteps (M,) int64.
        noise: z_T, standard normal.
        alpha_bar: (T,), the schedule's cumulative products.
        timesteps: where the network is called, from noise to data.
        prediction_type: ``"epsilon"``, ``"sample"`` or ``"v_prediction"``.
        second_order: DPM-Solver++(2M); else DDIM.
    """
    at = np.asarray(alpha_bar, np.float64)[list(timesteps)]
    signal, deviation = np.sqrt(at).astype(np.float32), np.sqrt(1.0 - at).astype(np.float32)
    half_log_snr = 0.5 * np.log(at / (1.0 - at))
    z_t, previous = noise.astype(np.float32), None
    for k, t in enumerate(timesteps):
        output = denoise(z_t, np.full(len(z_t), t, np.int64))
        if prediction_type == "sample":
            x_0 = output
        elif prediction_type == "epsilon":
            x_0 = (z_t - deviation[k] * output) / signal[k]
        else:
            x_0 = signal[k] * z_t - deviation[k] * output
        if k + 1 == len(timesteps):
            return x_0
        target = x_0
        if second_order and previous is not None:
            ratio = (half_log_snr[k + 1] - half_log_snr[k]) / (half_log_snr[k] - half_log_snr[k - 1])
            target = x_0 + np.float32(0.5 * ratio) * (x_0 - previous)
        z_t = signal[k + 1] * target + deviation[k + 1] / deviation[k] * (z_t - signal[k] * target)
        previous = x_0
    raise ValueError("timesteps is empty; expected at least one.")


def solve_directly(
    denoise: Any,
    noise: np.ndarray,
    alpha_bar: np.ndarray,
    timesteps: Sequence[int],
    prediction_type: str,
    noise_scale: float = 1.0,
    common_noise: bool = False,
) -> np.ndarray:
    """Latents x_0 (M, d, h, w) in one pass per timestep; before each pass but the first, x_0 is given fresh noise.

    Args:
        denoise: see :func:`solve`.
        noise: noise of all passes, stacked: (M, passes · d, h, w), standard normal.
        alpha_bar: (T,).
        timesteps: see :func:`direct_timesteps`.
        prediction_type: ``"sample"`` or ``"v_prediction"``.
        noise_scale: factor on the first pass's noise, except a common channel.
        common_noise: the first pass's first channel is one number for the whole image, the mean over the positions,
            scaled to deviation 1.
    """
    x_0: np.ndarray | None = None
    for part, t in zip(np.split(noise.astype(np.float32), len(timesteps), axis=1), timesteps, strict=True):
        signal = np.float32(np.sqrt(alpha_bar[t]))
        deviation = np.float32(np.sqrt(1.0 - alpha_bar[t]))
        if x_0 is None:
            z_t = np.float32(noise_scale) * part
            if common_noise:
                z_t[:, :1] = part[:, :1].mean((2, 3), keepdims=True) * np.float32(math.sqrt(np.prod(part.shape[2:])))
        else:
            z_t = signal * x_0 + deviation * part
        output = denoise(z_t, np.full(len(z_t), t, np.int64))
        x_0 = output if prediction_type == "sample" else signal * z_t - deviation * output
    if x_0 is None:
        raise ValueError("timesteps is empty; expected at least one.")
    return x_0


def flip(x: np.ndarray, symmetry: int) -> np.ndarray:
    """Images (..., H, W) flipped by the bits of ``symmetry``: 0 up-down, 1 left-right, and then 2 transposed."""
    x = x[..., ::-1, :] if symmetry & 1 else x
    x = x[..., ::-1] if symmetry & 2 else x
    return np.ascontiguousarray(x.swapaxes(-1, -2) if symmetry & 4 else x)


def flip_back(x: np.ndarray, symmetry: int) -> np.ndarray:
    """``x`` of ``flip(x, symmetry)``."""
    x = x.swapaxes(-1, -2) if symmetry & 4 else x
    x = x[..., ::-1] if symmetry & 2 else x
    return x[..., ::-1, :] if symmetry & 1 else x


class OnnxSegmenter:
    """An exported bundle, ready to sample.

    Args:
        folder: what ``medseglatdiff export BUNDLE --format onnx`` wrote.
        providers: onnxruntime's execution providers in order of preference, e.g. ``["CUDAExecutionProvider"]``.
        threads: threads of each network; 0 leaves it to onnxruntime.

    Raises:
        ValueError: the folder is no export, or one of another version of this file.
    """

    def __init__(
        self, folder: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int = 0
    ) -> None:
        import onnxruntime

        folder = Path(folder)
        if not (folder / "sampling.json").is_file():
            raise ValueError(
                f"{folder} holds no sampling.json. Expected a folder that 'medseglatdiff export --format onnx' wrote."
            )
        self.settings: dict[str, Any] = json.loads((folder / "sampling.json").read_text(encoding="utf-8"))
        if self.settings["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{folder} is of format {self.settings['format_version']}, this runner reads {FORMAT_VERSION}: use the "
                "onnx_runner.py that lies in the folder."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._conditioner, self._denoiser, self._mask_decoder = (
            onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=list(providers))
            for name in ("conditioner", "denoiser", "mask_decoder")
        )

    def __call__(
        self,
        image: np.ndarray,
        num_samples: int | None = None,
        num_inference_steps: int | None = None,
        seed: int | None = None,
        cases: Sequence[str] | None = None,
        noise: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Sample an ensemble for each image; up to 64 masks go through the networks at once.

        Args:
            image: (B, C, H, W) float32 in [0, 1], after the bundle's preprocessing.
            num_samples: N masks per image; by default the bundle's.
            num_inference_steps: denoiser calls per mask; by default the bundle's.
            seed: seed of the noise; by default the bundle's.
            cases: B case ids that the noise belongs to; without them all images share the noise of (seed, sample).
            noise: (B, N, d, h, w) standard normal, instead of the noise generated here; for more than one pass of
                the direct sampler (B, N, passes · d, h, w).

        Returns:
            ``samples`` (B, N, H, W) bool, ``logits`` (the same) float32, ``confidence_map`` (B, 1, H, W) float32 in
            [0, 1], ``consensus_mask`` (B, 1, H, W) bool.

        Raises:
            ValueError: an image, noise or number of cases that does not fit the networks.
        """
        settings = self.settings
        image = np.asarray(image)
        expected = (settings["image_channels"], *settings["image_size"])
        if image.ndim != 4 or image.shape[1:] != expected or image.dtype.kind != "f":
            raise ValueError(
                f"The image is {image.dtype} {image.shape}; expected float32 (B, {', '.join(map(str, expected))}) in "
                f"[0, 1]: {settings['image_description']}."
            )
        if cases is not None and len(cases) != len(image):
            raise ValueError(f"cases must name each of the {len(image)} images, found {len(cases)} names.")
        steps = num_inference_steps or settings["num_inference_steps"]
        channels, *sides = settings["latent_shape"]
        passes = steps if settings["sampler"] == "direct" else 1
        if noise is None:
            noise = self._draw_noise(cases or [""] * len(image), num_samples, seed, passes)
        shape = (passes * channels, *sides)
        if noise.shape[:1] != image.shape[:1] or noise.shape[2:] != shape:
            raise ValueError(f"The noise is {noise.shape}; expected ({len(image)}, N, {', '.join(map(str, shape))}).")
        if noise.shape[1] < 1:
            raise ValueError(f"num_samples is {noise.shape[1]}; expected at least 1.")
        return self._fuse(self._sample(image.astype(np.float32), noise, steps))

    def _draw_noise(self, cases: Sequence[str], num_samples: int | None, seed: int | None, passes: int) -> np.ndarray:
        """Noise (B, N, passes · d, h, w); equal cases have equal noise."""
        settings = self.settings
        number = settings["num_samples"] if num_samples is None else num_samples
        seed = settings["seed"] if seed is None else seed
        shape = settings["latent_shape"]
        drawn = {case: draw_noise(shape, number, seed, case, passes) for case in dict.fromkeys(cases)}
        return np.stack([drawn[case] for case in cases])

    def _sample(self, image: np.ndarray, noise: np.ndarray, steps: int) -> np.ndarray:
        """Mask logits (B, N, H, W) of images and their noise (B, N, ...).

        Raises:
            ValueError: a sample is not finite.
        """
        number = noise.shape[1]
        symmetries = self._choose_symmetries(number)
        encoded = {
            symmetry: self._conditioner.run(None, {"image": flip(image, symmetry)})[0] for symmetry in set(symmetries)
        }
        condition = np.stack([encoded[symmetry] for symmetry in symmetries], axis=1)
        condition = condition.reshape(-1, *condition.shape[2:])
        noise = np.stack([flip(noise[:, i], symmetry) for i, symmetry in enumerate(symmetries)], axis=1)
        noise = noise.reshape(-1, *noise.shape[2:])
        logits = np.concatenate(
            [
                self._draw(noise[start : start + CHUNK_SIZE], condition[start : start + CHUNK_SIZE], steps)
                for start in range(0, len(noise), CHUNK_SIZE)
            ]
        ).reshape(len(image), number, *image.shape[2:])
        logits = np.stack([flip_back(logits[:, i], symmetry) for i, symmetry in enumerate(symmetries)], axis=1)
        if not np.isfinite(logits).all():
            raise ValueError("A sampled mask is not finite: the networks or the image are damaged.")
        return logits

    def _fuse(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        settings = self.settings
        samples = logits > 0
        share = samples if settings["confidence"] == "samples" else 0.5 * (1.0 + np.tanh(0.5 * logits))
        confidence_map = share.astype(np.float32).mean(axis=1, keepdims=True)
        # Shares such as 3/6 must reach 0.5 whatever the rounding of their mean.
        consensus_mask = confidence_map >= settings["threshold"] - 1e-6
        return {
            "samples": samples,
            "logits": logits,
            "confidence_map": confidence_map,
            "consensus_mask": consensus_mask,
        }

    def _choose_symmetries(self, num_samples: int) -> list[int]:
        """Symmetry in which each sample sees the image: with test-time augmentation a different one each."""
        if not self.settings["test_time_augmentation"]:
            return [0] * num_samples
        height, width = self.settings["image_size"]
        symmetries = [k for k in SYMMETRIES if k < 4 or height == width]
        return [symmetries[i % len(symmetries)] for i in range(num_samples)]

    def _draw(self, noise: np.ndarray, condition: np.ndarray, num_inference_steps: int) -> np.ndarray:
        """Mask logits (M, 1, H, W) of noise (M, d, h, w) and condition (M, d_X, h, w)."""

        def denoise(z_t: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
            return self._denoiser.run(None, {"z_t": z_t, "timesteps": timesteps, "condition": condition})[0]

        settings = self.settings
        alpha_bar = np.asarray(settings["alpha_bar"])
        if settings["sampler"] == "direct":
            timesteps = direct_timesteps(len(alpha_bar), num_inference_steps)
            own = (settings[name] for name in ("prediction_type", "noise_scale", "common_noise"))
            x_0 = solve_directly(denoise, noise, alpha_bar, timesteps, *own)
            return self._mask_decoder.run(None, {"x_0": x_0})[0]
        timesteps = sampling_timesteps(
            len(alpha_bar), num_inference_steps, settings["timestep_power"], settings["last_timestep"]
        )
        second_order = settings["sampler"] == "dpm++"
        x_0 = solve(denoise, noise, alpha_bar, timesteps, settings["prediction_type"], second_order)
        return self._mask_decoder.run(None, {"x_0": x_0})[0]
