"""A bundle made ready for use from Python: its inference configuration, instantiated.

torch and MONAI are imported where they are used: to import them takes seconds, and a wrong name is to be told before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, check_integer, unwrapped_errors
from ..files import file_sha256, read_keys
from ..startup import heavy_imports
from .arguments import check_overrides
from .config import Bundle

if TYPE_CHECKING:
    import torch
    from monai.bundle import ConfigParser
    from monai.transforms import Compose

    from ..ensemble.inferer import EnsembleInferer
    from ..networks.baselines.one_to_one import OneToOneSegmenter
    from ..networks.segmenter import LatentDiffusionSegmenter

# Above it no memory suffices.
MAX_SIDE = 1 << 16
# Options of commands that are configuration keys as well.
OPTIONS = {"num_samples", "num_inference_steps", "max_cases", "device", "seed", "split"}


@dataclass
class Segmenter:
    """A bundle made ready to sample masks: everything that the inference configuration describes, instantiated.

    Attributes:
        network: composite network with its weights, in eval mode on ``device``.
        inferer: ensemble inferer.
        preprocessing: MONAI transforms from ``{"image": path or array[, "label": ...]}`` to the network's input.
        config: the merged configuration.
        metadata: the bundle's ``metadata.json``.
        bundle_dir: folder of the bundle.
        weights_path: file that the weights came from.
        device: where the network is.
    """

    network: LatentDiffusionSegmenter | OneToOneSegmenter
    inferer: EnsembleInferer
    preprocessing: Compose
    config: ConfigParser
    metadata: dict
    bundle_dir: Path
    weights_path: Path
    device: torch.device

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file."""
        return file_sha256(self.weights_path)

    @property
    def image_size(self) -> tuple[int, ...]:
        """(height, width[, depth]) of the network's input."""
        # Runs that were made before volumes have no spatial_dims.
        dims = self.config.get_parsed_content("spatial_dims") if "spatial_dims" in self.config else 2
        return (self.config.get_parsed_content("image_size"),) * dims

    @property
    def crop_size(self) -> int | None:
        """Side in pixels of the native crop that preprocessing starts from, for bundles that need a crop."""
        return self.config.get_parsed_content("crop_size") if "crop_size" in self.config else None

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.config.get_parsed_content("image_channels")


def inference_config(
    bundle: str | Path,
    stage: str = "inference",
    weights: str | Path | None = None,
    experiment: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ConfigParser:
    """Parser of the ``inference`` or ``evaluate`` stage.

    Of the commands' own options those that are ``None`` were not given, and are left out; a configuration key that is
    ``None`` is set to null.

    Raises:
        InputError: no such bundle, experiment or key; a value out of its range; a device that this machine does not
            have; or no weights.
    """
    check_overrides(overrides or {})
    opened = Bundle(bundle, experiment)
    given = {key: value for key, value in (overrides or {}).items() if value is not None or key not in OPTIONS}
    config = opened.config(stage, given)
    config["bundle_root"] = str(opened.root)
    if weights is not None:
        config["weights"] = str(weights)
    with heavy_imports():
        from monai.bundle import ConfigParser

    parser = ConfigParser(config)
    with _instantiated(opened.root, stage):
        device = str(parser.get_parsed_content("device")) if "device" in parser else "cpu"
        path = Path(parser.get_parsed_content("weights"))
    check_present(device)
    if not path.is_file():
        raise InputError(
            f"No weights at {path}. Train them, '{opened.training_command}', and give the run's folder or --weights "
            "RUN/models/model.pt."
        )
    return parser


@contextmanager
def _instantiated(root: Path, stage: str) -> Iterator[None]:
    """Name the configuration whose values nothing can be made from; MONAI and torch raise all kinds of errors."""
    path = root / "configs" / f"{stage}.json"
    try:
        with unwrapped_errors():
            yield
    except InputError as error:
        if str(root) in str(error):
            # It names a file of its own, such as that of the weights.
            raise
        raise InputError(f"{path}, as it is with experiment and overrides: {str(error)[:1000]}") from error
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputError(
            f"{path}: nothing can be made of its values, as they are with experiment and "
            f"overrides ({type(cause).__name__}: {str(cause)[:300]}); expected those that the package's bundles have. "
            "Correct them, or download the bundle again."
        ) from error


def check_present(device: str) -> None:
    """Raise the InputError of a device that this machine does not have; an expression of MONAI's is not evaluated."""
    import torch

    kind, _, number = device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else int(kind != "mps" or torch.backends.mps.is_available())
    if count == 0:
        raise InputError(f"--device is {device!r}, and torch finds no such device here. Leave it out, or give cpu.")
    if kind == "cuda" and int(number or 0) >= count:
        raise InputError(f"--device is {device!r}, and torch finds {count} here: give cuda:0 to cuda:{count - 1}.")


def load_segmenter(
    bundle: str | Path,
    weights: str | Path | None = None,
    experiment: str | Path | None = None,
    device: str | torch.device | None = None,
    **overrides: Any,
) -> Segmenter:
    """Load a bundle for use from Python.

    Args:
        bundle: folder or name.
        weights: other weights than the bundle's own.
        experiment: overlay that the weights were trained with.
        device: e.g. ``"cuda:1"``; by default CUDA if there is one.
        overrides: configuration keys, e.g. ``num_samples=16``, ``num_inference_steps=5``, ``seed=1``.

    Raises:
        InputError: no such bundle, experiment or key; weights that are missing or do not fit.
    """
    chosen = {**overrides, "device": None if device is None else str(device)}
    parser = inference_config(bundle, "inference", weights, experiment, chosen)
    import torch

    from .preprocessing import UnwrappedCompose

    root = Path(parser["bundle_root"])
    with _instantiated(root, "inference"):
        for key in ("image_size", "image_channels", *(["crop_size"] if "crop_size" in parser else [])):
            check_integer(key, parser.get_parsed_content(key), 1, MAX_SIDE)
        target = torch.device(parser.get_parsed_content("device"))
        network = parser.get_parsed_content("network").eval()
        inferer = parser.get_parsed_content("inferer")
        preprocessing = UnwrappedCompose(parser.get_parsed_content("preprocessing").transforms)
    return Segmenter(
        network=network.to(target),
        inferer=inferer,
        preprocessing=preprocessing,
        config=parser,
        metadata=read_keys(root / "configs" / "metadata.json"),
        bundle_dir=root,
        weights_path=Path(parser.get_parsed_content("weights")),
        device=target,
    )
