"""The commands that a page of the documentation shows: read as a shell reads them, and run as a reader would."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SECONDS = 900
# What commands read of a clone.
CLONED = ("medseglatdiff_monai", "bundles", "configs", "benchmarks", "docs", "README.md", "CHANGELOG.md", "LICENSE",
          "Makefile", "setup.cfg", "pyproject.toml", "constraints.txt")  # fmt: skip

PROGRAMS = (
    "medseglatdiff", "make", "python", "torchrun", "mlflow", "pip", "source", "curl", "docker", "sbatch", "apt-get",
    "dciodvfy",
)  # fmt: skip
# Blocks in these languages hold commands and nothing else; blocks in those hold none.
SHELL = ("", "bash", "sh")
NO_SHELL = ("python", "json", "text")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)()((?: {4}.*\n)+)")
ASSIGNMENT = re.compile(r"(?:export )?(\w+)=(\S*|\$\(.*\))$")
LOOP = re.compile(r"for (\w+) in ([^;]+); do$")
# Up to a comment; in quotes # begins none.
CODE = re.compile(r"""(?!\#)(?:'[^']*'|"[^"]*"|[^\s'"]|\s+(?!\s|\#))*|""")


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: the page's path in the repository.
        line: its first line there.
        text: the command in one line, without comment.
        setup: the variables that the blocks before it set; in sentences there are none.
        inline: it stands in a sentence, where it need not be whole.
    """

    page: str
    line: int
    text: str
    setup: tuple[tuple[str, str], ...] = ()
    inline: bool = False

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"

    @property
    def words(self) -> list[str]:
        """The command's words as its program gets them; variables whose value only a shell knows keep their names.

        Raises:
            ValueError: more than one command, none, or one of a program that the pages do not name.
        """
        known = {name: value for name, value in self.setup if not value.startswith("$(")}
        reader = shlex.shlex(string.Template(self.text).safe_substitute(known), posix=True, punctuation_chars=True)
        reader.whitespace_split, reader.commenters = True, ""
        words = list(reader)
        while words and ASSIGNMENT.match(words[0]):
            words.pop(0)
        if not words or words[0] not in PROGRAMS or any(set(word) <= set(";|&<>()") for word in words):
            raise ValueError(f"expected one command of {', '.join(PROGRAMS)}; other blocks are marked ```text")
        return words


def read_commands(page: str, text: str) -> list[Command]:
    """The commands of a page in its order; those of a loop once for each value.

    Raises:
        ValueError: a code block in a language that is not in the lists.
    """
    blocks: list[tuple[int, str]] = []

    def take(block: re.Match[str]) -> str:
        language, body = block.groups()
        if language not in (*SHELL, *NO_SHELL):
            raise ValueError(f"{page}: a block in {language!r}; expected one of {SHELL + NO_SHELL}.")
        if block.re is INDENTED and body.split()[0] not in PROGRAMS:
            return block[0]
        if language in SHELL:
            blocks.append((block.string.count("\n", 0, block.start(2)) + 1, body))
        return "\n" * block[0].count("\n")

    prose = INDENTED.sub(take, FENCE.sub(take, text))
    found: list[tuple[int, list[Command]]] = []
    setup: tuple[tuple[str, str], ...] = ()
    for line, body in sorted(blocks):
        commands, setup = _read_block(page, line, body.splitlines(), setup)
        found.append((line, commands))
    for span in re.finditer(r"(?<!`)`([^`]+)`(?!`)", prose):
        words = span[1].split()
        if len(words) > 1 and words[0] in PROGRAMS:
            line = prose.count("\n", 0, span.start()) + 1
            found.append((line, [Command(page, line, " ".join(words), inline=True)]))
    return [command for _, commands in sorted(found, key=lambda entry: entry[0]) for command in commands]


def _read_block(
    page: str, line: int, lines: list[str], setup: tuple[tuple[str, str], ...]
) -> tuple[list[Command], tuple[tuple[str, str], ...]]:
    """Commands of a block, and the variables that are set after it."""
    commands: list[Command] = []
    rest = iter(enumerate(lines, line))
    for number, text in rest:
        while text.endswith("\\"):
            text = f"{text[:-1].rstrip()} {next(rest, (0, ''))[1].strip()}"
        code = CODE.match(text.strip())[0]  # type: ignore[index]
        if assignment := ASSIGNMENT.match(code):
            setup += (assignment.groups(),)  # type: ignore[assignment]
        elif loop := LOOP.match(code):
            body = [inner for _, inner in itertools.takewhile(lambda entry: entry[1] != "done", rest)]
            for value in loop[2].split():
                commands += _read_block(page, number + 1, body, (*setup, (loop[1], value)))[0]
        elif code:
            commands.append(Command(page, number, code, setup))
    return commands, setup


class PageRun:
    """The commands of a page, run in their order in one folder, each once.

    Args:
        folder: where they are typed.
        environment: of the commands.
        commands: of the page.
        write: command → the text that bash is given, for example with smaller sizes than the page's.
        inputs: name of a file or folder → what makes it at a path; it is made before the first command that reads it,
            unless an earlier command has left it there.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        commands: Sequence[Command],
        write: Callable[[Command], str],
        inputs: Mapping[str, Callable[[Path], object]],
    ) -> None:
        self.folder, self.environment, self.write, self.inputs = folder, dict(environment), write, inputs
        self._waiting = list(commands)
        self._ended: dict[Command, tuple[int, str] | pytest.skip.Exception] = {}

    def run(self, command: Command) -> tuple[int, str]:
        """Exit status and output of a command; those before it are run first where they have not been.

        Raises:
            pytest.skip.Exception: what it reads cannot be made here.
        """
        while command not in self._ended:
            following = self._waiting.pop(0)
            try:
                self._ended[following] = self._start(following)
            except pytest.skip.Exception as reason:
                self._ended[following] = reason
        ended = self._ended[command]
        if isinstance(ended, pytest.skip.Exception):
            raise ended
        return ended

    def _start(self, command: Command) -> tuple[int, str]:
        text = self.write(command)
        read = re.sub(r"--output[-_]\w+ \S+", "", text)
        for name, make in self.inputs.items():
            path = self.folder / name
            if re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.-])", read) and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                make(path)
        lines = [f"export {name}={value}" for name, value in command.setup]
        with subprocess.Popen(
            ["bash", "-c", "\n".join([*lines, text])], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output = f"{process.communicate()[0]}\nNot done after {SECONDS} seconds."
        return process.returncode, output


def make_clone(source: Path, folder: Path) -> dict[str, str]:
    """Lay a folder out as a clone in which ``make`` has been; returns the environment of commands in it."""
    for name in CLONED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source / name, folder / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (programs / "python").chmod(0o755)
    for name in ("bin/activate", ".installed"):
        (folder / ".venv" / name).touch()
    paths = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    return make_environment({**os.environ, "PATH": os.pathsep.join(paths), "PYTHONPATH": str(folder)})


def make_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of commands: one thread, no GPU, no MLflow server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: value for name, value in variables.items() if not name.startswith("MLFLOW_")}
    return {
        **own, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": "",
        # torchrun's own port may be in use.
        "PET_MASTER_PORT": str(port),
    }  # fmt: skip
