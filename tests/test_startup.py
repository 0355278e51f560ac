"""What a command imports: nothing heavy before its arguments are checked, and no package that it does not use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import LUNG, write_small_bundle

from medseglatdiff_monai.startup import heavy_imports

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[1]
# Each takes tenths of a second or more to import.
HEAVY = {
    "SimpleITK", "highdicom", "ignite", "itk", "matplotlib", "mlflow", "monai", "nibabel", "onnx", "onnxruntime",
    "pandas", "pydicom", "pylidc", "scipy", "skimage", "sklearn", "sqlalchemy", "statsmodels", "tensorboard", "torch",
}  # fmt: skip
# Runs the command line and says on the last line of stdout what was imported before and by it.
SCRIPT = """
import json, sys
if sys.argv.pop(1) == "monai first":
    import monai
before = set(sys.modules)
from medseglatdiff_monai.cli import main
status = None
if sys.argv[1:]:
    try:
        main()
    except SystemExit as error:
        status = str(error)
print()
print(json.dumps({"status": status, "new": sorted(set(sys.modules) - before)}))
"""


def imports(*arguments: object, first: str = "") -> tuple[str | None, set[str]]:
    """How a command ended (``None``: well), and the modules that it imported, after MONAI itself where so asked."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PAGER": "cat"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, first, *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    return result["status"], set(result["new"])


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "one.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    return path


def test_the_command_line_itself_imports_nothing_heavy() -> None:
    _, modules = imports()
    assert not packages(modules) & {*HEAVY, "numpy"}


@pytest.mark.parametrize(
    "command",
    [
        "--help", "--version", "bundles", "experiments", "suites", "prepare --help", "prepare lidc --help",
        "train --help", "benchmark --help", "predict --help", "view --help", "demo --help",
    ],
)  # fmt: skip
def test_help_and_lists_import_nothing_heavy(command: str) -> None:
    status, modules = imports(*command.split())
    assert status is None
    assert not packages(modules) & HEAVY


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["predict", "lung", "{image}"], "No bundle 'lung'"),
        (["predict", LUNG, "missing.png"], "missing.png: no such file or folder"),
        (["predict", LUNG, "{image}", "--num_sample=3"], "Unknown configuration key 'num_sample'"),
        (["predict", LUNG, "{image}", "--device=gpu"], "--device is 'gpu'"),
        (["predict", LUNG, "{image}", "--num-samples=0"], "--num-samples is 0"),
        (["predict", LUNG, "{image}", "--point=1,2"], "--point is (1, 2)"),
        (["predict", LUNG, "{image}", "--experiment=none"], "No experiment 'none'"),
        (["predict", LUNG, "{image}", "--fusion=median"], "fusion: found 'median', expected one of mean, majority"),
        (["predict", LUNG, "{image}", "--threshold=1.5"], "threshold must be in (0, 1], found 1.5"),
        (["predict", LUNG, "{folder}"], "holds neither pictures"),
        (["evaluate", LUNG, "--dataset-dir=d", "--batch_size=0"], "--batch_size is 0; expected an integer of at least"),
        (["evaluate", LUNG, "--dataset-dir=d", "--score_at=x"], "score_at must be 'native' or 'network'"),
        (["evaluate", LUNG, "--dataset-dir=d", "--split=x"], "split 'x': expected train"),
        (["train", LUNG, "--dataset-dir=d", "--batch_size=0"], "--batch_size is 0"),
        (["train", "lung", "--dataset-dir=d"], "No bundle 'lung'"),
        (["train", LUNG, "--dataset-dir=missing"], "No prepared data set at missing"),
        (["evaluate", "lung", "--dataset-dir=d"], "No bundle 'lung'"),
        (["export", "lung"], "No bundle 'lung'"),
        (["pack", "lung"], "No bundle 'lung'"),
        (["register", "lung", "--tracking-uri=sqlite:///m.db"], "No bundle 'lung'"),
        (["view", "--bundle=lung"], "No bundle 'lung'"),
        (["check-bundle", "lung"], "No bundle 'lung'"),
        (["report", "missing"], "missing: no such folder"),
        (["benchmark", "ambiguty", "--dataset-dir=d", "--output-dir=o"], "Did you mean 'ambiguity'?"),
        (["benchmark", "ambiguity", "--dataset-dir=d", "--output-dir=o", "--bundle=lung"], "No bundle 'lung'"),
        (["prepare", "lidc_slices", "src", "--output-dir=o"], "Did you mean 'lidc-slices'?"),
        (["train", LUNG, "--dataset-dir=d", "--max-epoks=3"], "No prepared data set at d"),
    ],
)
def test_wrong_arguments_are_told_before_anything_heavy_is_imported(
    wrong: list[str], message: str, image: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / ".hidden").mkdir(parents=True)
    for name in ("notes.txt", ".hidden/slice.dcm"):
        (folder / name).write_text("neither")
    arguments = [part.format(image=image, folder=folder) for part in wrong]
    if wrong[0] in ("predict", "train", "evaluate"):
        arguments.append(f"--output-dir={tmp_path / 'out'}")
    elif wrong[0] in ("export", "pack"):
        arguments.append(f"--output-file={tmp_path / 'out'}")
    status, modules = imports(*arguments)
    assert status is not None
    assert message in status
    assert not packages(modules) & HEAVY


def test_a_prediction_imports_only_what_it_uses(image: Path, tmp_path: Path) -> None:
    """``import monai`` brings nearly all of HEAVY with it; what counts here is what a prediction adds to that."""
    bundle = write_small_bundle(tmp_path / LUNG, num_samples=3)
    status, modules = imports("predict", bundle, image, "--output-dir", tmp_path / "out", first="monai first")
    assert status is None
    assert (tmp_path / "out" / "one_consensus.png").is_file()
    assert packages(modules) & HEAVY <= {"matplotlib", "scipy", "torch"}
    assert not {
        "matplotlib.pyplot", "medseglatdiff_monai.suites", "medseglatdiff_monai.integrations.mlflow.model",
        "medseglatdiff_monai.integrations.export.onnx_runner", "medseglatdiff_monai.integrations.mlflow.tracking",
        "medseglatdiff_monai.training.run", "medseglatdiff_monai.integrations.view", "scipy.stats",
    } & modules  # fmt: skip


@pytest.mark.parametrize(("given", "found"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_sleep_unless_told_otherwise(given: str | None, found: str, monkeypatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    with heavy_imports():
        pass
    assert os.environ["OMP_WAIT_POLICY"] == found


# In a process of its own: elsewhere MONAI is imported already.
DEFERRED = """
import sys
from importlib.util import find_spec
from medseglatdiff_monai.startup import DEFERRED, heavy_imports, start_command
start_command()
with heavy_imports():
    import monai
assert not set(DEFERRED) & set(sys.modules), sorted(set(DEFERRED) & set(sys.modules))

import ignite.handlers.checkpoint
import monai.handlers
import numpy as np
import torch
from monai.data import ultrasound_confidence_map
from monai.utils import jupyter_utils
signal = np.sin(np.arange(64.0))
mine = ultrasound_confidence_map.hilbert(signal)
from scipy.signal import hilbert
assert np.array_equal(mine, hilbert(signal))
assert jupyter_utils.plt.figure().axes == []
import matplotlib.pyplot
assert jupyter_utils.plt.gcf is matplotlib.pyplot.gcf
optimizer = torch.optim.SGD([torch.zeros(1)])
kept = ignite.handlers.checkpoint.ZeroRedundancyOptimizer
assert not isinstance(optimizer, kept)
from torch.distributed.optim import ZeroRedundancyOptimizer
assert not isinstance(optimizer, kept)
assert isinstance(object.__new__(ZeroRedundancyOptimizer), kept)

from sklearn.metrics import silhouette_score
points = np.array([[0.0], [0.1], [1.0], [1.1]])
groups = [0, 0, 1, 1]
assert monai.metrics.embedding_collapse.sklearn_silhouette(points, groups) == silhouette_score(points, groups)

if find_spec("transformers"):
    from monai.networks.nets.transchex import MultiModal
    sizes = dict.fromkeys(("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"), 8)
    network = MultiModal(1, 1, 1, {**sizes, "is_decoder": False})
    words, patches = network(torch.zeros(2, 3, dtype=torch.int64), vision_feats=torch.zeros(2, 3, 8))
    assert words.shape == patches.shape == (2, 3, 8)
"""


def test_what_monai_imports_for_others_is_imported_when_they_use_it() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", DEFERRED], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr


LIBRARY = """
import gc, weakref
from medseglatdiff_monai.startup import heavy_imports
with heavy_imports():
    import monai
from monai.bundle import ConfigParser
assert ConfigParser({"a": {"_target_": "MLFlowHandler", "_mode_": "callable"}}).get_parsed_content("a")
class Network: pass
network = Network()
network.own, alive = network, weakref.ref(network)
del network
with heavy_imports():
    pass
gc.collect()
assert alive() is None
"""


def test_a_program_that_uses_the_package_is_left_as_it_is() -> None:
    """MONAI has all its parts, and what the program no longer needs is collected."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, "-c", LIBRARY], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
