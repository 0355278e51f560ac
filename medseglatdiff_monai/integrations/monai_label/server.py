"""Lay out the folder of MONAI Label's ``monaibundle`` app with bundles in it, and start the server.

The app's code comes from the installed MONAI Label; ``main.py`` puts this package's tasks before it. The bundles are
copies, since training changes their weights: a later start renews configuration, documents, and weights that are still
those of the release that they came with. Weights that were trained here stay.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ...bundle.folders import find_bundle, known_bundles
from ...digest import check_digest, forget_digest, named_digest
from ...errors import InputError
from ...files import SOURCE_TREE, file_sha256, save_bytes

logger = logging.getLogger(__name__)

MAIN = '''"""MONAI Label's monaibundle app (lib/monaibundle.py) with the tasks of medseglatdiff_monai."""

from lib import monaibundle
from monailabel.interfaces.app import MONAILabelApp

from medseglatdiff_monai.integrations.monai_label.app import EnsembleTasks


class MyApp(EnsembleTasks, monaibundle.MyApp, MONAILabelApp):
    """MONAI Label looks for the class that names MONAILabelApp among its bases."""
'''
# monailabel imports two functions that render images for TensorBoard, of which none is used here. torchvision itself
# must have been built for the very torch that is installed.
STAND_IN = '''"""Stands in for torchvision, which is not installed, so that monailabel can be imported."""


def make_grid(*args, **kwargs):
    raise ImportError("torchvision is not installed")


save_image = make_grid
'''


def layout_app(app_dir: str | Path, bundles: Sequence[str | Path], sample_app: str | Path | None = None) -> list[str]:
    """Make or renew the app's folder.

    Args:
        app_dir: the folder.
        bundles: bundle folders or names; a finished run is a bundle.
        sample_app: folder of the ``monaibundle`` app; by default that of the environment's MONAI Label.

    Returns:
        The models' names, those of the bundles' folders.

    Raises:
        InputError: MONAI Label is not installed, no such bundle, or two of one name; weights that are not those that
            the metadata in the app's folder names.
    """
    source = Path(sample_app or Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle")
    if not (source / "main.py").is_file():
        raise InputError(
            f"No monaibundle app at {source}: MONAI Label is not installed with {sys.executable}. "
            "'make label-server' builds an environment for it."
        )
    app = Path(app_dir).absolute()
    roots = [find_bundle(bundle) for bundle in bundles]
    names = [root.name for root in roots]
    if not names or len(set(names)) < len(names):
        raise InputError(f"--bundles names {names or 'none'}; expected one or more bundles of different names.")
    shutil.copytree(source / "lib", app / "lib", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(source / "main.py", app / "lib" / "monaibundle.py")
    (app / "main.py").write_text(MAIN)
    stand_in = app / "stand_in" / "torchvision"
    stand_in.mkdir(parents=True, exist_ok=True)
    (stand_in / "__init__.py").touch()
    (stand_in / "utils.py").write_text(STAND_IN)
    for root in roots:
        target = app / "model" / root.name
        if root != target:
            _renew(root, target)
    return names


def _renew(root: Path, target: Path) -> None:
    """Copy a bundle over that of an earlier start; weights that were trained there stay."""
    weights, own = (folder / "models" / "model.pt" for folder in (root, target))
    for path in (weights, own):
        if path.is_file():
            check_digest(path)
    released = file_sha256(weights) if weights.is_file() else None
    # Training takes the digest out of the metadata: what still has it came with a release, and goes with it.
    trained = own.is_file() and named_digest(own) is None and file_sha256(own) != released
    if released is not None and not trained:
        save_bytes(weights.read_bytes(), own)
    for part in ("configs", "docs"):
        if (root / part).is_dir():
            shutil.copytree(root / part, target / part, dirs_exist_ok=True)
    if (root / "LICENSE").is_file():
        shutil.copyfile(root / "LICENSE", target / "LICENSE")
    (target / "models").mkdir(exist_ok=True)
    if trained:
        forget_digest(own)
        logger.warning("%s keeps the weights that were trained here, under the configuration of %s.", own, root)


def server_command(app_dir: str | Path, studies: str, names: Sequence[str], host: str, port: int) -> list[str]:
    """Arguments that start MONAI Label on a folder made by :func:`layout_app`."""
    return [
        sys.executable, "-m", "monailabel.main", "start_server", "--app", str(Path(app_dir).absolute()), "--studies",
        studies, "--host", host, "--port", str(port), "--conf", "models", ",".join(names), "--conf", "sam2", "false",
    ]  # fmt: skip


def server_environment(app_dir: str | Path) -> dict[str, str]:
    """Environment variables of the server: bundles are local, this package and the stand-in can be imported."""
    app = Path(app_dir).absolute()
    paths = [str(SOURCE_TREE)]
    if importlib.util.find_spec("torchvision") is None:
        paths.append(str(app / "stand_in"))
    return {
        "MONAI_LABEL_SESSION_PATH": str(app / "sessions"),
        **os.environ,
        "BUNDLE_DOWNLOAD_SRC": "local",
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def start(
    studies: str,
    *,
    bundles: str | Sequence[str] | None = None,
    app_dir: str = "label_app",
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Start MONAI Label with the bundles; Ctrl-C ends it.

    Example: python -m medseglatdiff_monai.integrations.monai_label studies/

    Args:
        studies: folder of the images (NIfTI, PNG, JPEG), or the address of a DICOMweb server.
        bundles: bundle folders or names, separated by commas; by default those that are found by name.
        app_dir: folder of the app; keeps the weights that are trained there.
        host: address to listen on. MONAI Label has no login: leave it at this machine's own, or put
            something in front of it that authenticates.
        port: port to listen on.
    """
    chosen = bundles.split(",") if isinstance(bundles, str) else list(bundles or known_bundles())
    if not str(studies).startswith(("http://", "https://")) and not Path(studies).is_dir():
        raise InputError(f"{studies}: no such folder. Give the folder of the images, or a DICOMweb address.")
    names = layout_app(app_dir, [str(name).strip() for name in chosen])
    models = Path(app_dir) / "model"
    for name in names:
        if not (models / name / "models" / "model.pt").is_file():
            print(f"{name}: no weights yet. /infer refuses it until it is trained (/train) or model.pt is put there.")
    print(f"MONAI Label with {', '.join(names)}: http://{host}:{port}", flush=True)
    command = server_command(app_dir, str(studies), names, host, port)
    os.execve(command[0], command, server_environment(app_dir))
