"""A packed bundle is taken by MONAI's own download and load, and holds nothing that is not the bundle's."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, download, load
from PIL import Image
from small_runs import LUNG, POLYP, copy_bundle, write_small_bundle

import medseglatdiff_monai
from medseglatdiff_monai.bundle.check import check_bundle
from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.hub import licence_id
from medseglatdiff_monai.bundle.pack import pack
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.cli import main
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.files import file_sha256

PACKAGE = Path(medseglatdiff_monai.__file__).parent
# MONAI's command in a process that cannot import the package.
ALONE = """
import runpy, sys
sys.modules["medseglatdiff_monai"] = None
runpy.run_module("monai.bundle", run_name="__main__")
"""


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


def test_command_packs_all_forms(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form, name in (("zip", "polyp.zip"), ("huggingface", "polyp"), ("zoo", "zoo"), ("zoo", "zoo.zip")):
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
    with pytest.raises(InputError, match="--format is 'tar'; expected zip, huggingface or zoo"):
        pack(POLYP, tmp_path / "x", format="tar")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lung bundle as the zoo takes it, downloaded and unpacked by MONAI."""
    folder = tmp_path_factory.mktemp("zoo")
    archive = pack(LUNG, folder / "packed.zip", format="zoo")
    download(name=LUNG, url=archive.as_uri(), bundle_dir=folder, progress=False)
    return folder / LUNG


def read_scripts(zoo: Path) -> dict[str, ast.Module]:
    return {path.as_posix(): ast.parse(path.read_text()) for path in (zoo / "scripts").rglob("*.py")}


def test_scripts_are_the_packages_modules(zoo: Path) -> None:
    for path in (zoo / "scripts").rglob("*.py"):
        own = PACKAGE / path.relative_to(zoo / "scripts")
        assert path.read_bytes() == (b"" if path.name == "__init__.py" else own.read_bytes())
    # What a lazy import asks for is there, too, and nothing of training but what prepares a batch.
    assert (zoo / "scripts" / "io" / "dicom_series.py").is_file()
    assert not (zoo / "scripts" / "training" / "run.py").exists()
    assert {path.name for path in (zoo / "configs").iterdir()} == {"inference.json", "metadata.json", "logging.conf"}
    shipped = json.loads((bundles_dir() / LUNG / "configs" / "inference.json").read_text())
    renamed = json.loads((zoo / "configs" / "inference.json").read_text())
    assert renamed.keys() == shipped.keys()
    assert "medseglatdiff_monai" not in json.dumps(renamed)


def test_zoo_requires_what_its_scripts_import_and_nothing_else(zoo: Path) -> None:
    metadata = json.loads((zoo / "configs" / "metadata.json").read_text())
    names = {
        name.split(".")[0]
        for tree in read_scripts(zoo).values()
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    } - set(sys.stdlib_module_names)
    # Named by entries of their own; required by torch; asked for by --fusion staple, which says so.
    names -= {"torch", "monai", "numpy"} | {"jinja2"} | {"SimpleITK"}
    # What MONAI's attention blocks and engines import without requiring it.
    needed = {"PIL": "pillow", "itk": "itk-io"}
    imported = {needed.get(name, name) for name in names} | {"einops", "pytorch-ignite", "itk-numerics"}
    assert imported == set(metadata["required_packages_version"])


def test_zoo_bundle_gives_the_packages_masks_without_the_package(
    zoo: Path, tmp_path: Path, crop_png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(crop_png, images)

    def arguments(root: Path, output: str) -> dict[str, Any]:
        files = {"config_file": root / "configs" / "inference.json", "dataset_dir": images, "bundle_root": root}
        files["output_dir"] = tmp_path / output
        return {**{key: str(file) for key, file in files.items()}, "num_samples": 3, "device": "cpu"}

    words = [str(word) for key, value in arguments(zoo, "alone").items() for word in (f"--{key}", value)]
    subprocess.run([sys.executable, "-c", ALONE, "run", *words], check=True, cwd=tmp_path)
    workflow = ConfigWorkflow(workflow_type="inference", **arguments(bundles_dir() / LUNG, "package"))
    workflow.initialize()
    workflow.run()
    written = {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "package").iterdir()}
    assert written.keys() == {"nodule_consensus.png", "nodule_confidence.png"}
    assert np.asarray(Image.open(tmp_path / "alone" / "nodule_consensus.png")).any()


def test_zoo_bundle_is_not_trusted(zoo: Path) -> None:
    """Its scripts are code that anybody may have changed; the package has them itself."""
    assert [line for line in check_bundle(zoo) if "runs code of its own" in line and "scripts." in line]
    with pytest.raises(InputError, match=r"_target_: scripts\.io\.prepared\.LoadCased"):
        load_segmenter(zoo, device="cpu")


def test_zoo_takes_complete_bundles_without_code_of_their_own(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks what the zoo asks for: LICENSE: is missing"):
        pack(run, tmp_path / "zoo", format="zoo")
    root = copy_bundle(LUNG, tmp_path / "copy")
    inference = root / "configs" / "inference.json"
    config = json.loads(inference.read_text())
    inference.write_text(json.dumps({**config, "imports": ["$import medseglatdiff_monai"]}))
    with pytest.raises(InputError, match=r"runs code of its own, imports#0"):
        pack(root, tmp_path / "zoo", format="zoo")
    assert not (tmp_path / "zoo").exists()
