"""The settings of an ensemble, checked without torch and MONAI, whose import takes seconds; and a fusion in words."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from ..errors import InputError, check_integer, did_you_mean
from ..extras import require

FUSIONS = ("mean", "majority", "staple", "size_preserving")
CONFIDENCES = ("samples", "probabilities")
POSTPROCESSING = ("morphology",)
COUNTS = ("num_samples", "num_inference_steps", "chunk_size")
# Above it a typing error would keep the computer busy for days.
MAX_COUNT = 100_000


def check_fusion_name(fusion: str) -> None:
    """Raise the InputError of a name that is not among ``FUSIONS``, or of one whose extra is not installed."""
    if fusion not in FUSIONS:
        hint = did_you_mean(str(fusion), FUSIONS)
        raise InputError(f"fusion: found {fusion!r}, expected one of {', '.join(FUSIONS)}; choose one of them.{hint}")
    if fusion == "staple":
        require("staple", "The fusion 'staple'", "Or choose another fusion.")


def check_summary_arguments(threshold: float, confidence: str, fusion: str, postprocess: str | None) -> None:
    """Raise the InputError of arguments of ``summarize_ensemble`` that are out of range or exclude each other."""
    if confidence not in CONFIDENCES:
        raise InputError(f"confidence must be 'samples' or 'probabilities', found {confidence!r}.")
    number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if not number or not 0.0 < threshold <= 1.0:
        raise InputError(f"threshold must be in (0, 1], found {threshold!r}.")
    check_fusion_name(fusion)
    if postprocess is not None and postprocess not in POSTPROCESSING:
        raise InputError(f"postprocess: found {postprocess!r}, expected null or one of {', '.join(POSTPROCESSING)}.")
    if postprocess is not None and confidence == "probabilities":
        raise InputError(
            "postprocess changes the samples, not their probabilities: with it, confidence must be 'samples'."
        )


def check_settings(given: Mapping[str, Any]) -> None:
    """Check those configuration keys that say how an ensemble is sampled and fused; all others are passed over.

    Args:
        given: keys and values. MONAI's expressions (text that begins with ``$`` or ``@``) are not evaluated here.

    Raises:
        InputError: a value out of its range, or two that exclude each other.
    """
    plain = {name: value for name, value in given.items() if not str(value).startswith(("$", "@"))}
    check_summary_arguments(
        plain.get("threshold", 0.5), plain.get("confidence", "samples"), plain.get("fusion", "mean"),
        plain.get("postprocess"),
    )  # fmt: skip
    for name in COUNTS:
        if plain.get(name) is not None:
            check_integer(name, plain[name], 1, MAX_COUNT)


def describe_fusion(threshold: float, fusion: str = "mean", confidence: str = "samples") -> str:
    """What puts a pixel into the consensus, to stand in brackets behind that word: ``"≥ 25 % of samples"``."""
    share = f"≥ {100 * threshold:.4g} %"
    return {
        "mean": f"{share} of samples" if confidence == "samples" else f"{share} mean probability",
        "majority": "> 50 % of samples",
        "staple": f"STAPLE {share}",
        "size_preserving": "size of the mean sample",
    }[fusion]
