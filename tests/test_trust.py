"""A stranger's configuration runs nothing of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small_runs import SKIN

from medseglatdiff_monai.bundle import Bundle, load_segmenter, write_run_folder
from medseglatdiff_monai.bundle.check import check_bundle
from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.trust import (
    TRUST_VARIABLE,
    TRUSTED,
    code_options,
    find_code,
    find_untrusted,
    write_trusted,
)
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.files import SOURCE_TREE, read_json

STAGE = "inference"


def hostile_bundle(folder: Path, changes: dict) -> Path:
    shutil.copytree(bundles_dir() / SKIN, folder)
    path = folder / "configs" / f"{STAGE}.json"
    path.write_text(json.dumps({**read_json(path), **changes}))
    return folder


def hostile(mark: Path) -> dict[str, dict]:
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    return {
        "expression": {"threshold": f"$0.5 if {code} else 0.5"},
        "import": {"imports": ["$import torch", "$from os import system"]},
        "target": {"preprocessing": {"_target_": "os.system", "command": f"touch {mark}"}},
        "nested": {
            "preprocessing_transforms": [{"_target_": "Lambdad", "keys": "image", "func": f"$lambda x: {code}"}]
        },
        "macro": {"threshold": "%other.json#threshold"},
    }


@pytest.mark.parametrize("kind", hostile(Path()))
def test_hostile_bundle_is_refused_before_it_runs(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    changes = hostile(mark)[kind]
    bundle = hostile_bundle(tmp_path / "bundle", changes)
    with pytest.raises(InputError, match=rf"stage {STAGE}, would run code .*\n  {next(iter(changes))}[\s\S]*--trust"):
        load_segmenter(bundle)
    assert not mark.exists()


def test_check_bundle_lists_the_code_beside_all_else(tmp_path: Path) -> None:
    bundle = hostile_bundle(tmp_path / "bundle", {"timestep_power": "$1 + 1", "image_channels": 4})
    found = check_bundle(bundle)
    assert "configs/inference.json: runs code of its own, timestep_power: $1 + 1" in found
    assert "configs/metadata.json: num_channels of the input is 3, of the network 4" in found


def test_printed_commands_repeat_trust_and_plugins(monkeypatch) -> None:
    assert code_options() == []
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    monkeypatch.setattr(sys, "argv", ["medseglatdiff", "train", "--plugin=a b.py", "x", "--trust", "--plugin", "c.py"])
    assert code_options() == ["--trust", "--plugin", "a b.py", "--plugin", "c.py"]


def test_hostile_experiment_and_override_are_refused(tmp_path: Path) -> None:
    experiment = tmp_path / "other.json"
    experiment.write_text(json.dumps({"num_samples": "$__import__('os').getpid()"}))
    for given in (Bundle(SKIN, experiment).config, lambda stage: Bundle(SKIN).config(stage, {"seed": "$1 + 1"})):
        with pytest.raises(InputError, match="would run code"):
            given(STAGE)
    assert Bundle(SKIN).config(STAGE, {"seed": "$None"})["seed"] == "$None"


def test_training_into_a_hostile_folder_is_refused(tmp_path: Path) -> None:
    bundle = hostile_bundle(tmp_path / "bundle", hostile(tmp_path / "ran")["expression"])
    with pytest.raises(InputError, match="would run code"):
        write_run_folder(bundle, bundle)


def test_command_refuses_unless_it_is_trusted(
    tmp_path: Path, predict: Callable[..., subprocess.CompletedProcess]
) -> None:
    done = predict("--timestep_power=$1 + 1")
    assert done.returncode == 1
    assert "timestep_power: $1 + 1" in done.stderr
    assert not (tmp_path / "out").exists()
    done = predict("--timestep_power=$1 + 1", "--trust")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").rglob("*.png"))


@pytest.fixture
def predict(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    image = tmp_path / "image.png"
    Image.new("RGB", (64, 64), "red").save(image)
    command = [sys.executable, "-m", "medseglatdiff_monai", "predict", SKIN, str(image)]
    command += ["--output-dir", str(tmp_path / "out"), "--num_samples", "1"]

    def run(*options: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *options], capture_output=True, text=True, check=False)

    return run


def test_everything_in_the_source_tree_is_trusted_and_nothing_else(monkeypatch, tmp_path: Path) -> None:
    shipped = TRUSTED.read_text()
    monkeypatch.setattr("medseglatdiff_monai.bundle.trust.TRUSTED", tmp_path / "trusted.json")
    assert write_trusted(SOURCE_TREE).read_text() == shipped, "run 'make bundles'"


def test_variable_trusts_everything(monkeypatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    assert Bundle(SKIN).config(STAGE, {"seed": "$1 + 1"})["seed"] == "$1 + 1"


def test_code_is_found_wherever_monai_runs_it() -> None:
    config = {"a": "$1", "b": [{"_target_": "os.system", "c": "text $2"}, "%file.json"], "_desc_": "plain", "d": "@a"}
    assert list(find_code(config)) == [("a", "$1"), ("b#0#_target_", "os.system"), ("b#1", "%file.json")]
    assert find_untrusted(config) == ["a: $1", "b#0#_target_: os.system", "b#1: %file.json"]
