"""A bundle as one zip file, the form in which ``monai.bundle.download`` and ``monai.bundle.load`` take it, or a folder.

From a run's folder it takes only the files that make a bundle: configurations, documents and licence if it has them,
and the weights of the network. Training states, codecs' own weights, tracking databases and predictions stay where they
are.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ..digest import DIGEST_KEY, check_digest
from ..errors import InputError
from ..files import file_sha256, save_with
from ..startup import heavy_imports
from .config import Bundle
from .hub import hub_files
from .json_style import dump_config
from .zoo import zoo_files

PATTERNS = ("LICENSE", "large_files.yml", "configs/*.json", "configs/logging.conf", "docs/*", "models/model.pt")
FORMATS = ("zip", "huggingface", "zoo")
# Zips with the same content must have the same bytes, whenever they are made: zip's own earliest time.
EPOCH = (1980, 1, 1, 0, 0, 0)


def bundle_files(bundle: Bundle) -> list[Path]:
    """Files that make a bundle, sorted.

    Raises:
        InputError: no weights, weights of an unfinished stage, a version that the metadata's changelog does not name,
            other weights than the metadata names, a configuration that holds a password, or a link.
    """
    with heavy_imports():
        from ..networks.weights import stage_finished

    root = bundle.root
    weights = root / "models" / "model.pt"
    if not stage_finished(weights):
        state = "belongs to a training that is not finished" if weights.is_file() else "is missing"
        raise InputError(
            f"{weights} {state}. A packed bundle needs its weights: finish '{bundle.training_command}' and give the "
            "run's folder."
        )
    metadata_path = root / "configs" / "metadata.json"
    version = bundle.metadata.get("version")
    if version not in bundle.metadata.get("changelog", {}):
        raise InputError(
            f"{metadata_path}: version {version!r} has no entry in 'changelog'. Add one that says what changed."
        )
    check_digest(weights)
    files = _find_files(root)
    for path in files:
        if path.suffix == ".json" and (
            found := re.search(r"://[^/\s\"@]+:[^/\s\"@]+@[^/\s\"]*", path.read_text(encoding="utf-8"))
        ):
            host = found.group().split("@")[-1]
            raise InputError(
                f"{path} holds a user's name and password for {host}, which would be passed on with the bundle. Take "
                "them out; MLflow reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            )
    return files


def _find_files(root: Path) -> list[Path]:
    """Files of a bundle by their names, sorted; a link would pass on what lies elsewhere."""
    found = sorted({path for pattern in PATTERNS for path in root.glob(pattern) if path.is_file()})
    for path in found:
        if links := [part for part in (path, *path.parents) if part.is_relative_to(root) and part.is_symlink()]:
            raise InputError(
                f"{links[0]} is a link to {links[0].resolve()}; expected a file of the bundle, since the zip would "
                "hold what it leads to. Copy there what belongs to the bundle, or remove the link."
            )
    return found


def _read(path: Path, bundle: Bundle) -> bytes:
    """A file as it is passed on: the metadata names the weights that are packed with it."""
    if path != bundle.root / "configs" / "metadata.json" or DIGEST_KEY in bundle.metadata:
        return path.read_bytes()
    digest = file_sha256(bundle.root / "models" / "model.pt")
    return dump_config({**bundle.metadata, DIGEST_KEY: digest}).encode()


def pack(bundle: str | Path, output_file: str | Path, format: str = "zip") -> Path:
    """Write a bundle, or a finished run, as a zip that MONAI can download, or a folder for a hub or the zoo.

    The zip has one top-level folder that bears the bundle's name; the same bundle gives the same bytes. Its metadata
    names the SHA-256 of the weights, with which they are compared when they are loaded. With NAME that
    of the bundle's folder, ``monai.bundle.download(name=NAME, url="file:///…/X.zip", bundle_dir=D)`` unpacks it to
    ``D/NAME`` (without name MONAI 1.6 fails once it has unpacked), and ``monai.bundle.load(name=NAME, bundle_dir=D,
    workflow_type="inference")`` returns the network with its weights (MONAI's default, the training workflow, wants a
    data set).

    With ``--format huggingface`` it becomes a folder to upload to the Hugging Face hub: the bundle's files, a model
    card with licence, tags and scores, and the weights as safetensors as well.

    With ``--format zoo`` it becomes what MONAI's model zoo takes, a folder or, by the ending .zip, a zip: inference
    alone, which runs with MONAI and without this package, since it carries the modules that it needs.

    Example: medseglatdiff pack runs/lung --output-file lung.zip
    Example: medseglatdiff pack lung_nodule_ct_latent_diffusion --format zoo --output-file lung_nodule_zoo.zip

    Args:
        bundle: a bundle's folder or name, see medseglatdiff bundles; a finished run is a bundle.
        output_file: the zip, or the new folder.
        format: zip, huggingface or zoo.

    Returns:
        The zip or the folder.

    Raises:
        InputError: another ending than .zip, an unknown format, no such bundle, a folder that is there already and not
            empty; and see :func:`bundle_files`, :func:`~medseglatdiff_monai.bundle.hub.hub_files` and
            :func:`~medseglatdiff_monai.bundle.zoo.zoo_files`.
    """
    opened = Bundle(bundle)
    path = Path(output_file)
    if format not in FORMATS:
        raise InputError(f"--format is {format!r}; expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    as_zip = format != "huggingface" and path.suffix == ".zip"
    if format == "zip" and not as_zip:
        raise InputError(
            f"--output-file is {str(output_file)!r}; MONAI recognises bundles by the ending: name it ….zip."
        )
    if not as_zip and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is there already; expected a new or an empty folder. Give another --output-file.")
    contents = {file.relative_to(opened.root): _read(file, opened) for file in bundle_files(opened)}
    if format != "zip":
        contents = (hub_files if format == "huggingface" else zoo_files)(opened, contents)
    if as_zip:
        _write_zip(contents, opened.root.name, path)
    else:
        _write_folder(contents, path)
    return path


def _write_zip(contents: Mapping[Path, bytes], name: str, path: Path) -> None:
    def write(handle) -> None:
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(contents):
                entry = zipfile.ZipInfo(f"{name}/{file.as_posix()}", EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, contents[file])

    save_with(write, path)


def _write_folder(contents: Mapping[Path, bytes], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that it appears whole.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as staging:
        whole = Path(staging) / "whole"
        for file, content in contents.items():
            target = whole / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if folder.exists():
            folder.rmdir()
        whole.replace(folder)
