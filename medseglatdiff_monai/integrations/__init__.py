"""Other people's programs: viewing page, MONAI Label, MLflow, TorchScript and ONNX."""
