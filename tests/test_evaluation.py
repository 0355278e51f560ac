"""Scores of a bundle: the files that ``evaluate`` promises, recomputed here with plain numpy from the saved masks."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose
from small_runs import LUNG, SKIN, THRESHOLD, build_network, write_prepared, write_small_bundle

from medseglatdiff_monai.data.datalist import load_datalist
from medseglatdiff_monai.ensemble.fusion import fuse_ensemble
from medseglatdiff_monai.ensemble.inferer import EnsembleInferer
from medseglatdiff_monai.ensemble.morphology import refine_masks
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.evaluation.case_recorder import CaseRecorder
from medseglatdiff_monai.evaluation.codec import evaluate_codec
from medseglatdiff_monai.evaluation.columns import COLUMNS, Column
from medseglatdiff_monai.evaluation.result import load_result
from medseglatdiff_monai.evaluation.run import evaluate
from medseglatdiff_monai.evaluation.scored import ScoredMasks
from medseglatdiff_monai.files import file_sha256
from medseglatdiff_monai.io.prepared import LoadCased
from medseglatdiff_monai.networks import IdentityCodec
from medseglatdiff_monai.networks.weights import save_weights
from medseglatdiff_monai.plots import ComparedCase
from medseglatdiff_monai.suites.suite import load_suite
from medseglatdiff_monai.training.batches import PrepareEnsemble

pytestmark = pytest.mark.integration

NUM_SAMPLES = 4
CASES = ["case-4", "case-5", "case-6", "case-7", "case-8"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("bundle") / "lung", LUNG)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validation cases 4 to 8: case 5 marked at the rim of the crop, case 7 by a single rater, case 8 by none."""
    folder = write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=4, validation=5)
    for case, raters in {"case-5": slice(0, 4), "case-7": slice(2, 3), "case-8": slice(0, 0)}.items():
        masks = np.zeros((128, 128, 4), np.uint8)
        masks[(slice(2, 22), slice(3, 23)) if case == "case-5" else (slice(50, 70), slice(50, 75))][..., raters] = 1
        nibabel.Nifti1Image(masks, np.eye(4)).to_filename(folder / "masks" / f"{case}.nii.gz")
    return folder


@pytest.fixture(scope="module", params=["native", "network"])
def scored(request: pytest.FixtureRequest, bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp(request.param)
    evaluate(bundle, data, output, num_samples=NUM_SAMPLES, save_samples=True, score_at=request.param, batch_size=4)
    return output


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    with (folder / "cases.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    return {
        row["case"]: {key: value if key in ("case", "group") else float(value) for key, value in row.items()}
        for row in rows
    }


def read_result(folder: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)


def overlap(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Dice and IoU of two masks, 1 where both are empty."""
    both, either = np.logical_and(a, b).sum(), np.logical_or(a, b).sum()
    return (1.0, 1.0) if either == 0 else (2 * both / (a.sum() + b.sum()), both / either)


def score(samples: np.ndarray, raters: np.ndarray, threshold: float = THRESHOLD) -> dict[str, float]:
    """The definitions, mask by mask; four samples and four raters are matched by trying all 24 permutations."""

    def distances(first: np.ndarray, second: np.ndarray) -> list[list[float]]:
        return [[1 - overlap(a, b)[1] for b in second] for a in first]

    between, among, between_raters = distances(samples, raters), distances(samples, samples), distances(raters, raters)
    n, r = len(samples), len(raters)
    expected = 2 * np.mean(between)
    result = {"ged_v": expected - np.mean(among) - np.mean(between_raters)}
    result["ged_u"] = (
        expected - np.sum(among) / (n * (n - 1)) - np.sum(between_raters) / (r * (r - 1)) if r > 1 else math.nan
    )
    if r == 1:
        # All copies of the single rater are alike.
        result["hm_iou"] = 1 - np.mean(between)
    else:
        orders = itertools.permutations(range(r))
        result["hm_iou"] = max(np.mean([1 - between[i][j] for i, j in enumerate(order)]) for order in orders)
    reference = 2 * raters.sum(0) >= r
    result["dice_all"], result["iou_all"] = overlap(samples.mean(0) >= threshold, reference)
    result["dice"], result["iou"] = (result["dice_all"], result["iou_all"]) if reference.any() else (math.nan, math.nan)
    result["ged_floor"] = np.mean(between_raters) / n
    result["d_max"] = np.mean([max(overlap(s, y)[0] for s in samples) for y in raters])
    result["diversity"] = np.sum(among) / (n * (n - 1))
    result["raters_diversity"] = np.sum(between_raters) / (r * (r - 1)) if r > 1 else math.nan
    c, m = samples.mean(0).ravel(), raters.mean(0).ravel()
    result["soft_dice"] = 2 * (c * m).sum() / (c**2 + m**2).sum() if (c + m).any() else 1.0
    band = ((c > 0) & (c < 1)) | ((m > 0) & (m < 1))
    for name, pixels in (("", slice(None)), ("_band", band)):
        result[f"brier{name}"] = np.mean((c - m)[pixels] ** 2) if len(c[pixels]) else math.nan
        result[f"ece{name}"] = pooled_error([(c[pixels], m[pixels])])
    return result


def pooled_error(maps: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Calibration error of confidence and rater share, each value of the confidence being in a bin of its own."""
    c, m = (np.concatenate(values) for values in zip(*maps, strict=True))
    # Shares of four samples are 1/4 apart, bins 1/15.
    gaps = [(c == share).sum() * abs(share - m[c == share].mean()) for share in np.unique(c)]
    return sum(gaps) / len(c) if len(c) else math.nan


def test_rows_are_what_the_saved_masks_say(scored: Path, data: Path) -> None:
    rows = read_rows(scored)
    assert list(rows) == CASES
    assert sorted(path.stem for path in (scored / "samples").iterdir()) == CASES
    side = 128 if scored.name.startswith("native") else 64
    for case, row in rows.items():
        with np.load(scored / "samples" / f"{case}.npz") as file:
            saved = dict(file)
        assert {name: (array.shape, str(array.dtype)) for name, array in saved.items()} == {
            "samples": ((NUM_SAMPLES, side, side), "bool"),
            "confidence": ((side, side), "float32"),
            "consensus": ((side, side), "bool"),
            "raters": ((4, side, side), "bool"),
        }
        assert np.array_equal(saved["confidence"], saved["samples"].sum(0) / np.float32(NUM_SAMPLES))
        assert np.array_equal(saved["consensus"], saved["samples"].mean(0) >= THRESHOLD)
        masks = np.asarray(nibabel.load(data / "masks" / f"{case}.nii.gz").dataobj).transpose(2, 0, 1) > 0
        middle = masks if side == 128 else masks[:, 32:96, 32:96]
        assert np.array_equal(saved["raters"], middle)
        for name, value in score(saved["samples"], saved["raters"]).items():
            assert row[name] == pytest.approx(value, abs=1e-6, nan_ok=True), (case, name)
        assert row["raters_nonempty"] == pytest.approx(middle.any((1, 2)).mean())
        assert row["samples_nonempty"] == pytest.approx(saved["samples"].any((1, 2)).mean())
        # The other grid's figures stand beside.
        if side == 128:
            name, other = "network", score(saved["samples"][:, 32:96, 32:96], masks[:, 32:96, 32:96])
        else:
            name, padded = "native", np.zeros((NUM_SAMPLES, 128, 128), bool)
            padded[:, 32:96, 32:96] = saved["samples"]
            other = score(padded, masks)
        assert row[f"dice_{name}"] == pytest.approx(other["dice_all"], abs=1e-6)
        assert row[f"iou_{name}"] == pytest.approx(other["iou_all"], abs=1e-6)
    # Random weights are made to fill about half of the masks: the figures above are not all trivial.
    assert len({row["ged_v"] for row in rows.values()}) == len(CASES)


def test_summary_is_the_mean_of_the_rows(scored: Path, bundle: Path, data: Path) -> None:
    result, rows = read_result(scored), read_rows(scored)
    summary = result["summary"]
    for name in ("ged_v", "ged_u", "hm_iou", "dice_all", "iou_all", "codec_mask_dice"):
        values = [row[name] for row in rows.values() if not math.isnan(row[name])]
        assert summary[name] == pytest.approx(np.mean(values))
    maps = {"ece": [], "ece_band": []}
    for case in CASES:
        with np.load(scored / "samples" / f"{case}.npz") as saved:
            c, m = saved["samples"].mean(0).ravel(), saved["raters"].mean(0).ravel()
        band = ((c > 0) & (c < 1)) | ((m > 0) & (m < 1))
        maps["ece"].append((c, m))
        maps["ece_band"].append((c[band], m[band]))
    for name, values in maps.items():
        assert summary[name] == pytest.approx(pooled_error(values), abs=1e-6)
        assert sum(result["calibration"][name]["count"]) == sum(len(c) for c, _ in values)
    # Pooled over the pixels of all cases: bands differ in size, so that this is not the mean of the column.
    assert summary["ece_band"] != pytest.approx(np.mean([row["ece_band"] for row in rows.values()]), abs=1e-6)
    assert (result["version"], result["not_applicable"]) == (2, {})
    marked = [row for row in rows.values() if not math.isnan(row["dice"])]
    expected = {"case-4", "case-5", "case-6"} if scored.name.startswith("native") else {"case-4", "case-6"}
    assert {row["case"] for row in marked} == expected
    assert summary["dice"] == pytest.approx(np.mean([row["dice"] for row in marked]))
    assert summary["iou"] == pytest.approx(np.mean([row["iou"] for row in marked]))
    assert (summary["num_cases"], summary["num_nonempty_consensus"]) == (len(CASES), len(expected))
    assert (summary["num_samples"], summary["num_inference_steps"]) == (NUM_SAMPLES, 2)
    assert summary["seconds_per_case"] > 0
    record = result["provenance"]
    assert record["weights_sha256"] == file_sha256(bundle / "models" / "model.pt")
    assert (record["seed"], record["split"], record["dataset"]) == (0, "validation", data.name)
    assert {"torch", "monai", "numpy", "python", "medseglatdiff_monai", "processor", "device"} <= record.keys()


def test_mask_outside_of_what_the_network_sees_is_missed(bundle: Path, data: Path, tmp_path: Path) -> None:
    evaluate(bundle, data, tmp_path, save_samples=True)
    row = read_rows(tmp_path)["case-5"]
    assert row["dice"] == row["iou"] == 0.0
    samples = np.load(tmp_path / "samples" / "case-5.npz")["samples"]
    assert samples[:, 32:96, 32:96].any()
    samples[:, 32:96, 32:96] = False
    assert not samples.any()


def test_results_do_not_depend_on_the_batch_size(bundle: Path, data: Path, tmp_path: Path) -> None:
    for size in (1, 4):
        evaluate(bundle, data, tmp_path / str(size), num_samples=3, save_samples=True, batch_size=size)
    one, four = read_rows(tmp_path / "1"), read_rows(tmp_path / "4")
    assert list(one) == list(four)
    for case in CASES:
        a, b = (np.load(tmp_path / size / "samples" / f"{case}.npz")["samples"] for size in ("1", "4"))
        # A pixel exactly on the edge may fall to the other side, since sums run in another order.
        assert (a != b).mean() < 1e-4
        assert one[case]["ged_v"] == pytest.approx(four[case]["ged_v"], abs=2e-3)


def test_named_raters_are_scored_by_name(bundle: Path, data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "data")
    info = json.loads((copy / "dataset.json").read_text())
    names = ["anna", "ben", "cleo", "dan"]
    (copy / "dataset.json").write_text(json.dumps({**info, "raters": names}))
    found = evaluate(bundle, copy, tmp_path / "scores", num_samples=NUM_SAMPLES, save_samples=True)["raters"]
    assert list(found) == names
    saved = [np.load(path) for path in (tmp_path / "scores" / "samples").iterdir()]
    for number, name in enumerate(names):
        dice = [overlap(case["consensus"], case["raters"][number])[0] for case in saved if case["raters"][number].any()]
        assert found[name] == {"dice": pytest.approx(np.mean(dice)), "num_cases": len(dice)}
    assert found["cleo"]["num_cases"] == found["ben"]["num_cases"] + 1


def test_a_case_that_is_there_twice_is_refused(bundle: Path, data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "data")
    info = json.loads((copy / "dataset.json").read_text())
    info["validation"][1]["case"] = info["validation"][0]["case"]
    (copy / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"dataset\.json: the validation part has 2 items of the case 'case-\d+'"):
        evaluate(bundle, copy, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_cases_are_drawn_by_seed(bundle: Path, data: Path, tmp_path: Path) -> None:
    drawn = {}
    for seed in range(4):
        evaluate(bundle, data, tmp_path / str(seed), num_samples=1, max_cases=2, seed=seed)
        drawn[seed] = tuple(read_rows(tmp_path / str(seed)))
    assert {len(cases) for cases in drawn.values()} == {2}
    assert len(set(drawn.values())) > 1
    evaluate(bundle, data, tmp_path / "again", num_samples=1, max_cases=2, seed=3)
    assert read_rows(tmp_path / "again").keys() == read_rows(tmp_path / "3").keys()
    again, before = read_result(tmp_path / "again")["summary"], read_result(tmp_path / "3")["summary"]
    assert again["ged_v"] == before["ged_v"]
    # A single sample has no pair to estimate its spread from.
    reasons = read_result(tmp_path / "3")["not_applicable"]
    for name in ("ged_u", "diversity", "ncc", "ci_score", "ci_agreement"):
        assert before[name] is None
        assert reasons[name] == "needs at least two samples, there is one"
    assert not {"ged_v", "hm_iou", "d_max", "soft_dice", "ci_sensitivity"} & reasons.keys()


def test_one_rater(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "bundle", SKIN)
    data = write_prepared(tmp_path / "data", SKIN, training=1, validation=2)
    evaluate(bundle, data, tmp_path / "out", split="val", num_samples=3, save_samples=True)
    summary = read_result(tmp_path / "out")["summary"]
    missing = {name for name, value in summary.items() if value is None}
    assert missing == {"ged_u", "raters_diversity", "ncc", "ci_score", "ci_agreement"}
    reasons = read_result(tmp_path / "out")["not_applicable"]
    assert reasons == dict.fromkeys(missing, "needs at least two raters, the data set has one")
    rows = read_rows(tmp_path / "out")
    for case, row in rows.items():
        with np.load(tmp_path / "out" / "samples" / f"{case}.npz") as saved:
            for name, value in score(saved["samples"], saved["raters"], 0.5).items():
                assert row[name] == pytest.approx(value, abs=1e-6, nan_ok=True), (case, name)
            # The bundle is scored at the network's size, and at the images' own beside it.
            assert saved["samples"].shape == (3, 64, 64)
        assert 0.0 <= row["dice_native"] <= 1.0
    assert summary["dice_native"] == pytest.approx(np.mean([row["dice_native"] for row in rows.values()]))


def test_a_new_metric_is_one_row(bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def area(masks: ScoredMasks) -> torch.Tensor:
        return (
            masks.samples.flatten(2).sum(2).double().mean(1) if masks.samples.shape[1] > 1 else torch.tensor([math.nan])
        )

    row = Column("area", "Area", "mean area of the samples", score=area, min_samples=2)
    monkeypatch.setitem(COLUMNS, "area", row)
    summary = evaluate(bundle, data, tmp_path / "two", num_samples=2, save_samples=True)["summary"]
    rows = read_rows(tmp_path / "two")
    for case in CASES:
        with np.load(tmp_path / "two" / "samples" / f"{case}.npz") as saved:
            assert rows[case]["area"] == saved["samples"].sum() / 2
    assert summary["area"] == pytest.approx(np.mean([row["area"] for row in rows.values()]))
    result = evaluate(bundle, data, tmp_path / "one", num_samples=1)
    assert result["not_applicable"]["area"] == result["not_applicable"]["diversity"]
    suite = {
        "title": "t", "description": "d", "systems": [{"name": "A"}], "metrics": ["area"],
        "evaluations": [{"name": "e", "num_samples": 2, "subsample": [1, 2]}],
    }  # fmt: skip
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    assert load_suite(tmp_path / "suite.json").metrics == ["area"]


def test_image_codec_is_scored_where_there_is_one(bundle: Path, data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(bundle, tmp_path / "bundle")
    codec = build_network(root)[1].get_parsed_content("image_codec_def")
    save_weights(codec, root / "models" / "image_codec.pt")
    summary = evaluate(root, data, tmp_path / "out", num_samples=1)["summary"]
    assert math.isfinite(summary["codec_image_psnr"])
    assert -1.0 <= summary["codec_image_ssim"] <= 1.0
    assert "codec_image_psnr" not in evaluate(bundle, data, tmp_path / "none", num_samples=1)["summary"]


@pytest.mark.parametrize("fusion", ["majority", "staple", "size_preserving"])
def test_consensus_follows_the_fusion(bundle: Path, data: Path, tmp_path: Path, fusion: str) -> None:
    result = evaluate(bundle, data, tmp_path, num_samples=4, save_samples=True, fusion=fusion, threshold=0.9)
    assert result["settings"]["fusion"] == fusion
    rows, changed = read_rows(tmp_path), 0
    for case in CASES:
        with np.load(tmp_path / "samples" / f"{case}.npz") as file:
            saved = dict(file)
        samples, confidence = torch.from_numpy(saved["samples"])[None], torch.from_numpy(saved["confidence"])[None]
        expected = fuse_ensemble(samples, confidence[None], 0.9, fusion)["consensus_mask"][0, 0].numpy()
        assert np.array_equal(saved["consensus"], expected)
        assert rows[case]["dice_all"] == pytest.approx(overlap(expected, 2 * saved["raters"].sum(0) >= 4)[0], abs=1e-6)
        changed += bool((expected != (saved["confidence"] >= 0.9)).any())
    assert changed


def test_picture_shows_best_median_and_worst_case(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the samples that were scored, though they are sampled again."""
    data = write_prepared(tmp_path / "data", LUNG, training=1, validation=12)
    shown: list[ComparedCase] = []
    monkeypatch.setattr("medseglatdiff_monai.evaluation.picture.plot_comparison", lambda rows, *_: shown.extend(rows))
    evaluate(bundle, data, tmp_path, num_samples=NUM_SAMPLES, save_samples=True, score_at="network", seed=3)
    rows = [row for row in read_rows(tmp_path).values() if math.isfinite(row["dice"])]
    rows.sort(key=lambda row: row["ged_v"])
    assert len(rows) >= 3
    expected = {"best": rows[0], "median": rows[len(rows) // 2], "worst": rows[-1]}
    assert [case.name for case in shown] == [row["case"] for row in expected.values()]
    assert [case.remark.split(":")[0] for case in shown] == list(expected)
    for case, row in zip(shown, expected.values(), strict=True):
        with np.load(tmp_path / "samples" / f"{row['case']}.npz") as saved:
            assert np.array_equal(case.samples, saved["samples"])
            assert np.array_equal(case.raters, saved["raters"])
        assert case.image.shape == (64, 64)


def test_data_of_another_number_of_channels_is_refused(bundle: Path, tmp_path: Path) -> None:
    colour = write_prepared(tmp_path / "colour", SKIN, training=1, validation=1)
    with pytest.raises(InputError, match="colour holds images of 3 channels, the bundle expects 1"):
        evaluate(bundle, colour, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_postprocessing_changes_the_samples(bundle: Path, data: Path, tmp_path: Path) -> None:
    masks = {}
    for name, postprocess in (("plain", None), ("refined", "morphology")):
        result = evaluate(
            bundle, data, tmp_path / name, num_samples=2, save_samples=True, score_at="network", postprocess=postprocess
        )
        assert result["settings"]["postprocess"] == postprocess
        masks[name] = np.load(tmp_path / name / "samples" / "case-4.npz")["samples"]
    assert np.array_equal(refine_masks(torch.from_numpy(masks["plain"])[None])[0].numpy(), masks["refined"])
    assert not np.array_equal(masks["plain"], masks["refined"])


def test_probabilities_as_confidence(bundle: Path, data: Path, tmp_path: Path) -> None:
    result = evaluate(bundle, data, tmp_path, num_samples=2, save_samples=True, confidence="probabilities")
    with np.load(tmp_path / "samples" / "case-4.npz") as file:
        saved = dict(file)
    inner = saved["confidence"][32:96, 32:96]
    assert len(np.unique(inner)) > 3
    assert np.array_equal(saved["consensus"], saved["confidence"] >= THRESHOLD - 1e-6)
    assert not saved["confidence"][:32].any()
    expected = np.mean((saved["confidence"] - saved["raters"].mean(0)) ** 2)
    assert read_rows(tmp_path)["case-4"]["brier"] == pytest.approx(expected, abs=1e-6)
    assert result["settings"]["confidence"] == "probabilities"


def test_sample_that_is_not_finite_is_named_by_its_case(bundle: Path, data: Path, tmp_path: Path) -> None:
    network = build_network(bundle)[0]
    with torch.no_grad():
        next(network.mask_codec.decoder.parameters()).fill_(torch.nan)
    save_weights(network, tmp_path / "model.pt")
    with pytest.raises(InputError, match="Sample 0 of case 'case-4' is not finite"):
        evaluate(bundle, data, tmp_path / "out", weights=tmp_path / "model.pt")
    assert not (tmp_path / "out").exists()


class Bright(torch.nn.Module):
    """A one-to-one segmenter: what is brighter than a level, the same mask every time."""

    def __init__(self, mask_codec: torch.nn.Module | None) -> None:
        super().__init__()
        self.mask_codec = mask_codec

    def ensemble_logits(self, image: torch.Tensor, num_samples: int, *_: Any, **__: Any) -> torch.Tensor:
        return (image - 110.0).expand(-1, num_samples, -1, -1)


@pytest.mark.parametrize("mask_codec", [None, IdentityCodec()], ids=["no codec", "pixels"])
def test_segmenter_without_a_mask_codec(data: Path, tmp_path: Path, mask_codec: torch.nn.Module | None) -> None:
    items = load_datalist(data, "validation")
    preprocessing = Compose([LoadCased(keys=["image", "label"])])
    inferer = EnsembleInferer(num_samples=3)
    chosen = [{key: item[key] for key in ("image", "label", "case")} for item in items]
    network = Bright(mask_codec)
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(chosen, preprocessing), batch_size=2),
        network=network,
        prepare_batch=PrepareEnsemble(),
        inferer=inferer,
        val_handlers=[CaseRecorder(items, tmp_path, preprocessing, network, inferer)],
        decollate=False,
    ).run()
    result = load_result(tmp_path / "metrics.json")
    summary, reasons = result["summary"], result["not_applicable"]
    for name in ("codec_mask_dice", "codec_mask_ged"):
        assert reasons[name] == "the network has no mask codec, it works on pixels"
    assert reasons["num_inference_steps"] == "the network predicts in one pass"
    assert reasons.keys() == {name for name, value in summary.items() if value is None}
    # All samples are alike: no diversity, nothing said on where raters disagree.
    assert (summary["diversity"], summary["ncc"]) == (0.0, 0.0)
    assert summary["dice"] > 0.3
    assert list(read_rows(tmp_path)) == CASES


def test_mask_codec_of_the_whole_networks_weights(bundle: Path, data: Path, scored: Path, tmp_path: Path) -> None:
    """A shipped bundle has no weights of its codec's stage; its codec is the one that the evaluation has used."""
    evaluate_codec(bundle, "mask_codec", data, tmp_path)
    found, expected = load_result(tmp_path / "metrics.json"), load_result(scored / "metrics.json")
    assert found["summary"]["dice"] == pytest.approx(expected["summary"]["codec_mask_dice"], rel=1e-6)
    with pytest.raises(InputError, match=r"image_codec\.pt"):
        evaluate_codec(bundle, "image_codec", data, tmp_path)


def test_results_of_another_version_are_refused(scored: Path, tmp_path: Path) -> None:
    result = load_result(scored / "metrics.json")
    assert result == read_result(scored)
    for change in ({"version": 1}, {"version": 3}, {"version": None}):
        (tmp_path / "metrics.json").write_text(json.dumps({**result, **change}))
        with pytest.raises(InputError, match=f"found version {change['version']}, expected 2; .*--output-dir"):
            load_result(tmp_path / "metrics.json")
    (tmp_path / "metrics.json").write_text('{"version": 2')
    with pytest.raises(InputError, match="not valid JSON"):
        load_result(tmp_path / "metrics.json")
    with pytest.raises(InputError, match="no such file"):
        load_result(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion": "median"}, "fusion: found 'median'"),
        ({"postprocess": "erode"}, "postprocess: found 'erode'"),
        ({"surface_tolerance": -1.0}, "surface_tolerance must be"),
        ({"split": "holdout"}, "split 'holdout'"),
        ({"split": "test"}, r"test part.*is empty"),
        ({"num_samples": 0}, "--num-samples"),
        ({"num_inference_steps": 0}, "--num-inference-steps"),
        ({"max_cases": 0}, "--max-cases"),
        ({"weights": "nowhere.pt"}, r"nowhere\.pt"),
        ({"treshold": 0.3}, "Did you mean 'threshold'"),
        ({"mask_embedding_dim": 7}, "do not fit the network"),
    ],
)
def test_bad_arguments_leave_nothing_behind(
    bundle: Path, data: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(bundle, data, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
