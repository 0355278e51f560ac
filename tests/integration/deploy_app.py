"""A MONAI Deploy application that runs a bundle's folder: ``deploy_app.py BUNDLE IMAGE.npy OUTPUT.npy``.

Started by test_monai_deploy.py with the interpreter of an environment that holds the MONAI Deploy App SDK.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType, Operator, OperatorSpec
from monai.deploy.operators.monai_bundle_inference_operator import (
    BundleConfigNames,
    IOMapping,
    MonaiBundleInferenceOperator,
)

bundle, source, target = (Path(argument) for argument in sys.argv[1:4])


class Source(Operator):
    """Emits the image (channel, row, column) once."""

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("image")

    def compute(self, op_input, op_output, context) -> None:
        op_output.emit(torch.from_numpy(np.load(source)), "image")


class Target(Operator):
    """Writes the mask that it receives."""

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("pred")

    def compute(self, op_input, op_output, context) -> None:
        np.save(target, op_input.receive("pred").asnumpy())


class EnsembleOperator(MonaiBundleInferenceOperator):
    """The SDK takes a dictionary of the inferer apart by its keys: hand it on as the one item ``pred`` of a batch."""

    def _init_config(self, config_names) -> None:
        """Let the bundle's paths start from its folder; the SDK leaves ``bundle_root`` at the current one."""
        super()._init_config(config_names)
        self.parser["bundle_root"] = str(self.bundle_path)

    def predict(self, data, *args, **kwargs):
        """Images (1, C, H, W) → the ensemble, as the bundle's postprocessing expects it."""
        ensemble = super().predict(data, *args, **kwargs)
        return [{"pred": {name: value[0] for name, value in ensemble.items()}}]


class BundleApplication(Application):
    """Source → bundle → target."""

    def compose(self) -> None:
        context = AppContext({})
        segment = EnsembleOperator(
            self,
            input_mapping=[IOMapping("image", torch.Tensor, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            app_context=context,
            bundle_path=bundle,
            bundle_config_names=BundleConfigNames(config_names=["inference"]),
            name="segment",
        )
        self.add_flow(Source(self, CountCondition(self, 1), name="source"), segment, {("image", "image")})
        self.add_flow(segment, Target(self, name="target"), {("pred", "pred")})


BundleApplication(argv=[sys.argv[0]]).run()
