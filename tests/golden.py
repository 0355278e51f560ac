"""Golden outputs: what the commands make of phantom and synthetic images, reduced to the JSON ``tests/golden.json``.

They guard a restructuring: whatever moves or merges inside, the commands' results stay. After a change of results that
is meant, or new weights of a bundle, rewrite them with ``python tests/golden.py --write`` from the root of the source
tree, and read the difference before it is committed. ``python tests/golden.py FILE`` writes what this tree makes to
another file; ``tests/test_golden.py`` compares the two.

Everything runs on one thread of the processor, from the embedded phantom and a seeded generator. Results without
provenance, times and UIDs are kept whole; an array is its type, shape, sum and SHA-256. Left out are ONNX (exporting
takes 35 s of processor time; ``test_onnx.py`` compares it with the network) and the report, whose text is the JSON's.
"""

from __future__ import annotations

import hashlib
import json
import platform
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel
import numpy as np
import pandas
import pydicom
import scipy
import torch
from PIL import Image
from tiny_dicom import CORNER_MM, write_series

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
GOLDEN = Path(__file__).with_name("golden.json")
LUNG = "lung_nodule_ct_latent_diffusion"
SEED = 0
SAMPLING = ("--num-samples", 4, "--seed", SEED, "--device", "cpu")
# Times, UIDs and versions; 111003 is the code of a version in a report.
VOLATILE = {
    "provenance", "seconds", "seconds_per_case", "series_instance_uid", "SoftwareVersions", "AlgorithmVersion",
    "111003",
}  # fmt: skip


def describe_machine() -> dict[str, str]:
    """What results depend on bit for bit. The name of a virtual machine's processor does not tell which one it is."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        wanted = ("model name", "cpu family", "model", "stepping", "cache size")
        processor = ", ".join(f"{name} {facts[name]}" for name in wanted if name in facts) or processor
    return {
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **{module.__name__: module.__version__ for module in (torch, np, scipy)},
    }


def hash_weights() -> dict[str, str]:
    """SHA-256 of the weights of every bundle that has any."""
    files = sorted(BUNDLES.glob("*/models/model.pt"))
    return {path.parents[1].name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make_golden() -> dict[str, Any]:
    """The content of ``golden.json``, of this source tree on this machine."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        inputs, outputs = Path(temporary) / "inputs", Path(temporary) / "outputs"
        inputs.mkdir()
        run_lung(inputs, outputs)
        Image.fromarray(paint_picture()).save(inputs / "picture.png")
        for bundle in hash_weights():
            if bundle != LUNG:
                run("predict", bundle, inputs / "picture.png", "--output-dir", outputs / bundle, *SAMPLING)
        files = sorted(path for path in outputs.rglob("[!.]*") if path.is_file())
        reduced = {path.relative_to(outputs).as_posix(): reduce_file(path) for path in files}
    return {"machine": describe_machine(), "weights": hash_weights(), "files": reduced}


def run(*words: Any) -> None:
    """Run a command as it is typed, in this process, so that the imports are made once."""
    with mock.patch.object(sys, "argv", ["medseglatdiff", *map(str, words)]):
        runpy.run_module("medseglatdiff_monai", run_name="__main__")


def run_lung(inputs: Path, outputs: Path) -> None:
    """Prepare, predict (a crop; a DICOM series with a point), evaluate and export with the lung bundle."""
    phantom = ("prepare", "phantom", "--ratios", "0:0:1", "--workers", 1)
    run(*phantom, "--num-cases", 4, "--output-dir", outputs / "phantom")
    run(*phantom, "--num-cases", 1, "--depth", 9, "--phantom-seed", 31, "--output-dir", outputs / "volume")
    run(
        "evaluate", LUNG, "--dataset-dir", outputs / "phantom", "--split", "test", "--output-dir",
        outputs / "evaluate", "--save-samples", *SAMPLING,
    )  # fmt: skip
    crop = min((outputs / "phantom" / "images").iterdir())
    run("predict", LUNG, crop, "--output-dir", outputs / "crop", *SAMPLING)

    (path,) = (outputs / "volume" / "images").iterdir()
    volume = nibabel.load(path)
    spacing = np.array([float(size) for size in volume.header.get_zooms()])
    series = write_series(inputs / "series", np.asarray(volume.dataobj).transpose(2, 0, 1), tuple(spacing))
    # Columns are x, rows are y; the nodule is in the middle of the prepared volume.
    middle = np.array(CORNER_MM) + [volume.shape[axis] // 2 * spacing[axis] for axis in (1, 0, 2)]
    point = ",".join(f"{value:.3f}" for value in middle)
    run("predict", LUNG, series, f"--point={point}", "--dicom", True, "--output-dir", outputs / "series", *SAMPLING)

    run("export", LUNG, "--output-file", inputs / "lung.ts", "--num-samples", 2)
    pixels = np.asarray(nibabel.load(crop).dataobj, np.float32)
    image = torch.from_numpy((pixels - pixels.min()) / np.ptp(pixels))[None, None, 32:96, 32:96]
    noise = torch.from_numpy(np.random.default_rng(SEED).standard_normal((1, 2, 8, 16, 16), np.float32))
    with torch.no_grad():
        np.savez(outputs / "torchscript.npz", confidence=torch.jit.load(inputs / "lung.ts")(image, noise).numpy())


def paint_picture(height: int = 150, width: int = 200) -> np.ndarray:
    """A dark, uneven spot with a soft edge on skin, (height, width, 3) uint8."""
    rng = np.random.default_rng(SEED)
    rows, columns = np.mgrid[:height, :width]
    angle = np.arctan2(rows - 70, columns - 110)
    distance = np.hypot((rows - 70) / 40, (columns - 110) / 55) + 0.15 * np.sin(3 * angle)
    share = np.clip((1.2 - distance) / 0.5, 0, 1)[..., None]
    colour = np.array([205, 150, 130]) * (1 - share) + np.array([120, 60, 50]) * share
    return np.clip(colour + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def reduce_file(path: Path) -> Any:
    """A result without what changes from run to run, as JSON can hold it."""
    if path.suffix == ".json":
        return drop_volatile(json.loads(path.read_text()))
    if path.suffix == ".csv":
        return drop_volatile(pandas.read_csv(path, float_precision="round_trip").to_dict("records"))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: reduce_array(array) for name, array in sorted(arrays.items())}
    if path.name.endswith(".nii.gz"):
        image = nibabel.load(path)
        return {**reduce_array(np.asarray(image.dataobj)), "affine": image.affine.tolist()}
    if path.suffix == ".dcm":
        return reduce_dicom(pydicom.dcmread(path), {})
    if path.suffix == ".png":
        with Image.open(path) as image:
            # The rendering of text depends on the libraries.
            rendered = path.stem.endswith("_panel") or path.name == "cases.png"
            return list(image.size) if rendered else reduce_array(np.asarray(image))
    raise ValueError(f"{path}: no rule for this kind of file.")


def reduce_array(array: np.ndarray) -> dict[str, Any]:
    """Type and shape, the sum of the values and the hash of their bytes."""
    total = array.sum(dtype=np.float64 if array.dtype.kind == "f" else np.int64).item()
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"array": f"{array.dtype} {'x'.join(map(str, array.shape))}", "sum": total, "sha256": digest}


def drop_volatile(value: Any) -> Any:
    """Leave out times, UIDs and how a result was made."""
    if isinstance(value, dict):
        return {name: drop_volatile(entry) for name, entry in value.items() if name not in VOLATILE}
    return [drop_volatile(entry) for entry in value] if isinstance(value, list) else value


def reduce_dicom(dataset: pydicom.Dataset, uids: dict[str, str]) -> dict[str, Any]:
    """Keywords and values; a UID is the number of its first appearance, so that references stay comparable."""
    reduced: dict[str, Any] = {}
    for element in dataset:
        if element.VR in ("DA", "TM", "DT") or element.keyword in VOLATILE:
            continue
        value = element.value
        if element.keyword in ("PixelData", "FloatPixelData"):
            value = reduce_array(dataset.pixel_array)
        elif element.VR == "SQ":
            value = [reduce_dicom(item, uids) for item in value if read_concept(item) not in VOLATILE]
        elif element.VR == "UI":
            value = value.name if value.name != value else uids.setdefault(value, f"UID {len(uids) + 1}")
        elif isinstance(value, pydicom.multival.MultiValue):
            value = list(value)
        elif not isinstance(value, (int, float, type(None))):
            value = str(value)
        reduced[element.keyword] = value
    return reduced


def read_concept(item: pydicom.Dataset) -> str | None:
    """The code that says what an item of a report is."""
    return item.ConceptNameCodeSequence[0].CodeValue if "ConceptNameCodeSequence" in item else None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = GOLDEN if sys.argv[1] == "--write" else Path(sys.argv[1])
    target.write_text(json.dumps(make_golden(), indent=1) + "\n")
