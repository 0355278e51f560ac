"""A bundle names the SHA-256 of its weights: other bytes do not load, and trained ones do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_runs import BUNDLES, LUNG, build_network, copy_bundle

from medseglatdiff_monai.bundle import load_segmenter, write_run_folder
from medseglatdiff_monai.bundle.build import record_digest
from medseglatdiff_monai.bundle.check import check_bundle
from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.json_style import dump_config
from medseglatdiff_monai.digest import OF_THE_WEIGHTS, forget_digest, named_digest
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.files import file_sha256, read_json
from medseglatdiff_monai.networks.weights import load_tensors, save_weights


def flip_bytes(path: Path, number: int = 64) -> None:
    """Change so many bytes in the middle of a file, which torch reads all the same."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + number] = bytes(byte ^ 1 for byte in content[middle : middle + number])
    path.write_bytes(content)


@pytest.mark.parametrize("name", BUNDLES)
def test_shipped_bundles_name_their_weights(name: str) -> None:
    weights = bundles_dir() / name / "models" / "model.pt"
    assert named_digest(weights) == file_sha256(weights), "run 'make bundles'"


def test_flipped_bytes_are_refused(tmp_path: Path) -> None:
    root = copy_bundle(LUNG, tmp_path)
    weights = root / "models" / "model.pt"
    flip_bytes(weights)
    elsewhere = shutil.copy(weights, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"model\.pt has the SHA-256 .*; expected .*metadata\.json"):
        load_segmenter(root, device="cpu")
    assert any("weights_sha256 is that of other weights" in line for line in check_bundle(root))
    # Nobody vouches for these: the check sums within the file speak.
    for path in (elsewhere, weights):
        forget_digest(path)
        with pytest.raises(InputError, match=r"check sum of .* is wrong"):
            load_tensors(path)


def test_a_run_names_no_weights_of_the_bundle_it_was_made_from(tmp_path: Path) -> None:
    run = write_run_folder(LUNG, tmp_path / "run")
    shipped = read_json(bundles_dir() / LUNG / "configs" / "metadata.json")
    expected = {key: value for key, value in shipped.items() if key not in OF_THE_WEIGHTS}
    assert len(shipped) - len(expected) == 2
    assert read_json(run / "configs" / "metadata.json") == expected


def test_weights_that_are_trained_in_a_bundle_load(tmp_path: Path) -> None:
    root = copy_bundle(LUNG, tmp_path)
    weights = root / "models" / "model.pt"
    before = named_digest(weights)
    save_weights(build_network(root)[0], weights)
    assert before is not None
    assert named_digest(weights) is None
    assert load_tensors(weights)


def test_release_step_writes_what_is_compared(tmp_path: Path) -> None:
    root = copy_bundle(LUNG, tmp_path)
    metadata, weights = root / "configs" / "metadata.json", root / "models" / "model.pt"
    flip_bytes(weights)
    record_digest(root)
    assert named_digest(weights) == file_sha256(weights)
    assert metadata.read_text() == dump_config(read_json(metadata))
    # In a source tree without weights.
    before = metadata.read_text()
    weights.unlink()
    record_digest(root)
    assert metadata.read_text() == before
