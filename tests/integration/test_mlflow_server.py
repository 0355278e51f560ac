"""A real MLflow server on loopback: a training is logged to it, the bundle is registered, loaded, and predicts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import Model
from monai.data import MetaTensor
from small_runs import LUNG, build_network, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.files import file_sha256
from medseglatdiff_monai.integrations.mlflow.store import read_run_ids
from medseglatdiff_monai.networks.weights import save_weights
from medseglatdiff_monai.predict.image import segment_image
from medseglatdiff_monai.training.run import train

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
            # Seven processes more, for jobs that nothing here hands out.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        try:
            for _ in range(1200):
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
    client, ids = MlflowClient(server), read_run_ids(run, server)
    assert set(ids) == {"parent", "image_codec", "mask_codec", "diffusion", "scoring"}
    found = client.get_run(ids["diffusion"])
    assert found.data.tags["mlflow.parentRunId"] == ids["parent"]
    assert found.info.status == client.get_run(ids["parent"]).info.status == "FINISHED"
    assert {"ged", "dice"} <= found.data.metrics.keys()
    assert [entry.path for entry in client.list_artifacts(ids["diffusion"], "panels")] == ["panels/epoch_0001.png"]
    assert not (run / "mlruns.db").exists()


@pytest.fixture(scope="module")
def registered(server: str, run: Path) -> str:
    """The run as a model, by the command."""
    client, parent = MlflowClient(server), read_run_ids(run, server)["parent"]
    before = client.get_run(parent).info
    # An epoch teaches tiny networks nothing but empty masks, of which any two agree.
    save_weights(build_network(run)[0], run / "models" / "model.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [
            sys.executable, "-m", "medseglatdiff_monai", "register", run, "--tracking-uri", server, "--name", "lung-ct"
        ],
        capture_output=True, text=True, env=environment, cwd=run, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "models:/lung-ct/1" in done.stdout
    after = client.get_run(parent).info
    # Registering is no training: it does not count as its time.
    assert (after.status, after.end_time) == (before.status, before.end_time)
    return "models:/lung-ct@candidate"


@pytest.fixture
def images() -> np.ndarray:
    images = np.random.default_rng(0).normal(60, 15, (2, 1, 128, 128)).astype(np.float32)
    images[:, :, 50:75, 55:80] += 120
    return images


def elsewhere(**variables: str) -> dict[str, str]:
    """Environment without this checkout on the path: the model brings the package's code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    environment.pop("PYTHONPATH", None)
    return environment


def assert_drawn_from(run: Path, images: np.ndarray, found: Mapping[str, Any]) -> None:
    """Five samples with seed 3 of each image are what the package itself draws."""
    segmenter = load_segmenter(run, num_samples=5, seed=3)
    assert {np.shape(found[name]) for name in ("confidence_map", "consensus_mask", "entropy")} == {images.shape}
    for number, image in enumerate(images):
        expected = segment_image(segmenter, MetaTensor(torch.from_numpy(image)))
        np.testing.assert_allclose(found["confidence_map"][number][0], expected.confidence, atol=1e-6)
        np.testing.assert_array_equal(found["consensus_mask"][number][0], expected.consensus())
        assert 0 < expected.consensus().sum() < expected.consensus().size


def test_registered_bundle_is_loaded_and_predicts(
    server: str, run: Path, registered: str, images: np.ndarray, tmp_path: Path
) -> None:
    version = MlflowClient(server).get_model_version("lung-ct", "1")
    assert version.run_id == read_run_ids(run, server)["parent"]
    np.save(tmp_path / "image.npy", images)
    script = (
        "import sys, numpy as np, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_registry_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model(sys.argv[2])\n"
        "result = model.predict(np.load('image.npy'), params={'num_samples': 5, 'seed': 3})\n"
        "import medseglatdiff_monai\n"
        "np.savez('result.npz', code=medseglatdiff_monai.__file__, **result)\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, server, registered], check=True, env=elsewhere(), cwd=tmp_path, timeout=900
    )
    with np.load(tmp_path / "result.npz") as found:
        assert str(ROOT) not in str(found["code"])
        assert_drawn_from(run, images, found)


def test_registered_version_says_what_it_is(
    server: str, run: Path, registered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(server)
    version = client.get_model_version_by_alias("lung-ct", "candidate")
    metadata = json.loads((run / "configs" / "metadata.json").read_text())
    assert version.tags == {
        "bundle": metadata["name"],
        "bundle_version": metadata["version"],
        "weights_sha256": file_sha256(run / "models" / "model.pt"),
    }
    tags = client.get_registered_model("lung-ct").tags
    assert tags == {key: metadata[key] for key in ("task", "intended_use", "data_source")}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    model = Model.load(registered)
    images, params = model.load_input_example(registered), model.load_input_example_params(registered)
    assert images.shape == (1, 1, 96, 96)
    assert params == {"num_samples": 1, "num_inference_steps": 1, "seed": 0}


@pytest.mark.slow
def test_mlflow_models_predict(server: str, run: Path, registered: str, images: np.ndarray, tmp_path: Path) -> None:
    request = {"inputs": images.tolist(), "params": {"num_samples": 5, "seed": 3}}
    (tmp_path / "images.json").write_text(json.dumps(request))
    done = subprocess.run(
        [
            sys.executable, "-m", "mlflow", "models", "predict", "--model-uri", registered, "--env-manager", "local",
            "--input-path", "images.json", "--output-path", "masks.json",
        ],
        capture_output=True, text=True, env=elsewhere(MLFLOW_TRACKING_URI=server), cwd=tmp_path, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert_drawn_from(run, images, json.loads((tmp_path / "masks.json").read_text())["predictions"])


@pytest.mark.slow
def test_pages_of_the_run_and_of_the_model(browser, server: str, run: Path, registered: str, tmp_path: Path) -> None:
    ids = read_run_ids(run, server)
    experiment = MlflowClient(server).get_run(ids["diffusion"]).info.experiment_id
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    for name, address, words in (
        ("runs", f"experiments/{experiment}/runs", [run.name]),
        ("run", f"experiments/{experiment}/runs/{ids['diffusion']}", ["ged", "dice", "batch_size", "Finished"]),
        ("panel", f"experiments/{experiment}/runs/{ids['diffusion']}/artifacts/panels", ["epoch_0001.png"]),
        ("model", "models/lung-ct", ["Version 1"]),
    ):
        page.goto(f"{server}/#/{address}")
        for word in words:
            page.get_by_text(word).first.wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / f"{name}.png")
    page.close()


def test_bundle_that_was_not_tracked_gets_a_run_of_its_own(server: str) -> None:
    from medseglatdiff_monai.integrations.mlflow.register import register

    uri, version = register(LUNG, server)
    assert (uri, version) == (f"models:/{LUNG}/1", 1)
    before = list(sys.path)
    assert register(LUNG, server, alias="champion")[1] == 2
    assert sys.path == before
    client = MlflowClient(server)
    assert client.get_registered_model(LUNG).aliases == {"candidate": "1", "champion": "2"}
    version = client.get_model_version(LUNG, "2")
    metrics = json.loads((bundles_dir() / LUNG / "configs" / "metadata.json").read_text())["eval_metrics"]
    assert metrics == {key: float(version.tags[f"validation.{key}"]) for key in metrics}
    assert client.get_run(version.run_id).data.tags["mlflow.source.name"] == "medseglatdiff register"


@pytest.mark.parametrize("alias", ["latest", "V1", "", "a b"])
def test_alias_that_mlflow_reserves_is_refused_before_anything_is_logged(alias: str, tmp_path: Path) -> None:
    from medseglatdiff_monai.integrations.mlflow.register import register

    with pytest.raises(InputError, match="alias is"):
        register(LUNG, f"sqlite:///{tmp_path}/m.db", alias=alias)
    assert not list(tmp_path.iterdir())


def test_store_that_does_not_answer_is_an_error_here(run: Path) -> None:
    from medseglatdiff_monai.integrations.mlflow.register import register

    with pytest.raises(InputError, match=r"127\.0\.0\.1:1 does not answer"):
        register(run, "http://127.0.0.1:1")
