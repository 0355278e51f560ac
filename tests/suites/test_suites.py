"""Suites: the shipped ones fit the configuration, and what is wrong in one is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseglatdiff_monai.bundle.config import load_stage_config
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.suites.names import SUITES_DIR
from medseglatdiff_monai.suites.suite import load_suite, slug

SUITES = sorted(path.stem for path in SUITES_DIR.glob("*.json"))
SMALL = {"title": "t", "description": "d", "systems": [{"name": "A"}, {"name": "B"}], "metrics": ["dice"]}


def write(folder: Path, **changes) -> Path:
    path = folder / "small.json"
    path.write_text(json.dumps({**SMALL, "evaluations": [{"name": "e", "num_samples": 2}], **changes}))
    return path


def test_every_suite_that_was_promised_is_there():
    figures = {f"paper-{name}" for name in ("table-1", "table-2", "table-3", "figure-3", "figure-4")}
    others = {"ambiguity", "ambiguity-laptop", "encoder-laptop", "calibration", "ablation", "recipe"}
    others |= {"all-systems", "mask-codecs", "training-choices"}
    assert set(SUITES) == figures | others


def test_every_system_is_in_the_suite_of_all():
    shipped = {path.stem for path in (SUITES_DIR.parent / "experiments").glob("*.json")}
    # Volumes are another data set.
    assert {system.experiment for system in load_suite("all-systems").systems} == shipped - {"volumetric"} | {None}


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("bundle", ["lung_nodule_ct_latent_diffusion", "skin_lesion_dermoscopy_latent_diffusion"])
def test_every_system_and_evaluation_is_a_known_configuration(name: str, bundle: str):
    suite = load_suite(name)
    for system in suite.systems:
        load_stage_config(bundle, "train", system.experiment, {**system.overrides, "seed": 1})
        for evaluation in suite.evaluations:
            load_stage_config(bundle, "evaluate", system.experiment, {**evaluation.overrides, **system.evaluation})


def test_a_sweep_is_one_evaluation_for_each_value(tmp_path: Path):
    entry = {"name": "steps", "num_samples": 2, "sweep": {"num_inference_steps": [1, 50]}, "max_cases": 9}
    guided = {"name": "guided", "overrides": {"threshold": 0.4}, "sweep": {"guidance_scale": [0.3]}}
    suite = load_suite(write(tmp_path, evaluations=[entry, guided]))
    assert [(e.num_inference_steps, e.point, e.max_cases) for e in suite.evaluations[:2]] == [(1, 1, 9), (50, 50, 9)]
    assert suite.evaluations[2].overrides == {"threshold": 0.4, "guidance_scale": 0.3}
    assert len({e.key for e in suite.evaluations}) == 3


def test_keys_that_begin_with_an_underscore_are_comments(tmp_path: Path):
    suite = load_suite(
        write(
            tmp_path,
            _why="everywhere",
            systems=[{"name": "A", "_why": "the first"}],
            evaluations=[{"name": "e", "num_samples": 2, "_why": "two are enough"}],
        )
    )
    assert [system.name for system in suite.systems] == ["A"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": ["dice"]}, "Did you mean 'metrics'?"),
        ({"systems": [{"name": "A", "experimnt": "unet"}]}, "Did you mean 'experiment'?"),
        ({"metrics": ["dicee"]}, "Did you mean 'dice'?"),
        ({"reference": "C"}, "no system 'C'"),
        ({"systems": [{"name": "A b"}, {"name": "a-B"}]}, "its own name .*found 'A b' and 'a-B'"),
        ({"evaluations": [{"name": "e", "num_samples": 2, "subsample": [3]}]}, "fewer samples"),
        ({"evaluations": [{"name": "e", "num_samples": 3, "subsample": [3], "metrics": ["ece"]}]}, "can show"),
        ({"compare": ["iou"]}, "compare has iou"),
        ({"evaluations": [{"name": "e", "num_samples": 3, "subsample": [3], "compare_at": [2]}]}, r"compares at \[2\]"),
        ({"systems": [{"name": "A"}, {"name": "B", "shares": "A", "reconstruction": "mask_codec"}]}, "has both"),
        ({"systems": [{"name": "A"}, {"name": "B", "shares": "A"}, {"name": "C", "shares": "B"}]}, "no weights itself"),
        ({"systems": 3}, "systems is 3; expected a list of objects"),
        ({"evaluations": ["e"]}, "expected a list of objects"),
        ({"metrics": "dice"}, "metrics is 'dice'; expected a list of texts"),
    ],
    ids=[
        "entry",
        "system",
        "metric",
        "reference",
        "names",
        "subsample",
        "subsampled-metric",
        "compare",
        "compare-at",
        "shares-reconstruction",
        "shares-shares",
        "systems-number",
        "evaluations-text",
        "metrics-text",
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        load_suite(write(tmp_path, **changes))


def test_unknown_suite_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'ambiguity'"):
        load_suite("ambigity")


def test_names_that_differ_in_a_plus_have_folders_of_their_own():
    assert slug("UNet++") != slug("UNet")
