"""The command line: a table of public functions, whose signatures are the options and whose docstrings are the help.

fire reads the words and prints the help. A function's module is imported when its command is called, and none of these
modules needs torch or MONAI before the arguments are checked.
"""

from __future__ import annotations

import inspect
import logging
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .bundle.trust import TRUST_VARIABLE
from .errors import InputError, did_you_mean
from .plugins import take_plugins

__all__ = ["COMMANDS", "main"]

HELP = frozenset({"--help", "-h"})
# Prints a result; gets the arguments too.
Say = Callable[[Any, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Command:
    """A row of the table.

    Attributes:
        function: ``module:function`` in this package.
        words: how many of its first parameters are positional; all others are options.
        say: prints the result, or ``LABEL: result`` if it is a text; ``None``: the command has printed all there is.
        several: the last of these parameters takes all words that are left.
        aliases: options that cannot have the name of their parameter.
    """

    function: str
    words: int
    say: Say | str | None = None
    several: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        return pkgutil.resolve_name(f"{__package__}.{self.function}")

    def describe(self) -> Callable[..., None]:
        """A function for fire's help: with the docstring, and parameters that are words or options."""
        function = self.load()
        signature = inspect.signature(function)
        parameters = []
        for place, parameter in enumerate(signature.parameters.values()):
            kind = parameter.kind
            if place == self.words - 1 and self.several:
                kind = parameter.VAR_POSITIONAL
            elif place >= self.words and kind is not parameter.VAR_KEYWORD:
                kind = parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(kind=kind))

        def described() -> None: ...

        described.__doc__ = function.__doc__
        described.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return described

    def call(self, name: str, words: Sequence[str], options: Mapping[str, str]) -> None:
        """Check and parse what was typed, call the function, and print what it says."""
        function = self.load()
        signature = inspect.signature(function).parameters
        parameters = {key: value for key, value in signature.items() if value.kind is not value.VAR_KEYWORD}
        takes_more = len(parameters) < len(signature)
        arguments: dict[str, Any] = {}
        for typed, text in options.items():
            short = [parameter for parameter in parameters if parameter[0] == typed]
            key = self.aliases.get(typed, short[0] if len(short) == 1 else typed)
            if key in parameters:
                arguments[key] = _parse(typed, text, str(parameters[key].annotation))
            elif takes_more:
                arguments[key] = _parse(typed, text, "Any")
            else:
                hint = did_you_mean(_option(typed), [_option(known) for known in parameters])
                listed = ", ".join(_option(known) for known in parameters)
                sys.exit(f"medseglatdiff {name}: no option {_option(typed)!r}.{hint} Options: {listed}.")
        places, left = list(parameters)[: self.words], list(words)
        for key in places:
            if key in arguments:
                continue
            if self.several and key == places[-1]:
                arguments[key], left = left, []
            elif left:
                arguments[key] = left.pop(0)
        if left:
            sys.exit(f"medseglatdiff {name}: {left[0]!r} is a word too many; options begin with --.")
        named = {parameter: typed for typed, parameter in self.aliases.items()}
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in arguments:
                what = key.upper() if key in places else _option(named.get(key, key))
                sys.exit(f"medseglatdiff {name}: {what} is missing. See 'medseglatdiff {name} --help'.")
        result = function(**arguments)
        if isinstance(self.say, str):
            print(f"{self.say}: {result}")
        elif self.say is not None:
            self.say(result, arguments)


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _parse(key: str, text: str, annotation: str) -> Any:
    """The value of an option, of the type that the parameter's annotation names.

    Text stays as it was typed, since a folder may be called 007; integers, numbers and switches are checked; all else,
    such as lists and configuration keys, is what fire makes of it.
    """
    from fire.parser import DefaultParseValue

    kinds = set(re.findall(r"[A-Za-z]\w*", annotation))
    if text == "None" and kinds & {"None", "Any"}:
        return None
    kinds -= {"None"}
    if kinds <= {"str", "Path"}:
        return text
    if kinds == {"bool"} and text.lower() in ("true", "false"):
        return text.lower() == "true"
    value = DefaultParseValue(text)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    for kind, fits, expected in (
        ("int", number and isinstance(value, int), "an integer"),
        ("float", number, "a number"),
        ("bool", False, "True or False"),
    ):
        if kinds == {kind} and not fits:
            raise InputError(f"{_option(key)} is {text!r}; expected {expected}.")
    return value


def _say_prepared(dataset_file: Any, _: Mapping[str, Any]) -> None:
    from .data.summary import summarise_dataset

    print("\n  ".join([f"Prepared: {dataset_file}", *summarise_dataset(dataset_file)]))


def _say_scores(result: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    summary, output_dir = result["summary"], arguments["output_dir"]
    names = [name for name in ("ged_v", "ged_u", "hm_iou", "dice", "iou") if summary[name] is not None]
    print("  ".join(f"{name} {summary[name]:.4f}" for name in names), f" ({summary['num_cases']} cases)")
    print(f"Results: {output_dir}/metrics.json, {output_dir}/cases.csv")


def _say_suite(results: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    output_dir = arguments["output_dir"]
    for entry in results["left_out"]:
        print(f"Left out: {entry['what']}: {entry['why']}")
    for name, reason in results["not_applicable"].items():
        print(f"Does not apply: {name}: {reason}")
    print(f"Results: {output_dir}/results.json, {output_dir}/results.csv, {output_dir}/report.html")
    if results["failures"]:
        raise InputError("; ".join(f"{entry['what']}: {entry['message']}" for entry in results["failures"]))


def _say_predictions(results: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> None:
    from .predict.measure import format_number

    for result in results:
        for nodule in result.get("nodules", ()):
            parts = []
            for key, name, unit in (("volume_mm3", "volume", "mm³"), ("longest_diameter_mm", "diameter", "mm")):
                if nodule[key] is not None:
                    low, high = (format_number(value) for value in nodule[key]["interval"])
                    parts.append(f"{name} {format_number(nodule[key]['consensus'])} {unit} ({low} to {high})")
            iou = nodule["agreement"]["mean_pairwise_iou"]
            parts += [] if iou is None else [f"agreement of the samples {iou:.2f} IoU"]
            print(f"{result['input']['name']}, nodule {nodule['number']}: {', '.join(parts)}")
    print(f"Results: {arguments['output_dir']}")


def _say_packed(path: Any, _: Mapping[str, Any]) -> None:
    from .files import weights_sha256

    print(f"Packed: {path} ({path.stat().st_size / 1e6:.1f} MB, SHA-256 {weights_sha256(path)})")


def _say_registered(result: tuple[str, int], _: Mapping[str, Any]) -> None:
    uri, version = result
    print(f"Registered: version {version}. mlflow.pyfunc.load_model({uri!r})")


def _say_new_bundle(path: Any, _: Mapping[str, Any]) -> None:
    from .bundle.check import check_bundle

    print(f"Bundle: {path}")
    print("Before it is given to others:")
    for line in check_bundle(path):
        print(f"  {line}")


def _say_checked(found: Sequence[str], arguments: Mapping[str, Any]) -> None:
    if found:
        raise InputError("\n  ".join([f"{arguments['bundle']} is not complete:", *found]))
    print("Complete.")


COMMANDS: dict[str, Command] = {
    "prepare": Command("data.prepare:prepare", 2, _say_prepared),
    "train": Command("training.run:train", 1, "Run"),
    "evaluate": Command("evaluation.run:evaluate", 1, _say_scores),
    "benchmark": Command("suites.command:run_suite", 1, _say_suite, aliases={"run": "runs"}),
    "predict": Command("predict.command:predict", 2, _say_predictions, several=True),
    "report": Command("predict.report:report", 1, "Report"),
    "view": Command("integrations.view.command:view", 1),
    "export": Command("integrations.export.export:export", 1, "Exported"),
    "pack": Command("bundle.pack:pack", 1, _say_packed),
    "register": Command("integrations.mlflow.register:register", 1, _say_registered),
    "new-bundle": Command("bundle.new:new_bundle", 1, _say_new_bundle, aliases={"from": "source"}),
    "check-bundle": Command("bundle.check:check_bundle", 1, _say_checked),
    "demo": Command("demo:demo", 0),
}


class _Help(dict):
    """Segmentation of medical images as a distribution of masks.

    From data to masks:

        medseglatdiff prepare lidc-slices lidc.tar.xz --output-dir data/lidc
        medseglatdiff train lung_nodule_ct_latent_diffusion --dataset-dir data/lidc --output-dir runs/lung
        medseglatdiff evaluate runs/lung --dataset-dir data/lidc --split validation --output-dir results/lung
        medseglatdiff predict lung_nodule_ct_latent_diffusion SERIES_FOLDER --point=-62.5,41,-120 --output-dir out

    medseglatdiff COMMAND --help lists a command's arguments. Every command takes --trust: a configuration may then run
    code that is not of this package's own configurations; and --plugin FILE.py, a file of your own with a metric, a
    data source or a network, which is imported first.
    """


def main() -> None:
    """Entry point of the console script ``medseglatdiff``."""
    import fire

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Each of these speaks about something that a user of this program can do nothing about.
    for logger in ("mlflow", "alembic", "highdicom", "monai.data.nvimgcodec_pydicom_plugin", "monai.data.image_reader"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    try:
        given, *rest = take_plugins(sys.argv[1:]) or ["--help"]
    except InputError as error:
        sys.exit(f"medseglatdiff: {error}")
    name = given.replace("_", "-")
    rows = COMMANDS if given in HELP else {name: COMMANDS[name]} if name in COMMANDS else {}
    if not rows:
        hint = did_you_mean(name, COMMANDS)
        sys.exit(f"medseglatdiff: no command {given!r}.{hint} Commands: {', '.join(COMMANDS)}.")
    if name == "prepare" and HELP & {*rest}:
        from .data.sources.source import SOURCES, describe_source

        if sources := [word for word in rest if word in SOURCES]:
            print(describe_source(sources[0]))
            return
    if HELP & {given, *rest}:
        described = _Help({key: row.describe() for key, row in rows.items()})
        fire.Fire(described, command=[*([] if given in HELP else [name]), "--", "--help"], name="medseglatdiff")
        return

    if "--trust" in rest:
        rest.remove("--trust")
        # Processes that the command starts inherit it.
        os.environ[TRUST_VARIABLE] = "1"

    # Text as it was typed: its type is the parameter's.
    @fire.decorators.SetParseFn(str)
    def call(*words: str, **options: str) -> None:
        COMMANDS[name].call(name, words, options)

    try:
        fire.Fire(call, command=rest, name=f"medseglatdiff {name}")
    except InputError as error:
        sys.exit(f"medseglatdiff: {error}")
