"""The app's folder; the server itself runs in tests/integration/test_monai_label.py."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import LUNG, RETINA, copy_bundle

from medseglatdiff_monai.bundle.build import record_digest
from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.digest import forget_digest
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.integrations.monai_label.server import layout_app, server_command, server_environment, start


@pytest.fixture
def sample_app(tmp_path: Path) -> Path:
    folder = tmp_path / "sample-apps" / "monaibundle"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "__init__.py").touch()
    (folder / "main.py").write_text("class MyApp: ...\n")
    return folder


def test_folder_holds_app_and_bundles(tmp_path: Path, sample_app: Path) -> None:
    app = tmp_path / "app"
    assert layout_app(app, [LUNG, bundles_dir() / RETINA], sample_app) == [LUNG, RETINA]
    assert (app / "lib" / "monaibundle.py").read_text() == "class MyApp: ...\n"
    (made,) = [node for node in ast.parse((app / "main.py").read_text()).body if isinstance(node, ast.ClassDef)]
    assert [ast.unparse(base) for base in made.bases] == ["EnsembleTasks", "monaibundle.MyApp", "MONAILabelApp"]
    shipped, copied = (folder / LUNG / "models" / "model.pt" for folder in (bundles_dir(), app / "model"))
    assert copied.read_bytes() == shipped.read_bytes()
    assert (app / "model" / RETINA / "configs" / "train.json").is_file()


def test_later_start_keeps_trained_weights_and_renews_the_rest(tmp_path: Path, sample_app: Path) -> None:
    app = tmp_path / "app"
    layout_app(app, [LUNG], sample_app)
    root = app / "model" / LUNG
    # As training in the app does.
    forget_digest(root / "models" / "model.pt")
    (root / "models" / "model.pt").write_bytes(b"trained here")
    (root / "configs" / "inference.json").write_text("{}")
    layout_app(app, [LUNG], sample_app)
    assert (root / "models" / "model.pt").read_bytes() == b"trained here"
    assert (root / "configs" / "inference.json").read_bytes() == (
        bundles_dir() / LUNG / "configs" / "inference.json"
    ).read_bytes()


def test_weights_of_a_release_go_with_it_and_damaged_ones_are_refused(tmp_path: Path, sample_app: Path) -> None:
    app, old = tmp_path / "app", copy_bundle(LUNG, tmp_path / "old")
    shipped = (bundles_dir() / LUNG / "models" / "model.pt").read_bytes()
    (old / "models" / "model.pt").write_bytes(b"old release")
    record_digest(old)
    layout_app(app, [old], sample_app)
    weights = app / "model" / LUNG / "models" / "model.pt"
    assert weights.read_bytes() == b"old release"
    layout_app(app, [LUNG], sample_app)
    assert weights.read_bytes() == shipped
    weights.write_bytes(shipped[:-64] + bytes(64))
    with pytest.raises(InputError, match=rf"{LUNG}/models/model\.pt has the SHA-256"):
        layout_app(app, [LUNG], sample_app)


def test_command_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    command = server_command("app", "studies", [LUNG, RETINA], "127.0.0.1", 8123)
    assert command[:3] == [sys.executable, "-m", "monailabel.main"]
    assert command[command.index("models") + 1] == f"{LUNG},{RETINA}"
    environment = server_environment(tmp_path)
    paths = environment["PYTHONPATH"].split(os.pathsep)
    assert paths[0] == str(bundles_dir().parent)
    assert paths[-1] == "elsewhere"
    assert environment["BUNDLE_DOWNLOAD_SRC"] == "local"


def test_what_is_missing_is_said(tmp_path: Path, sample_app: Path) -> None:
    with pytest.raises(InputError, match="make label-server"):
        layout_app(tmp_path / "app", [LUNG], tmp_path)
    with pytest.raises(InputError, match="Did you mean"):
        layout_app(tmp_path / "app", [LUNG[:-2]], sample_app)
    with pytest.raises(InputError, match="different names"):
        layout_app(tmp_path / "app", [LUNG, LUNG], sample_app)
    with pytest.raises(InputError, match="no such folder"):
        start(str(tmp_path / "nothing"), app_dir=str(tmp_path / "app"))


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("studies", ["", "nowhere"])
def test_make_asks_for_the_studies_before_it_builds_the_environment(studies: str) -> None:
    done = subprocess.run(
        ["make", "label-server", f"STUDIES={studies}", "TORCH_INDEX_URL=", "LABEL_VENV=must/not/be/made"],
        cwd=bundles_dir().parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"STUDIES is '{studies}'; expected a folder of images" in done.stdout
    assert "venv" not in done.stdout
