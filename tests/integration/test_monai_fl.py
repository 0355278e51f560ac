"""MONAI FL's client algorithm trains a bundle for a round of federated learning and hands its weights back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import LUNG, build_network, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.build import write_run_folder
from medseglatdiff_monai.networks.weights import save_weights

pytestmark = pytest.mark.integration


def test_round_of_federated_learning(tmp_path: Path) -> None:
    from monai.fl.client import MonaiAlgo
    from monai.fl.utils.constants import ExtraItems
    from monai.fl.utils.exchange_object import ExchangeObject

    sizes = {
        **small_sizes(LUNG), **run_sizes(2), "draws": 1, "max_epochs": 5, "tracking_uri": False, "val_num_samples": 2,
    }  # fmt: skip
    root = write_run_folder(LUNG, tmp_path / "bundle", None, sizes)
    parser = build_network(root)[1]
    for codec in ("image_codec", "mask_codec"):
        save_weights(parser.get_parsed_content(f"{codec}_def"), root / "models" / f"{codec}.pt")
    data = write_prepared(tmp_path / "data", LUNG, training=4, validation=2)
    common = {"bundle_root": str(root), "dataset_dir": str(data)}
    # Whole weights: MONAI 1.6 subtracts tensors for a difference, and the codebook's `initialized` is a bool.
    client = MonaiAlgo(
        bundle_root=str(root), local_epochs=1, train_kwargs=dict(common), eval_kwargs=dict(common),
        config_evaluate_filename="configs/train.json", send_weight_diff=False,
    )  # fmt: skip
    client.initialize(extra={ExtraItems.CLIENT_NAME: "hospital-1", ExtraItems.APP_ROOT: str(tmp_path)})
    start = {name: value.clone() for name, value in client.trainer.network.state_dict().items()}
    client.train(data=ExchangeObject(weights={name: value.numpy() for name, value in start.items()}), extra={})
    assert client.trainer.state.epoch == 1
    trained = client.get_weights().weights
    assert trained.keys() == start.keys()
    moved = [name for name, value in start.items() if not torch.equal(torch.as_tensor(trained[name]), value)]
    assert any("denoiser" in name for name in moved)
    # The mask codec is frozen: rounds leave the meaning of its latents alone.
    assert not [name for name in moved if "mask_codec" in name]

    # What is validated (and shipped) is the segmenter, which the trained network wraps.
    segmenter = {name.removeprefix("segmenter."): value for name, value in trained.items()}
    scores = client.evaluate(data=ExchangeObject(weights=segmenter), extra={}).metrics
    assert 0.0 <= scores["ged"] <= 2.0
    client.finalize()
