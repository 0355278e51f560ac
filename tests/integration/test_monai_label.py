"""A real MONAI Label server with the four bundles, spoken to over HTTP, in an environment of its own.

The environment is taken from .venv-label where ``make label-server`` has made it, or from MEDSEGLATDIFF_LABEL_PYTHON.
Where MEDSEGLATDIFF_ENVIRONMENTS=1 it is built (minutes, 3 GB) and removed. With MEDSEGLATDIFF_ENVIRONMENTS=lean,
as ``make integration`` sets it, only what this environment lacks, or has in another version, is installed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import requests
from packaging.utils import canonicalize_name
from PIL import Image
from small_runs import BUNDLES, LUNG, POLYP, SKIN, build_network, run_sizes, small_sizes, write_small_bundle

from medseglatdiff_monai.bundle.build import write_run_folder
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.data.sources.phantom_dicom import write_phantom_dicom_series
from medseglatdiff_monai.integrations.monai_label.answer import answer_request
from medseglatdiff_monai.networks.weights import save_weights
from medseglatdiff_monai.predict.command import predict

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
AFFINE = np.array([[-0.7, 0, 0, 60], [0, -0.8, 0, 70], [0, 0, 2.0, -100], [0, 0, 0, 1.0]])
CLICK = [[67, 58, 1]]


@pytest.fixture(scope="module")
def label_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Interpreter of an environment with MONAI Label."""
    own = ROOT / ".venv-label" / "bin" / "python"
    given = os.environ.get("MEDSEGLATDIFF_LABEL_PYTHON") or (str(own) if own.is_file() else None)
    if given:
        yield given
        return
    kind = os.environ.get("MEDSEGLATDIFF_ENVIRONMENTS")
    if kind not in ("1", "lean"):
        pytest.skip("installs MONAI Label: set MEDSEGLATDIFF_ENVIRONMENTS=lean (320 MB) or 1 (3 GB)")
    if sys.version_info[:2] != (3, 11):
        pytest.skip(f"constraints-label.txt is for Python 3.11, this is {sys.version.split()[0]}")
    folder = tmp_path_factory.mktemp("label") / kind
    constraints = ROOT / "constraints-label.txt"
    torch = next(line for line in constraints.read_text().splitlines() if line.startswith("torch=="))
    try:
        if kind == "lean":
            yield install_missing(folder, constraints)
            return
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
        index = os.environ.get("TORCH_INDEX_URL")
        subprocess.run([*install, *(["--index-url", index] if index else []), torch], check=True, timeout=1800)
        subprocess.run([*install, "--no-deps", "-r", constraints], check=True, timeout=1800)
        yield str(folder / "bin" / "python")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install_missing(folder: Path, constraints: Path) -> str:
    """Lay what this environment lacks, or has in another version, over it; returns the interpreter."""
    # torch may have a suffix, as in 2.13.0+cpu.
    present = {(canonicalize_name(found.name), found.version.partition("+")[0]) for found in distributions()}
    lines = [line for line in constraints.read_text().splitlines() if line and not line.startswith("#")]
    pinned = {line: line.split("==") for line in lines}
    missing = [line for line, (name, version) in pinned.items() if (canonicalize_name(name), version) not in present]
    venv.create(folder, with_pip=False)
    python = str(folder / "bin" / "python")
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *missing]
    subprocess.run(install, check=True, timeout=1800)
    return python


def write_scan(path: Path, seed: int) -> np.ndarray:
    """A bright block in noise; returns the block as a mask."""
    array = np.random.default_rng(seed).normal(-800, 40, (150, 140, 3)).astype(np.int16)
    mask = np.zeros(array.shape, np.uint8)
    mask[60:75, 50:66, 1:] = 1
    array[mask > 0] = 30
    nibabel.Nifti1Image(array, AFFINE).to_filename(path)
    return mask


def write_picture(path: Path, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (50, 90, 3), dtype=np.uint8)
    mask = np.zeros((50, 90), np.uint8)
    mask[10 : 20 + 5 * seed, 20:60] = 1
    pixels[mask > 0] += 100
    Image.fromarray(pixels).save(path)
    return mask


@dataclass
class Server:
    uri: str
    app: Path
    studies: Path
    masks: dict[str, np.ndarray]

    def call(self, method: str, path: str, status: int = 200, **arguments: Any) -> Any:
        answer = requests.request(method, self.uri + path, timeout=600, **arguments)
        assert answer.status_code == status, f"{answer.status_code}: {answer.text[:2000]}\n{self.read_log()}"
        return answer if "output=image" in path else answer.json()

    def infer(self, model: str, image: str, status: int = 200, output: str = "json", **params: Any) -> Any:
        path = f"/infer/{model}?image={image}&output={output}"
        return self.call("POST", path, status, data={"params": json.dumps(params)})

    def read_log(self) -> str:
        return (self.app.parent / "server.log").read_text()[-6000:]

    def segmenter(self, name: str, **options: int) -> Any:
        return load_segmenter(self.app / "model" / name, device="cpu", **options)


@pytest.fixture(scope="module")
def server(label_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    for name in BUNDLES:
        sizes = {**small_sizes(name), **run_sizes(2), "draws": 1, "val_num_samples": 2, "val_interval": 1}
        root = write_run_folder(name, folder / "bundles" / name, None, sizes)
        # The polyp bundle begins without weights.
        if name != POLYP:
            save_weights(build_network(root)[0], root / "models" / "model.pt")
    studies = folder / "studies"
    studies.mkdir()
    masks = {f"scan-{n}": write_scan(studies / f"scan-{n}.nii.gz", n) for n in range(3)}
    masks |= {f"picture-{n}": write_picture(studies / f"picture-{n}.png", n) for n in range(5)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(folder), "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    found = Server(f"http://127.0.0.1:{port}", folder / "app", studies, masks)
    bundles = ",".join(str(folder / "bundles" / name) for name in BUNDLES)
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [
                label_python, "-m", "medseglatdiff_monai.integrations.monai_label", str(studies), "--bundles", bundles,
                "--app-dir", str(found.app), "--port", str(port),
            ],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            for _ in range(1200):
                try:
                    requests.get(f"{found.uri}/info/", timeout=30).raise_for_status()
                    break
                except requests.ConnectionError:
                    assert process.poll() is None, found.read_log()
                    time.sleep(0.5)
            else:
                pytest.fail(f"MONAI Label did not answer: {found.read_log()}")
            yield found
        finally:
            os.killpg(process.pid, 15)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait(20)


def test_core_predicts_with_pydicom_2_and_numpy_1(label_python: str, tmp_path: Path) -> None:
    script = (
        "import sys, numpy, pydicom\n"
        "from medseglatdiff_monai.data.sources.phantom_dicom import write_phantom_dicom_series\n"
        "assert (pydicom.__version__[0], numpy.__version__[0]) == ('2', '1')\n"
        "print(write_phantom_dicom_series('LIDC-IDRI-0023', sys.argv[1], margin=0))\n"
    )
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300, "check": False}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([label_python, "-c", script, "theirs"], env=environment, **options)
    assert done.returncode == 0, done.stderr
    ours = write_phantom_dicom_series("LIDC-IDRI-0023", tmp_path / "ours", margin=0)
    theirs = tmp_path / done.stdout.splitlines()[-1]
    # The same series but for the version of pydicom in its headers.
    for path in sorted(ours.iterdir()):
        assert pydicom.dcmread(path) == pydicom.dcmread(theirs / path.name)
    bundle = write_small_bundle(tmp_path / LUNG, num_samples=3)
    options["timeout"] = 600
    command = [
        label_python, "-m", "medseglatdiff_monai", "predict", str(bundle), str(theirs), "--index", "256,256,2",
        "--output-dir", "drawn", "--slices", "3", "--dicom", "False",
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, **options)
    assert done.returncode == 0, done.stderr
    (expected,) = predict(bundle, ours, tmp_path / "expected", index="256,256,2", slices=3, dicom=False)
    (found,) = (tmp_path / "drawn").glob("*_samples.npz")
    with np.load(found) as one, np.load(expected["files"]["samples"]) as other:
        np.testing.assert_array_equal(one["samples"], other["samples"])
        assert one["samples"].any()


def test_info_lists_models_options_and_strategy(server: Server) -> None:
    info = server.call("GET", "/info/")
    assert set(info["models"]) == set(BUNDLES) - {POLYP}
    assert set(info["trainers"]) == set(BUNDLES)
    assert {"random", "first", "disagreement"} <= set(info["strategies"])
    lung, skin = info["models"][LUNG], info["models"][SKIN]
    assert (lung["type"], lung["dimension"], lung["labels"]) == ("deepgrow", 3, {"nodule": 1})
    assert (skin["type"], skin["dimension"]) == ("segmentation", 2)
    options = {"num_samples": 2, "num_inference_steps": 2, "seed": 0}
    assert options.items() <= lung["config"].items()
    assert lung["config"]["model_filename"] == ["model.pt"]
    assert f"{POLYP}: no weights yet" in (server.app.parent / "server.log").read_text()


def test_volume_is_answered_with_mask_and_volume_interval(server: Server, tmp_path: Path) -> None:
    # The same numbers as in this environment, with other versions of numpy and pydicom.
    options = {"num_samples": 4, "num_inference_steps": 3, "seed": 5}
    request = {"image": str(server.studies / "scan-0.nii.gz"), "foreground": CLICK}
    expected = answer_request(server.segmenter(LUNG, **options), request)
    params = server.infer(LUNG, "scan-0", foreground=CLICK, **options)
    assert {name: params[name] for name in expected.result} == expected.result
    assert options.items() <= params.items()
    volume = params["nodules"][0]["volume_mm3"]
    assert volume["median"] > 0
    assert volume["interval"] is None  # of four samples
    assert params["label_names"] == {"nodule": 1}
    answer = server.infer(LUNG, "scan-0", output="image", foreground=CLICK, **options)
    (tmp_path / "mask.nii.gz").write_bytes(answer.content)
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-4)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(mask.dataobj), expected.mask)
    # Another seed is another ensemble: options reach the inferer in every request.
    other = server.infer(LUNG, "scan-0", foreground=CLICK, **{**options, "seed": 6})
    assert other["nodules"] != params["nodules"]


def test_uploaded_volume_and_whole_answer(server: Server) -> None:
    with (server.studies / "scan-0.nii.gz").open("rb") as handle:
        answer = requests.post(
            f"{server.uri}/infer/{LUNG}", files={"file": ("scan.nii.gz", handle)}, timeout=600,
            data={"params": json.dumps({"foreground": CLICK})},
        )  # fmt: skip
    assert answer.status_code == 200, answer.text[:1000]
    assert answer.headers["content-type"].startswith("multipart/form-data")
    assert b'"volume_mm3"' in answer.content
    assert b'filename="' in answer.content


def test_picture_is_answered_with_mask_and_area_interval(server: Server) -> None:
    expected = answer_request(server.segmenter(SKIN), {"image": str(server.studies / "picture-1.png")})
    params = server.infer(SKIN, "picture-1")
    assert {name: params[name] for name in expected.result} == expected.result
    assert set(params["area_pixels"]) == {"consensus", "median", "interval"}
    mask = np.array(Image.open(io.BytesIO(server.infer(SKIN, "picture-1", output="image").content)))
    assert mask.shape == (50, 90)
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(mask, expected.mask.T)


@pytest.mark.parametrize(
    ("model", "image", "params", "message"),
    [
        (LUNG, "scan-0", {}, "no nodule was clicked"),
        (LUNG, "scan-0", {"foreground": [[67, 58, 30]]}, "is outside the volume"),
        (LUNG, "picture-0", {}, "the bundle expects one grey channel"),
        (SKIN, "scan-0", {}, "the bundle expects three channels"),
        (SKIN, "picture-0", {"num_samples": 0}, "'num_samples' is 0"),
        (SKIN, "picture-0", {"seed": "x"}, "'seed' is 'x'"),
        (POLYP, "picture-0", {}, "has no weights"),
        ("liver", "picture-0", {}, "no model 'liver'"),
        (SKIN, "nothing", {}, "No image 'nothing'"),
    ],
)
def test_what_the_client_can_mend_is_said(server: Server, model: str, image: str, params: dict, message: str) -> None:
    answer = server.infer(model, image, status=422, **params)
    assert answer["detail"]["error"] == "INVALID_INPUT"
    assert message in answer["detail"]["message"]


def test_request_without_an_image(server: Server) -> None:
    answer = server.call("POST", f"/infer/{SKIN}?session_id=over", 422, data={"params": "{}"})
    assert answer["detail"]["error"] == "INVALID_INPUT"
    assert "No image ''" in answer["detail"]["message"]
    # MONAI Label's own answer, before it asks the app.
    answer = server.call("POST", f"/infer/{SKIN}", 500, data={"params": "{}"})
    assert "Neither Image nor File" in answer["detail"]


def test_strategy_proposes_the_picture_of_most_disagreement(server: Server) -> None:
    segmenter = server.segmenter(SKIN, num_samples=3, seed=1)
    scores = {
        f"picture-{n}": answer_request(segmenter, {"image": str(server.studies / f"picture-{n}.png")}).result[
            "disagreement"
        ]
        for n in range(5)
    }
    request = {"model": SKIN, "num_samples": 3, "seed": 1}
    first = server.call("POST", "/activelearning/disagreement", json={**request, "max_images": 3})
    assert (first["scored"], first["pending"]) == (3, 5)
    found = server.call("POST", "/activelearning/disagreement", json=request)
    assert found["id"] == max(scores, key=lambda name: scores[name])
    assert found["disagreement"] == pytest.approx(max(scores.values()), abs=1e-4)
    assert found["scored"] == 5
    assert set(found["left_out"]) == {"scan-0", "scan-1", "scan-2"}


def test_strategy_scores_volumes_where_it_is_said_where_to_look(server: Server) -> None:
    answer = server.call("POST", "/activelearning/disagreement", 422, json={"model": LUNG})
    assert "no nodule was clicked" in answer["detail"]["message"]
    info = {"info": json.dumps({"foreground": CLICK})}
    server.call("PUT", "/datastore/image/info?image=scan-2", data=info)
    assert server.call("POST", "/activelearning/disagreement", json={"model": LUNG})["id"] == "scan-2"
    answer = server.call("POST", "/activelearning/disagreement", 422, json={})
    assert "'model' is None" in answer["detail"]["message"]


def submit(server: Server, image: str) -> None:
    """Save a label as a viewer does."""
    path = server.app.parent / (f"{image}.nii.gz" if image.startswith("scan") else f"{image}.png")
    if image.startswith("scan"):
        nibabel.Nifti1Image(server.masks[image], AFFINE).to_filename(path)
    else:
        Image.fromarray(server.masks[image]).save(path)
    with path.open("rb") as handle:
        server.call("PUT", f"/datastore/label?image={image}", files={"label": (path.name, handle)})


def test_weights_trained_for_an_epoch_are_compared_with_those_in_use(server: Server) -> None:
    answer = server.call("POST", f"/train/{LUNG}?run_sync=true", 422, json={"max_epochs": 1})
    assert "expected at least two" in answer["detail"]["message"]
    for image in ("scan-0", "scan-1", "picture-0"):
        submit(server, image)
    root = server.app / "model" / LUNG
    before = (root / "models" / "model.pt").read_bytes()
    params = server.infer(LUNG, "scan-2", foreground=CLICK)
    request = {"max_epochs": 1, "batch_size": 2, "learning_rate": 0.01, "val_split": 0.5}
    trained = server.call("POST", f"/train/{LUNG}?run_sync=true", json=request)
    assert trained["labels"] == 2
    assert set(trained["left_out"]) == {"picture-0.png"}
    new, dice = (Path(trained["run"]) / "models" / "model.pt").read_bytes(), trained["validation"]
    assert new != before
    assert trained["published"] == (dice["dice"] >= dice["dice_before"])
    assert (root / "models" / "model.pt").read_bytes() == (new if trained["published"] else before)
    assert (root / "models" / "model_previous.pt").is_file() == trained["published"]
    expected = answer_request(
        server.segmenter(LUNG), {"image": str(server.studies / "scan-2.nii.gz"), "foreground": CLICK}
    )
    after = server.infer(LUNG, "scan-2", foreground=CLICK)
    assert {name: after[name] for name in expected.result} == expected.result
    assert (after["nodules"] != params["nodules"]) == trained["published"]


def test_bundle_without_weights_is_trained_in_the_background_and_then_draws(server: Server) -> None:
    for image in ("picture-1", "picture-2", "picture-3"):
        submit(server, image)
    task = server.call("POST", f"/train/{POLYP}", json={"max_epochs": 1, "batch_size": 2})
    assert task["status"] in ("SUBMITTED", "RUNNING")
    for _ in range(600):
        task = server.call("GET", "/train/")
        if task["status"] in ("DONE", "ERROR"):
            break
        time.sleep(1)
    assert task["status"] == "DONE", task
    assert server.infer(POLYP, "picture-4")["area_pixels"]["consensus"] >= 0
    assert set(server.call("GET", "/info/")["models"]) == set(BUNDLES)
