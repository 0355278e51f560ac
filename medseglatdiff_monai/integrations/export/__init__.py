"""Bundles for other programs: TorchScript and ONNX."""
