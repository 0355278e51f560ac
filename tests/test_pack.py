"""A packed bundle is taken by MONAI's own download and load, and holds nothing that is not the bundle's."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from monai.bundle import download, load
from small_runs import LUNG, POLYP, copy_bundle, write_small_bundle

from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.hub import licence_id
from medseglatdiff_monai.bundle.pack import pack
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.cli import main
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


def test_hub_folder_holds_the_bundle_a_card_and_safetensors(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    safetensors = pytest.importorskip("safetensors.torch")
    folder = pack(POLYP, tmp_path / "hub", format="huggingface")
    shipped = bundles_dir() / POLYP
    card = hub.ModelCard.load(folder / "README.md")
    scores = json.loads((shipped / "configs" / "metadata.json").read_text())["eval_metrics"]
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == scores
    assert {(result.dataset_name, result.dataset_type) for result in card.data.eval_results} == {
        ("CVC-ClinicDB", "cvc-clinicdb")
    }
    # CVC-ClinicDB has no licence with a name.
    assert (card.data.license, card.data.license_link) == ("other", "docs/data_license.txt")
    assert (folder / card.data.license_link).is_file()
    assert card.data.library_name == "monai"
    assert (shipped / "docs" / "README.md").read_text() in card.content
    expected = torch.load(shipped / "models" / "model.pt", weights_only=True)
    found = safetensors.load_file(folder / "models" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_hub_folder_is_what_monai_takes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that copies the folder stands for the hub's download of a repository."""
    hub = pytest.importorskip("huggingface_hub")
    repository = pack(POLYP, tmp_path / "repository", format="huggingface")

    def snapshot_download(repo_id: str, revision: str, local_dir: str | Path, **_: object) -> None:
        assert (repo_id, revision) == (f"somebody/{POLYP}", "1.0")
        shutil.copytree(repository, local_dir, dirs_exist_ok=True)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("monai.bundle.scripts.huggingface_hub", hub)
    download(name=POLYP, bundle_dir=tmp_path / "got", version="1.0", source="huggingface_hub", repo=f"somebody/{POLYP}")
    assert load_segmenter(tmp_path / "got" / POLYP, device="cpu").metadata == load_segmenter(POLYP).metadata


@pytest.mark.parametrize(
    ("source", "licence"),
    [
        ("ISIC (CC BY-NC 4.0), https://x", "cc-by-nc-4.0"),
        ("LIDC (CC BY 3.0)", "cc-by-3.0"),
        ("CVC (research use)", None),
    ],
)
def test_licence_of_the_data(source: str, licence: str | None) -> None:
    assert licence_id(source) == licence


def test_command_packs_both_forms(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form, name in (("zip", "polyp.zip"), ("huggingface", "polyp")):
        arguments = ["medseglatdiff", "pack", POLYP, "--output-file", str(tmp_path / name), "--format", form]
        monkeypatch.setattr(sys, "argv", arguments)
        main()
        assert f"Packed: {tmp_path / name}" in capsys.readouterr().out
        assert (tmp_path / name).exists()


def test_hub_folder_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(InputError, match="is there already"):
        pack(POLYP, tmp_path / "full", format="huggingface")
    with pytest.raises(InputError, match="--format is 'tar'; expected zip or huggingface"):
        pack(POLYP, tmp_path / "x", format="tar")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
