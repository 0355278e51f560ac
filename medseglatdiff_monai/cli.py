"""The command line: a table of public functions, whose signatures are the options and whose docstrings are the help.

fire reads the words. A function's module is imported when its command is called, and none of these modules needs torch
or MONAI before the arguments are checked.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import pkgutil
import re
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import __version__
from .bundle.trust import TRUST_VARIABLE, code_options
from .console import count, set_up_console
from .errors import InputError, did_you_mean
from .files import find_full_disk
from .plugins import take_plugins
from .startup import start_command

HELP = frozenset({"--help", "-h"})
CONSTANTS = {"true": True, "false": False, "none": None, "null": None}
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
                taken = f"Options: {listed}." if listed else "It takes none."
                sys.exit(f"medseglatdiff {name}: no option {_option(typed)!r}.{hint} {taken}")
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
    such as lists and configuration keys, is what fire makes of it, with true, false, none and null in any case.
    """
    from fire.parser import DefaultParseValue

    kinds = set(re.findall(r"[A-Za-z]\w*", annotation))
    optional = bool(kinds & {"None", "Any"})
    kinds -= {"None"}
    if kinds <= {"str", "Path"}:
        return None if optional and text == "None" else text
    value = _replace_constants(DefaultParseValue(text))
    if value is None and optional:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    for kind, fits, expected in (
        ("int", number and isinstance(value, int), "an integer"),
        ("float", number, "a number"),
        ("bool", isinstance(value, bool), "true or false"),
    ):
        if kinds == {kind} and not fits:
            raise InputError(f"{_option(key)} is {text!r}; expected {expected}.")
    return value


def _replace_constants(value: Any) -> Any:
    """``value`` with the words of :data:`CONSTANTS`, in any case, as what they mean; also inside lists."""
    if isinstance(value, str):
        return CONSTANTS.get(value.lower(), value)
    return type(value)(map(_replace_constants, value)) if isinstance(value, list | tuple) else value


def _say_next(*words: object) -> None:
    """The command that usually follows, to be typed or copied; a word in capitals is to be filled in."""
    print("Next:", shlex.join(["medseglatdiff", *map(str, words), *code_options()]))


def _say_prepared(dataset_file: Path, _: Mapping[str, Any]) -> None:
    from .data.datalist import load_dataset_info
    from .data.sources.source import default_bundle
    from .data.summary import summarise_dataset

    print("\n  ".join([f"Prepared: {dataset_file}", *summarise_dataset(dataset_file)]))
    folder = dataset_file.parent
    info = load_dataset_info(folder)
    bundle = default_bundle(info.get("source"))
    if bundle is None:
        _say_next("new-bundle", "NAME", "--from", "BUNDLE", "--output-dir", "my_bundles", "--dataset-dir", folder)
    elif info["training"]:
        _say_next("train", bundle, "--dataset-dir", folder, "--output-dir", f"runs/{folder.name}")


def _say_run(run: Path, arguments: Mapping[str, Any]) -> None:
    from .networks.weights import stage_finished

    print(f"Run: {run}")
    weights = run / "models" / "model.pt"
    if stage_finished(weights):
        print(f"Result: {weights}")
        _say_next(
            "evaluate", run, "--dataset-dir", arguments["dataset_dir"], "--output-dir", f"results/{Path(run).name}"
        )
    else:
        # Which stage is not finished was said before.
        print("Next:", shlex.join(["medseglatdiff", *sys.argv[1:]]))


def _say_scores(result: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    summary, output_dir = result["summary"], arguments["output_dir"]
    names = [name for name in ("ged_v", "ged_u", "hm_iou", "dice", "iou") if summary[name] is not None]
    print("  ".join(f"{name} {summary[name]:.4f}" for name in names), f" ({summary['num_cases']} cases)")
    if "bundle" not in arguments:
        print(f"Results: {output_dir}/metrics.json, {output_dir}/cases.csv")
        return
    print(f"Results: {output_dir}/metrics.json, {output_dir}/cases.csv, {output_dir}/cases.png")
    _say_next("predict", arguments["bundle"], "IMAGE", "--output-dir", "out")


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
    from .predict.wording import describe_record

    for result in results:
        name, run = result["input"]["name"], result["provenance"]
        if "nodules" not in result:
            # Folders may hold hundreds of pictures: a line for each.
            print(f"{name}: {' '.join(describe_record(result, run))}")
        for nodule in result.get("nodules", ()):
            print("\n  ".join([f"{name}, nodule {nodule['number']}:", *describe_record(nodule, run)]))
    print(f"Results: {arguments['output_dir']}")
    _say_next("report", arguments["output_dir"])


def _say_report(path: Path, _: Mapping[str, Any]) -> None:
    print(f"Report: {path}, to be opened in a browser")


def _say_packed(path: Any, _: Mapping[str, Any]) -> None:
    from .files import file_sha256

    if path.is_dir():
        print(f"Packed: {path}, a folder to upload")
    else:
        print(f"Packed: {path} ({path.stat().st_size / 1e6:.1f} MB, SHA-256 {file_sha256(path)})")


def _say_registered(result: tuple[str, int], _: Mapping[str, Any]) -> None:
    uri, version = result
    print(f"Registered: version {version}. mlflow.pyfunc.load_model({uri!r})")


def _say_new_bundle(path: Any, arguments: Mapping[str, Any]) -> None:
    from .bundle.check import check_bundle

    print(f"Bundle: {path}")
    if found := check_bundle(path):
        command = shlex.join(["medseglatdiff", "check-bundle", str(path)])
        print(f"{count(len(found), 'thing')} to fill in before you share it: {command}")
    folder = arguments.get("dataset_dir") or "DATASET_DIR"
    _say_next("train", path, "--dataset-dir", folder, "--output-dir", f"runs/{path.name}")


def _say_lines(lines: Sequence[str], _: Mapping[str, Any]) -> None:
    print("\n".join(lines))


def _say_info(found: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    from .info import describe_info

    print(json.dumps(found, indent=2) if arguments.get("json") else "\n".join(describe_info(found)))


def _say_checked(found: Sequence[str], arguments: Mapping[str, Any]) -> None:
    if found:
        raise InputError("\n  ".join([f"{arguments['bundle']}: {count(len(found), 'thing')} to mend:", *found]))
    print("Complete.")


COMMANDS: dict[str, Command] = {
    "prepare": Command("data.prepare:prepare", 2, _say_prepared),
    "train": Command("training.run:train", 1, _say_run),
    "evaluate": Command("evaluation.run:evaluate", 1, _say_scores),
    "score": Command("evaluation.predictions:score", 1, _say_scores),
    "benchmark": Command("suites.command:run_suite", 1, _say_suite, aliases={"run": "runs"}),
    "predict": Command("predict.command:predict", 2, _say_predictions, several=True),
    "watch": Command("predict.watch:watch", 2),
    "report": Command("predict.report:report", 1, _say_report),
    "view": Command("integrations.view.command:view", 1),
    "export": Command("integrations.export.export:export", 1, "Exported"),
    "pack": Command("bundle.pack:pack", 1, _say_packed),
    "to-nnunet": Command("integrations.nnunet:to_nnunet", 1, "Written"),
    "register": Command("integrations.mlflow.register:register", 1, _say_registered),
    "new-bundle": Command("bundle.new:new_bundle", 1, _say_new_bundle, aliases={"from": "source"}),
    "check-bundle": Command("bundle.check:check_bundle", 1, _say_checked),
    "demo": Command("demo:demo", 0),
    "bundles": Command("listing:list_bundles", 1, _say_lines),
    "experiments": Command("listing:list_experiments", 0, _say_lines),
    "suites": Command("listing:list_suites", 0, _say_lines),
    "info": Command("info:info", 0, _say_info),
}


def _print_help(name: str, rest: Sequence[str]) -> None:
    from .command_help import describe_command, describe_program, describe_source
    from .data.sources.source import SOURCES

    sources = [word for word in rest if word in SOURCES]
    row = COMMANDS.get(name)
    if row is None:
        print(describe_program({key: row.load() for key, row in COMMANDS.items()}))
    elif name == "prepare" and sources:
        print(describe_source(sources[0]))
    else:
        print(describe_command(name, row.load(), row.words, row.several, row.aliases))


def _make_record(*arguments: Any, **options: Any) -> logging.LogRecord:
    """MONAI logs what ends a training with its traceback; errors that say what to do, and signals, need none.

    No filter of a handler: a bundle's ``logging.conf`` replaces the handlers.
    """
    record = logging.LogRecord(*arguments, **options)
    if record.exc_info and isinstance(record.exc_info[1], (InputError, SystemExit)):
        record.exc_info = None
    return record


def main() -> None:
    """Entry point of the console script ``medseglatdiff``."""
    set_up_console()
    logging.setLogRecordFactory(_make_record)
    try:
        given, *rest = take_plugins(sys.argv[1:]) or ["--help"]
    except InputError as error:
        sys.exit(f"medseglatdiff: {error}")
    name = given.replace("_", "-")
    if given == "--version":
        print(f"medseglatdiff {__version__}")
        return
    if given not in HELP and name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        sys.exit(f"medseglatdiff: no command {given!r}.{hint} Commands: {', '.join(COMMANDS)}.")
    if HELP & {given, *rest}:
        _print_help(name, rest)
        return

    import fire

    start_command()
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
    except KeyboardInterrupt:
        print("medseglatdiff: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if (full := find_full_disk(error)) is None:
            raise
        where = f"{full.filename} could not be written" if full.filename else "a file could not be written"
        sys.exit(f"medseglatdiff: {where} ({full.strerror}): free some space, and run the same command again.")
