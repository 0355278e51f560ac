"""The command line as a user meets it: processes of their own, exit codes, messages, files."""

from __future__ import annotations

import csv
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import BUNDLES, LUNG, THRESHOLD, write_prepared, write_small_bundle

from medseglatdiff_monai import __version__, cli
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.cli import main
from medseglatdiff_monai.data.sources.source import SOURCES, read_options

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[1]
OWN_LINE = re.compile(
    r"Loading PyTorch and MONAI|(Loading images|Preparing|Scoring|Predicting): .*|Stage \d of \d: .*|"
    r"Stage \w+ is finished already: .*|.*\.png: predicted in .*|"
    r"(Images|Masks|Input|Start|Stages|Time): .*|The mask codec rebuilds .*|The masks are not usable yet: .*|"
    r"Dice of the consensus in the last validation: .*|Time is up in .*|"
    r"Its share of the time is over: .*|A last validation, of what was reached|The time is over: .*"
)


def medseglatdiff(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PAGER": "cat"}
    return subprocess.run(
        [sys.executable, "-m", "medseglatdiff_monai", *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip


def assert_own_lines(text: str) -> None:
    """What went to stderr is this package's: nothing of other packages, no bars, no figures of sixteen digits."""
    other = [line for line in text.splitlines() if not OWN_LINE.fullmatch(line)]
    assert other == []
    assert not re.search(r"\d\.\d{6}", text)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("bundle") / "lung")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=1, validation=3)


def test_help_lists_the_commands() -> None:
    done = medseglatdiff("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in cli.COMMANDS:
        assert re.search(rf"^  {command} +[A-Z]", done.stdout, re.MULTILINE)
    assert "medseglatdiff predict lung_nodule_ct_latent_diffusion SERIES_FOLDER --point" in done.stdout


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_help_of_a_command_lists_its_arguments(command: str) -> None:
    """Every parameter with a meaning, its default as one types it, and an example."""
    done = medseglatdiff(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^Example: medseglatdiff {command}\b", done.stdout, re.MULTILINE)
    row = cli.COMMANDS[command]
    names = {parameter: option for option, parameter in row.aliases.items()}
    parameters = inspect.signature(row.load()).parameters.values()
    for number, parameter in enumerate(parameters):
        name = names.get(parameter.name, parameter.name)
        if number < row.words:
            start = rf"  {name.upper()}(\.\.\.)?"
        elif parameter.kind is parameter.VAR_KEYWORD:
            start = "  --KEY VALUE"
        elif isinstance(parameter.default, bool):
            start = rf"  --{name.replace('_', '-')} true\|false  \(default: {str(parameter.default).lower()}\)"
        elif parameter.default is parameter.empty:
            start = rf"  --{name.replace('_', '-')} \S+  \(required\)"
        elif parameter.default is None:
            start = rf"  --{name.replace('_', '-')} \S+"
        else:
            start = rf"  --{name.replace('_', '-')} \S+  \(default: {re.escape(str(parameter.default))}\)"
        assert re.search(rf"^{start}\n      \w", done.stdout, re.MULTILINE), (name, done.stdout)


def test_help_of_prepare_lists_the_options_of_every_source() -> None:
    whole = medseglatdiff("prepare", "--help").stdout
    assert "  --ratios A:B:C\n" in whole
    assert not {"--crop", "--whole-slice"} & set(whole.split("Options of the source")[0].split("\nOptions:")[1].split())
    for source in SOURCES:
        options = read_options(source)[1]
        own = medseglatdiff("prepare", source, "--help")
        assert (own.returncode, own.stderr) == (0, "")
        for name in options:
            assert f"  --{name.replace('_', '-')} " in whole.split(f"Options of the source {source}:")[1]
            assert f"  --{name.replace('_', '-')} " in own.stdout


def test_lists_of_what_there_is() -> None:
    bundles, experiments, suites = (medseglatdiff(name) for name in ("bundles", "experiments", "suites"))
    assert {line.split()[0] for line in bundles.stdout.splitlines()} == set(BUNDLES)
    assert re.search(rf"^{LUNG} +weights +Segmentation of a lung nodule", bundles.stdout, re.MULTILINE)
    # Every experiment says in a sentence what it is.
    assert all(len(line.split()) > 1 for line in experiments.stdout.splitlines())
    for name in ("nnunet", "paper", "ablations/kl"):
        assert re.search(rf"^{name}  ", experiments.stdout, re.MULTILINE)
    assert re.search(r"^ambiguity  .*\(7 systems\)$", suites.stdout, re.MULTILINE)


def test_version() -> None:
    assert medseglatdiff("--version").stdout == f"medseglatdiff {__version__}\n"


def test_mistyped_command_names_the_nearest() -> None:
    done = medseglatdiff("evalute", "lung", "--dataset-dir", "d")
    assert done.returncode != 0
    assert "no command 'evalute'" in done.stderr
    assert "Did you mean 'evaluate'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_mistyped_option_names_the_nearest(tmp_path: Path) -> None:
    done = medseglatdiff("report", tmp_path, "--output-fil=a.html")
    assert done.returncode == 1
    assert done.stderr == (
        "medseglatdiff report: no option '--output-fil'. Did you mean '--output-file'? "
        "Options: --run-folder, --output-file.\n"
    )
    done = medseglatdiff("suites", "--foo", "1")
    assert done.stderr == "medseglatdiff suites: no option '--foo'. It takes none.\n"


def test_hyphens_and_underscores_are_the_same(tmp_path: Path) -> None:
    """In the names of commands and of options; an option's value may follow a space or an equals sign."""
    for command, option in (("new-bundle", "--output-dir"), ("new_bundle", "--output_dir")):
        done = medseglatdiff(command, "my_own", f"{option}={tmp_path}", "--from", "skin_lesion")
        assert done.returncode == 1
        assert "No bundle 'skin_lesion'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", LUNG], "medseglatdiff train: --dataset-dir is missing. See 'medseglatdiff train --help'."),
        (["new-bundle", "my_own"], "medseglatdiff new-bundle: --from is missing"),
        (["report"], "medseglatdiff report: RUN_FOLDER is missing"),
        (["check-bundle", LUNG, "more"], "medseglatdiff check-bundle: 'more' is a word too many"),
        (["evaluate", LUNG, "--dataset-dir=d", "--output-dir=o", "--seed=1.5"], "--seed is '1.5'; expected an integer"),
        (["train", LUNG, "--dataset-dir=d", "--max-minutes=soon"], "--max-minutes is 'soon'; expected a number"),
        (["view", "--show=maybe"], "--show is 'maybe'; expected true or false"),
        (["--halp"], "medseglatdiff: no command '--halp'"),
        ([""], "medseglatdiff: no command ''"),
    ],
    ids=["option", "alias", "word", "surplus", "integer", "number", "switch", "no command", "empty"],
)
def test_arguments_are_checked_before_the_command_is_called(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["medseglatdiff", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert message in str(caught.value)


def test_values_have_the_types_of_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text stays as it was typed; lists, numbers, switches and configuration keys are parsed."""
    given: dict[str, object] = {}

    def command(
        bundle: str | Path, inputs: list[str], name: str | None = None, seed: int = 0, minutes: float | None = None,
        show: bool = True, point: Any = None, **overrides: Any,
    ) -> None:  # fmt: skip
        given.update(bundle=bundle, inputs=inputs, name=name, seed=seed, minutes=minutes, show=show, point=point)
        given.update(overrides)

    row = cli.Command("unused:unused", 2, several=True)
    monkeypatch.setattr(cli.Command, "load", lambda self: command)
    monkeypatch.setitem(cli.COMMANDS, "try", row)
    typed = [
        "007", "1e3", "b.png", "--name=010", "--seed", "5", "--minutes=2", "--noshow", "--point=-1,2", "--key=[1,2]",
        "--other_key", "--first=false", "--second=TRUE", "--third=None", "--fourth=null", "--fifth=[true,none,a]",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["medseglatdiff", "try", *typed])
    main()
    assert given == {
        "bundle": "007", "inputs": ["1e3", "b.png"], "name": "010", "seed": 5, "minutes": 2, "show": False,
        "point": (-1, 2), "key": [1, 2], "other_key": True, "first": False, "second": True, "third": None,
        "fourth": None, "fifth": [True, None, "a"],
    }  # fmt: skip


def test_a_word_may_be_given_as_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words that are left go to the other places."""
    given: list[object] = []
    monkeypatch.setattr(cli.Command, "load", lambda self: lambda bundle, inputs: given.append((bundle, inputs)))
    monkeypatch.setitem(cli.COMMANDS, "try", cli.Command("unused:unused", 2, several=True))
    for typed in (["lung", "a.png", "b.png"], ["--bundle=lung", "a.png", "b.png"], ["-b", "lung", "a.png", "b.png"]):
        monkeypatch.setattr(sys, "argv", ["medseglatdiff", "try", *typed])
        main()
    assert given == [("lung", ["a.png", "b.png"])] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "lung_nodul_ct"], f"Did you mean '{LUNG}'?"),
        (["train", LUNG], "dataset.json is missing"),
        (["evaluate", LUNG, "--num-sampels", "3"], "Did you mean 'num_samples'?"),
    ],
    ids=["bundle", "dataset", "override"],
)
def test_bad_input_is_one_message_without_a_traceback(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = medseglatdiff(*arguments, "--dataset-dir", tmp_path, "--output-dir", tmp_path / "out")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("medseglatdiff: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_are_one_message(bundle: Path, data: Path, tmp_path: Path) -> None:
    """The error comes from deep within MONAI's configuration."""
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    done = medseglatdiff(
        "evaluate", bundle, "--dataset-dir", data, "--weights", tmp_path / "other.pt", "--output-dir", tmp_path / "out"
    )
    assert done.returncode == 1
    assert "other.pt do not fit the network" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_evaluate(bundle: Path, data: Path, tmp_path: Path) -> None:
    done = medseglatdiff(
        "evaluate", bundle, "--dataset-dir", data, "--split", "validation", "--num-samples", 3, "--max-cases", 2,
        "--seed", 5, "--save-samples", "--output-dir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert (result["summary"]["num_cases"], result["summary"]["num_samples"]) == (2, 3)
    assert result["provenance"]["seed"] == 5
    with (tmp_path / "cases.csv").open() as handle:
        cases = {row["case"] for row in csv.DictReader(handle)}
    assert {path.stem for path in (tmp_path / "samples").iterdir()} == cases
    assert len(cases) == 2
    assert f"ged_v {result['summary']['ged_v']:.4f}" in done.stdout
    assert "metrics.json" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Next: medseglatdiff predict {bundle} IMAGE --output-dir out"
    assert_own_lines(done.stderr)


def test_predict(bundle: Path, data: Path, tmp_path: Path) -> None:
    images = [data / "images" / f"case-{number}.png" for number in (1, 2)]
    done = medseglatdiff("predict", bundle, *images, "--output-dir", tmp_path, "--num-samples", 3)
    assert done.returncode == 0, done.stderr
    assert_own_lines(done.stderr)
    assert re.findall(r"^(case-\d\.png): predicted in .* \((\d) of 2\)$", done.stderr, re.MULTILINE) == [
        ("case-1.png", "1"), ("case-2.png", "2"),
    ]  # fmt: skip
    assert done.stdout.splitlines()[-2:] == [f"Results: {tmp_path}", f"Next: medseglatdiff report {tmp_path}"]
    for image in images:
        consensus = np.asarray(Image.open(tmp_path / f"{image.stem}_consensus.png"))
        assert consensus.shape == (128, 128)
        assert set(np.unique(consensus)) == {0, 255}
        with np.load(tmp_path / f"{image.stem}_samples.npz") as saved:
            assert np.array_equal(consensus > 0, saved["samples"].mean(0) >= THRESHOLD)
        assert (tmp_path / f"{image.stem}_panel.png").is_file()
        assert json.loads((tmp_path / f"{image.stem}_prediction.json").read_text())


def test_predict_names_the_file_that_is_no_image(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    done = medseglatdiff("predict", bundle, tmp_path / "broken.png", "--output-dir", tmp_path / "out")
    assert done.returncode == 1
    assert "broken.png" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/*"))


def test_exported_file_takes_image_and_noise(bundle: Path, tmp_path: Path) -> None:
    done = medseglatdiff("export", bundle, "--output-file", tmp_path / "model.ts", "--num-samples", 3)
    assert done.returncode == 0, done.stderr
    exported = torch.jit.load(str(tmp_path / "model.ts"))
    network = load_segmenter(bundle, num_samples=3).network
    torch.manual_seed(1)
    for batch in (1, 3):
        image = torch.rand(batch, 1, 64, 64)
        # The bundle's sampler takes two passes, each with noise of its own.
        channels, *sides = network.latent_shape(image)
        noise = torch.randn(batch, 3, network.count_passes() * channels, *sides)
        with torch.no_grad():
            expected, found = network(image, noise), exported(image, noise)
        assert found.shape == (batch, 1, 64, 64)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        # Shares of three masks, not a map of one value.
        assert expected.unique().numel() == 4


def test_sampler_that_draws_on_the_way_is_not_exported(bundle: Path, tmp_path: Path) -> None:
    done = medseglatdiff("export", bundle, "--output-file", tmp_path / "model.ts", "--sampler", "ddpm")
    assert done.returncode == 1
    assert "--sampler dpm++ or ddim" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_train(bundle: Path, data: Path, tmp_path: Path) -> None:
    """A list, a number and a switch as overrides; the second call finds the run finished."""
    command = [
        "train", bundle, "--dataset-dir", data, "--output-dir", tmp_path / "run", "--max_epochs", 1, "--batch_size", 1,
        "--cache_workers", 0, "--draws=2", "--denoiser_channels", "[16,24]", "--tracking_uri", "false",
        "--denoiser_norm_groups", 4, "--val_interval", 1,
    ]  # fmt: skip
    done = medseglatdiff(*command)
    assert done.returncode == 0, done.stderr
    assert_own_lines(done.stderr)
    for number, name in enumerate(("image codec", "mask codec", "diffusion", "scoring"), start=1):
        assert f"Stage {number} of 4: {name}: 1 step in 1 epoch\n" in done.stderr
    assert re.search(r"mask codec, epoch 1 of 1: Dice [\d.e-]+, wanted at least 0\.90; loss ", done.stderr)
    curves = json.loads((tmp_path / "run" / "training_curves.json").read_text())
    assert [curves["scoring"][name][0][0] for name in ("loss", "GED", "Dice")] == [1, 1, 1]
    with Image.open(tmp_path / "run" / "training_curves.png") as picture:
        assert picture.width > picture.height
    assert done.stdout.splitlines()[-2:] == [
        f"Result: {tmp_path / 'run' / 'models' / 'model.pt'}",
        f"Next: medseglatdiff evaluate {tmp_path / 'run'} --dataset-dir {data} --output-dir results/run",
    ]
    written = json.loads((tmp_path / "run" / "configs" / "train.json").read_text())
    assert written["denoiser_channels"] == [16, 24]
    assert not (tmp_path / "run" / "mlruns.db").exists()
    models = tmp_path / "run" / "models"
    assert {path.name for path in models.iterdir()} == {"image_codec.pt", "mask_codec.pt", "diffusion.pt", "model.pt"}
    again = medseglatdiff(*command)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("is finished already") == 4


def test_training_that_tracks_and_resumes_says_nothing_of_other_packages(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    """MLflow makes its tables; MONAI and ignite tell of their own; the run is not finished within its time."""
    command = [
        "train", bundle, "--dataset-dir", data, "--output-dir", tmp_path / "run", "--batch_size", 1,
        "--training_stages", "[mask_codec,train]", "--sampler", "dpm++", "--max_epochs", 20_000, "--max-minutes", 0.05,
    ]  # fmt: skip
    for number in range(2):
        done = medseglatdiff(*command)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "run" / "mlruns.db").is_file()
        assert re.search(r"20,000 steps in 20,000 epochs.*, \d seconds? left of the budget", done.stderr)
        assert ("resumed after step" in done.stderr) is bool(number)
        assert_own_lines(done.stderr)
        assert done.stdout.splitlines()[-1].startswith("Next: medseglatdiff train ")


def test_prepare_names_the_next_command(tmp_path: Path) -> None:
    done = medseglatdiff("prepare", "phantom", "--num-cases", 4, "--workers", 2, "--output-dir", tmp_path / "phantom")
    assert done.returncode == 0, done.stderr
    assert_own_lines(done.stderr)
    assert done.stdout.splitlines()[-1] == (
        f"Next: medseglatdiff train {LUNG} --dataset-dir {tmp_path / 'phantom'} --output-dir runs/phantom"
    )
