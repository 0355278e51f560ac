"""A packed bundle is taken by MONAI's own download and load, and holds nothing that is not the bundle's."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from monai.bundle import download, load
from small_runs import LUNG, POLYP, copy_bundle, write_small_bundle

from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.pack import pack
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.files import file_sha256


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder of a finished run, with what runs leave beside the bundle."""
    root = write_small_bundle(tmp_path / "run")
    for name in ("mlruns.db", "models/image_codec.pt", "eval/case_consensus.nii.gz", "configs/.train.json.1.tmp"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"private")
    return root


def test_download_and_load_from_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(LUNG, tmp_path / "lung.zip")
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    monkeypatch.chdir(empty)
    download(name=LUNG, url=archive.as_uri(), bundle_dir=".", progress=False)
    network = load(name=LUNG, bundle_dir=".", workflow_type="inference", source="github", device="cpu")
    shipped = load_segmenter(LUNG, device="cpu")
    expected = shipped.network.state_dict()
    found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    # The unpacked folder is a bundle to this package as well.
    assert load_segmenter(empty / LUNG, device="cpu").metadata == shipped.metadata


def test_zip_holds_the_bundle_and_nothing_else(run: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(pack(run, tmp_path / "run.zip")) as archive:
        names = set(archive.namelist())
    shipped = {path.name for path in (bundles_dir() / LUNG / "configs").iterdir()}
    assert names == {f"run/configs/{name}" for name in shipped} | {"run/models/model.pt"}


def test_same_bundle_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    first = pack(run, tmp_path / "first.zip").read_bytes()
    for path in run.rglob("*.json"):
        path.touch()
    assert pack(run, tmp_path / "second.zip").read_bytes() == first
    (run / "configs" / "metadata.json").write_text(
        (run / "configs" / "metadata.json").read_text().replace("several plausible", "many plausible")
    )
    assert pack(run, tmp_path / "third.zip").read_bytes() != first


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "models" / "model.pt").unlink(), "is missing"),
        (lambda run: (run / "models" / "training_state_model.pt").touch(), "is not finished"),
        (lambda run: (run / "configs" / "metadata.json").write_text('{"version": "9"}'), "version '9' has no entry"),
        (
            lambda run: (run / "configs" / "train.json").write_text('{"tracking_uri": "http://me:secret@server:5000"}'),
            "password for server:5000",
        ),
    ],
    ids=["no weights", "unfinished", "changelog", "password"],
)
def test_what_should_not_be_passed_on_is_refused(run: Path, tmp_path: Path, spoil, message: str) -> None:
    spoil(run)
    with pytest.raises(InputError, match=message) as caught:
        pack(run, tmp_path / "run.zip")
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "run.zip").exists()


def test_bundle_without_weights_and_other_endings_are_refused(tmp_path: Path) -> None:
    root = copy_bundle(POLYP, tmp_path / "copy")
    shutil.rmtree(root / "models")
    with pytest.raises(InputError, match="medseglatdiff train"):
        pack(root, tmp_path / "polyp.zip")
    with pytest.raises(InputError, match=r"\.zip"):
        pack(LUNG, tmp_path / "lung.tar")


def test_metadata_travels_with_the_digest_of_the_weights(run: Path, tmp_path: Path) -> None:
    digest = {"weights_sha256": file_sha256(run / "models" / "model.pt")}
    with zipfile.ZipFile(pack(run, tmp_path / "run.zip")) as archive:
        packed = json.loads(archive.read("run/configs/metadata.json"))
        archive.extractall(tmp_path)
    metadata = json.loads((run / "configs" / "metadata.json").read_text())
    assert packed == {**metadata, **digest}
    load_segmenter(tmp_path / "run", device="cpu")


@pytest.mark.parametrize("name", ["docs/passwd", "configs/other.json", "docs", "models/model.pt"])
def test_links_are_not_followed(name: str, run: Path, tmp_path: Path) -> None:
    path, elsewhere = run / name, tmp_path / "elsewhere"
    if path.exists():
        path.rename(elsewhere)
    elif path.suffix or path.parent.name == "docs":
        path.parent.mkdir(exist_ok=True)
        elsewhere.write_text("{}")
    else:
        elsewhere.mkdir()
        (elsewhere / "passwd").write_text("root:x:0:0")
    path.symlink_to(elsewhere)
    with pytest.raises(InputError, match=rf"run/{name} is a link to .*elsewhere"):
        pack(run, tmp_path / "run.zip")
    assert not (tmp_path / "run.zip").exists()
