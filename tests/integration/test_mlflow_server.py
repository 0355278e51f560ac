"""A real MLflow server on loopback: a training is logged to it, the bundle is registered, loaded, and predicts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from small_runs import LUNG, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle import load_segmenter
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.predict import predict_image
from medseglatdiff_monai.tracking import read_run_ids
from medseglatdiff_monai.training import train

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
SIZES = {**small_sizes(LUNG), **run_sizes(2), "val_interval": 1, "val_num_samples": 2, "draws": 1}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
                "--artifacts-destination", str(folder / "artifacts"),
            ],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{uri}/health", timeout=2).read()
                    break
                except (urllib.error.URLError, ConnectionError, TimeoutError):
                    assert process.poll() is None, (folder / "server.log").read_text()
                    time.sleep(0.5)
            else:
                pytest.fail(f"mlflow server did not answer: {(folder / 'server.log').read_text()}")
            yield uri
        finally:
            os.killpg(process.pid, 15)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait(20)


@pytest.fixture(scope="module")
def run(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training logged to the server."""
    data = write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=4, validation=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        output = tmp_path_factory.mktemp("runs") / "lung"
        return train(LUNG, data, output_dir=output, **{**SIZES, "tracking_uri": server})


def test_training_is_on_the_server_and_nowhere_else(server: str, run: Path) -> None:
    from mlflow import MlflowClient

    client, ids = MlflowClient(server), read_run_ids(run, server)
    assert set(ids) == {"parent", "image_codec", "mask_codec", "diffusion"}
    found = client.get_run(ids["diffusion"])
    assert found.data.tags["mlflow.parentRunId"] == ids["parent"]
    assert found.info.status == client.get_run(ids["parent"]).info.status == "FINISHED"
    assert {"ged", "dice"} <= found.data.metrics.keys()
    assert [entry.path for entry in client.list_artifacts(ids["diffusion"], "panels")] == ["panels/epoch_0001.png"]
    assert not (run / "mlruns.db").exists()


def test_registered_bundle_is_loaded_and_predicts(server: str, run: Path, tmp_path: Path, monkeypatch) -> None:
    import mlflow

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [
            sys.executable, "-m", "medseglatdiff_monai", "register", run, "--tracking-uri", server, "--name", "lung-ct"
        ],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "models:/lung-ct/1" in done.stdout
    client = mlflow.MlflowClient(server)
    version = client.get_model_version("lung-ct", "1")
    assert version.run_id == read_run_ids(run, server)["parent"]

    # In a process of its own and without this checkout on the path: the model brings the package's code.
    image = np.random.default_rng(0).normal(60, 15, (2, 1, 128, 128)).astype(np.float32)
    image[:, :, 50:75, 55:80] += 120
    np.save(tmp_path / "image.npy", image)
    script = (
        "import sys, numpy as np, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_registry_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model('models:/lung-ct/1')\n"
        "result = model.predict(np.load('image.npy'), params={'num_samples': 5, 'seed': 3})\n"
        "import medseglatdiff_monai\n"
        "np.savez('result.npz', code=medseglatdiff_monai.__file__, **result)\n"
    )
    environment.pop("PYTHONPATH")
    subprocess.run([sys.executable, "-c", script, server], check=True, env=environment, cwd=tmp_path, timeout=300)
    segmenter = load_segmenter(run, num_samples=5, seed=3)
    with np.load(tmp_path / "result.npz") as found:
        assert str(ROOT) not in str(found["code"])
        assert {found[name].shape for name in ("confidence_map", "consensus_mask", "entropy")} == {(2, 1, 128, 128)}
        for number in range(2):
            expected = predict_image(MetaTensor(torch.from_numpy(image[number])), segmenter)
            np.testing.assert_array_equal(found["confidence_map"][number, 0], expected.confidence)
            np.testing.assert_array_equal(found["consensus_mask"][number, 0], expected.consensus)


def test_bundle_that_was_not_tracked_gets_a_run_of_its_own(server: str) -> None:
    from medseglatdiff_monai.mlflow_model import register

    uri, version = register(LUNG, server)
    assert (uri, version) == (f"models:/{LUNG}/1", 1)
    assert register(LUNG, server)[1] == 2


def test_store_that_does_not_answer_is_an_error_here(run: Path) -> None:
    from medseglatdiff_monai.mlflow_model import register

    with pytest.raises(InputError, match=r"127\.0\.0\.1:1 does not answer"):
        register(run, "http://127.0.0.1:1")
