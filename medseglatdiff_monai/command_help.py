"""The help of the commands: their functions' docstrings and signatures as text.

Nothing is imported for it that the functions' modules do not import themselves.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping

from .data.sources.source import SOURCES, read_options

WIDTH = 100
EXAMPLES = """\
From data to masks:

  medseglatdiff prepare lidc-slices lidc.tar.xz --output-dir data/lidc
  medseglatdiff train lung_nodule_ct_latent_diffusion --dataset-dir data/lidc --output-dir runs/lung
  medseglatdiff evaluate runs/lung --dataset-dir data/lidc --split validation --output-dir results/lung
  medseglatdiff predict lung_nodule_ct_latent_diffusion SERIES_FOLDER --point=-62.5,41,-120 --output-dir out
"""
TRUST = "a configuration may then run code that is not of this package's own configurations."
PLUGIN = "a Python file of your own with a metric, a data source or a network; it is imported first."
# A name in a parameter's annotation → what is typed; the first that is there counts.
KINDS = {
    "Any": "VALUE", "Sequence": "A,B,...", "Path": "PATH", "str": "TEXT", "float": "NUMBER", "int": "INTEGER",
    "bool": "true|false",
}  # fmt: skip
# Options whose value is written in a way of its own.
WRITTEN = {"ratios": "A:B:C"}


def describe_program(functions: Mapping[str, Callable]) -> str:
    """What ``medseglatdiff --help`` prints of the commands' functions by their names."""
    width = max(map(len, functions))
    lines = []
    for name, function in functions.items():
        summary = _split_docstring(inspect.getdoc(function))[0].partition("\n\n")[0]
        lines.append(f"  {name:{width}}  {re.split('[:;.]', ' '.join(summary.split()))[0]}")
    return "\n".join([
        "medseglatdiff COMMAND ...: segmentation of medical images as a distribution of masks", "", EXAMPLES,
        "Commands (medseglatdiff COMMAND --help explains one):", "", *lines, "",
        _wrap(f"Every command takes --trust: {TRUST} And --plugin FILE.py: {PLUGIN}"),
        "medseglatdiff --version prints the version.",
    ])  # fmt: skip


def describe_command(name: str, function: Callable, words: int, several: bool, aliases: Mapping[str, str]) -> str:
    """What ``medseglatdiff COMMAND --help`` prints: docstring, arguments and options, with their whole defaults.

    ``words``, ``several`` and ``aliases`` are those of a row of the command line's table.
    """
    text, meanings = _split_docstring(inspect.getdoc(function))
    typed = {parameter: option for option, parameter in aliases.items()}
    usage = [f"medseglatdiff {name}"]
    places: list[str] = []
    options: list[str] = []
    # They are listed with the sources that have them.
    elsewhere = {option for source in SOURCES for option in read_options(source)[1]} if name == "prepare" else set()
    for number, (key, parameter) in enumerate(inspect.signature(function).parameters.items()):
        meaning = meanings.get(key, "")
        required = parameter.default is parameter.empty
        if parameter.kind is parameter.VAR_KEYWORD:
            options.append(_entry("--KEY VALUE", meaning))
        elif number < words:
            place = key.upper() + ("..." if several and number == words - 1 else "")
            usage.append(place if required else f"[{place}]")
            places.append(_entry(place, meaning))
        elif key not in elsewhere:
            shown = WRITTEN.get(key) or _kind(str(parameter.annotation))
            option = f"--{typed.get(key, key).replace('_', '-')} {shown}"
            usage += [option] if required else []
            options.append(_entry(option, meaning, "required" if required else _plain(str(parameter.default))))
    options += [_entry("--trust", TRUST), _entry("--plugin FILE.py", PLUGIN)]
    blocks = [" ".join([*usage, "[OPTIONS]"]), text]
    blocks += ["\n".join(["Arguments:", *places])] if places else []
    blocks.append("\n".join(["Options:", *options]))
    if name == "prepare":
        blocks += [_describe_options(source) for source in SOURCES]
        blocks.append(_wrap("medseglatdiff prepare SOURCE --help: address, licence and layout of a data set."))
    return "\n\n".join(blocks)


def describe_source(source: str) -> str:
    """What ``medseglatdiff prepare SOURCE --help`` prints: the data set, where it is published, its options."""
    row = SOURCES[source]
    facts = {"published": row.address, "licence": row.licence, "size": row.size, "layout": row.layout}
    facts |= {"split": row.split, "bundle": row.default_bundle or "any, see medseglatdiff new-bundle"}
    blocks = [f"medseglatdiff prepare {source} SRC --output-dir FOLDER [OPTIONS]"]
    blocks.append(_split_docstring(read_options(source)[0])[0])
    blocks.append("\n".join(f"{name:9}  {text}" for name, text in facts.items()))
    blocks.append(_describe_options(source))
    blocks.append("Options of all sources: medseglatdiff prepare --help")
    return "\n\n".join(blocks)


def _describe_options(source: str) -> str:
    documentation, options = read_options(source)
    meanings = _split_docstring(documentation)[1]
    entries = [
        _entry(f"--{name.replace('_', '-')} {_kind(annotation)}", meanings.get(name, ""), _plain(default))
        for name, (annotation, default) in options.items()
    ]
    return "\n".join([f"Options of the source {source}{':' if entries else ': none.'}", *entries])


def _kind(annotation: str) -> str:
    names = re.findall(r"[A-Za-z]\w*", annotation)
    return next((shown for kind, shown in KINDS.items() if kind in names), "VALUE")


def _plain(default: str) -> str:
    """A default as one would type it, empty where it is ``None``."""
    plain = {"None": "", "True": "true", "False": "false"}.get(default, default.strip("'"))
    return plain and f"default: {plain}"


def _entry(name: str, meaning: str, note: str = "") -> str:
    lines = [f"  {name}" + (f"  ({note})" if note else "")]
    return "\n".join(lines + ([_wrap(meaning, " " * 6)] if meaning else []))


def _split_docstring(documentation: str | None) -> tuple[str, dict[str, str]]:
    """A Google docstring's text before its first section, wrapped, and its arguments with their meaning."""
    plain = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", documentation or "").replace("`", "")
    text, *sections = re.split(r"^(Args|Returns|Raises):\n", plain, flags=re.MULTILINE)
    found = dict(zip(sections[::2], sections[1::2], strict=True))
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", found.get("Args", ""), re.MULTILINE)
    paragraphs = "\n\n".join(map(_wrap, text.strip().split("\n\n")))
    return paragraphs, {key: " ".join(meaning.split()) for key, meaning in entries}


def _wrap(text: str, indent: str = "") -> str:
    if text.startswith("Example: "):
        # A command stays on its line, to be copied.
        return text
    line = " ".join(text.split())
    return textwrap.fill(line, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
