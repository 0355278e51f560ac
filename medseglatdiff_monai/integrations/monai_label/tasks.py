"""The bundles as tasks of MONAI Label's ``monaibundle`` app.

MONAI Label loads network, inferer and options of a bundle itself (``BundleInferTask``), keeps the network, and takes
new weights when their file changes. What it does around them suits one image in, one mask out: its images are x first
where ours are rows first, and it knows neither clicked crops nor neighbouring slices. These tasks put the package's own
prediction and training in that place.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from ...bundle.segmenter import Segmenter
from ...errors import InputError, check_integer
from ...files import file_sha256
from ...io.reading import open_input
from .answer import answer_request
from .labelled import train_labelled
from .publication import publish_weights

logger = logging.getLogger(__name__)


class EnsembleInferTask(BundleInferTask):
    """Samples an ensemble: the mask is the consensus, ``params`` of the answer holds sizes with intervals and entropy.

    The options ``num_samples``, ``num_inference_steps`` and ``seed`` are the bundle's ``displayable_configs``, which
    its inferer takes.

    Args:
        path: folder of the bundle.
        conf: the app's ``--conf`` values.
    """

    def __init__(self, path: str, conf: Mapping[str, str]) -> None:
        config = json.loads((Path(path) / "configs" / "inference.json").read_text(encoding="utf-8"))
        self.clicked = "crop_size" in config
        super().__init__(
            path,
            dict(conf),
            # What viewers offer a click for.
            type=InferType.DEEPGROW if self.clicked else InferType.SEGMENTATION,
            add_post_restore=False,
            load_strict=True,
        )
        if self.valid:
            self._metadata = json.loads((Path(path) / "configs" / "metadata.json").read_text(encoding="utf-8"))
            # Dimensions of the answer: the network works on slices, the mask is a volume's.
            self.dimension = 3 if self.clicked else 2

    def pre_transforms(self, data: Any = None) -> Sequence[Callable]:
        """None: the bundle's preprocessing runs slice by slice in :meth:`run_inferer`."""
        for name in self.displayable_configs:
            self.check_option(name, data[name])
        # For its effect: the options of the request reach the configuration that the inferer is made from.
        super().pre_transforms(data)
        return []

    def run_inferer(self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cpu") -> dict[str, Any]:
        """Answer the request; ``data`` gets ``pred`` (x first) and ``result``."""
        network = self._get_network(device, data)
        segmenter = Segmenter(
            network=network,
            inferer=self.inferer(data),
            preprocessing=self.bundle_config.get_parsed_content("preprocessing"),
            config=self.bundle_config,
            metadata=self._metadata,
            bundle_dir=Path(self.bundle_path),
            weights_path=Path(self.get_path()),
            device=torch.device(device),
        )
        answer = answer_request(segmenter, data)
        data[self.output_label_key] = (
            MetaTensor(torch.from_numpy(answer.mask), affine=torch.from_numpy(answer.affine))
            if answer.affine is not None
            else answer.mask
        )
        data[self.output_json_key] = answer.result
        if answer.affine is None and not data.get("result_extension"):
            # In the picture's own format a JPEG would blur the mask.
            data["result_extension"] = ".png"
        return data

    @staticmethod
    def check_option(name: str, value: Any) -> None:
        """Raise InputError where an option of a request is out of its range."""
        check_integer(f"'{name}'", value, None if name == "seed" else 1)

    def weights_stamp(self) -> str:
        """Says whether weights have changed."""
        return file_sha256(self.get_path())

    def post_transforms(self, data: Any = None) -> Sequence[Callable]:
        """None: the mask is on the image's grid already."""
        return []

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> tuple[Any, Any]:
        """MONAI Label's own, as 8-bit labels."""
        return super().writer(data, extension, dtype or np.uint8)


class EnsembleTrainTask(BundleTrainTask):
    """Trains a bundle on the labels that were submitted; the new weights replace the old unless they do worse.

    The run stays in the bundle's ``label_runs/<time>``, see
    :func:`~medseglatdiff_monai.integrations.monai_label.publication.publish_weights`.
    """

    def config(self) -> dict[str, Any]:
        """Options of a request."""
        return {
            "device": device_list(),
            "pretrained": True,
            "max_epochs": 10,
            "val_split": 0.2,
            "batch_size": self.bundle_config.config["batch_size"],
            "learning_rate": self.bundle_config.config["learning_rate"],
            "tracking": ["None", "mlflow"],
            "tracking_uri": "",
        }

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Train, compare, and publish the weights.

        Returns:
            ``run``, the folder; ``labels``, their number; ``left_out``, images that do not fit and why; ``published``
            and ``validation`` as of ``publish_weights``.

        Raises:
            InputError: see :func:`~medseglatdiff_monai.integrations.monai_label.labelled.train_labelled`.
        """
        options = {**self.config(), **request}
        items, left_out = [], {}
        for item in self._fetch_datalist({"model": "", **request}, datastore):
            try:
                open_input(item["image"], self.bundle_config.config["image_channels"])
                items.append(item)
            except InputError as error:
                # A folder may hold images for several models.
                left_out[Path(item["image"]).name] = str(error)
        if left_out:
            logger.warning("%d labelled images are left out: %s", len(left_out), left_out)
        tracking = options["tracking"]
        tracked = (tracking[0] if isinstance(tracking, list) else tracking) == "mlflow"
        overrides: dict[str, Any] = {
            "device": name_to_device(options["device"]),
            **{name: options[name] for name in ("max_epochs", "batch_size", "learning_rate")},
        }
        if not tracked:
            overrides["tracking_uri"] = False
        elif options["tracking_uri"]:
            overrides["tracking_uri"] = options["tracking_uri"]
        root = Path(self.bundle_path)
        run = train_labelled(
            root,
            items,
            root / "label_runs" / time.strftime("%Y%m%d-%H%M%S"),
            val_split=float(options["val_split"]),
            pretrained=bool(options["pretrained"]),
            **overrides,
        )
        compared = publish_weights(run, root, run.parent / "dataset" / "prepared", overrides["device"])
        return {"run": str(run), "labels": len(items), "left_out": left_out, **compared}
