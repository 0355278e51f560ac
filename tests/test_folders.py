"""Where bundles are found by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from small_runs import BUNDLES, LUNG, SKIN

from medseglatdiff_monai.bundle import folders
from medseglatdiff_monai.bundle.folders import BUNDLES_VARIABLE, bundles_dir, find_bundle, known_bundles
from medseglatdiff_monai.bundle.new import new_bundle
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.info import info
from medseglatdiff_monai.listing import list_bundles


def copy_configs(name: str, folder: Path) -> Path:
    return shutil.copytree(bundles_dir() / name, folder, ignore=shutil.ignore_patterns("models"))


def test_the_current_folder_comes_before_the_variable_and_that_before_the_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(BUNDLES_VARIABLE, raising=False)
    assert find_bundle(LUNG) == bundles_dir() / LUNG
    assert set(known_bundles()) == set(BUNDLES)

    listed = [copy_configs(LUNG, tmp_path / name / LUNG) for name in ("first", "second")]
    copy_configs(SKIN, tmp_path / "second" / "mine")
    monkeypatch.setenv(BUNDLES_VARIABLE, os.pathsep.join([*(str(path.parent) for path in listed), "no such folder"]))
    assert find_bundle(LUNG) == listed[0]
    assert find_bundle("mine") == tmp_path / "second" / "mine"
    assert find_bundle(SKIN) == bundles_dir() / SKIN

    here = copy_configs(LUNG, tmp_path / "bundles" / LUNG)
    assert find_bundle(LUNG) == here
    assert known_bundles()[LUNG] == here
    # A folder is taken before any name.
    assert find_bundle(listed[1]) == listed[1]


def test_the_error_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(BUNDLES_VARIABLE, str(tmp_path / "mine"))
    with pytest.raises(InputError, match="Did you mean 'lung_nodule_ct_latent_diffusion'") as caught:
        find_bundle("lung_nodul_ct")
    for folder in (tmp_path / "bundles", tmp_path / "mine", bundles_dir()):
        assert str(folder) in str(caught.value)


def test_without_any_bundle_it_is_said_what_brings_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(BUNDLES_VARIABLE, raising=False)
    monkeypatch.setattr(folders, "SOURCE_TREE", tmp_path)
    monkeypatch.setattr(folders, "BUNDLES_PACKAGE", "no_such_package_of_bundles")
    with pytest.raises(InputError, match=r"no bundles are installed.*the package no-such-package-of-bundles"):
        find_bundle(LUNG)


def test_outside_a_clone_a_new_bundle_goes_where_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "PACKAGED_CONFIGS", bundles_dir().parent / "configs")
    monkeypatch.setenv(BUNDLES_VARIABLE, str(bundles_dir()))
    made = new_bundle("my_own", SKIN)
    assert made == tmp_path / "bundles" / "my_own"
    assert find_bundle("my_own") == made


@pytest.mark.parametrize("content", ["{bad", "[]"])
def test_a_broken_bundle_does_not_hide_the_others(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_configs(LUNG, tmp_path / "broken")
    (tmp_path / "broken" / "configs" / "metadata.json").write_text(content)
    monkeypatch.setenv(BUNDLES_VARIABLE, str(tmp_path))
    listed = list_bundles()
    assert [line.split()[0] for line in listed] == ["broken", *sorted(BUNDLES)]
    assert "broken: " in listed[0]
    assert "metadata.json" in listed[0]
    described = info()["bundles"]
    assert set(described) == {"broken", *BUNDLES}
    assert described["broken"]["weights"].startswith("broken: ")
