"""A Dockerfile read, and its steps run without Docker: each stage is an overlay on a root folder of Debian's packages.

It knows the instructions and the forms that the repository's Dockerfile uses, and fails at any other. Mounts belong to
the processes that need them and end with them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Mounts the layers, the devices and the folders that are lent, and becomes the command in the root folder.
ENTER = """
set -e
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$MERGED"
mount --rbind /dev "$MERGED/dev"
mount -t proc proc "$MERGED/proc"
for lent in $LENT; do
    source=${lent%%:*} target=$MERGED${lent#*:}
    if [ -d "$source" ]; then mkdir -p "$target"; else mkdir -p "${target%/*}"; touch "$target"; fi
    mount --bind "$source" "$target"
done
exec chroot --userspec="$RUN_AS" "$MERGED" /usr/bin/env -i "$@"
"""


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next: its name, what it begins with, and the other instructions, (word, text)."""

    name: str
    parent: str
    instructions: tuple[tuple[str, str], ...]

    def find(self, word: str) -> list[str]:
        """The texts of all instructions of a kind."""
        return [text for found, text in self.instructions if found == word]


def read_dockerfile(path: Path) -> dict[str, Stage]:
    """The stages by name, in their order."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, text = line.strip().partition(" ")
        if word == "FROM":
            parent, _, name = text.partition(" AS ")
            stages[name] = last = Stage(name, parent, ())
        elif word:
            stages[last.name] = last = replace(last, instructions=(*last.instructions, (word, text)))
    return stages


@dataclass(frozen=True)
class Image:
    """What a stage made: folders of its layers, the newest first, and how its commands are started."""

    layers: tuple[Path, ...]
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    workdir: str = "/"
    user: str = "0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


class Builder:
    """Builds stages into a folder.

    Args:
        stages: of :func:`read_dockerfile`.
        context: what ``COPY`` takes from; ``.`` is all of it, since .dockerignore was applied before.
        root: a root folder in place of the image that the first stage begins with; it stays as it is.
        folder: where the layers go; on a file system that can be the upper layer of an overlay.
        arguments: build arguments in place of their defaults.
        lent: files and folders of this machine that the steps see, as ``SOURCE:TARGET``.
        variables: further environment variables of the steps.
    """

    def __init__(
        self, stages: dict[str, Stage], context: Path, root: Path, folder: Path, arguments: dict[str, str],
        lent: Sequence[str], variables: dict[str, str],
    ) -> None:  # fmt: skip
        self.stages, self.context, self.root, self.folder = stages, context, root, folder
        self.arguments, self.lent, self.variables = arguments, lent, variables
        self.built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """The image of a stage; the stages that it needs are built before, and each once."""
        if name in self.built:
            return self.built[name]
        if name not in self.stages:
            return Image((self.root,))
        stage = self.stages[name]
        parent = self.build(stage.parent)
        layer = self.folder / name
        layer.mkdir(parents=True)
        image = replace(parent, layers=(layer, *parent.layers))
        given: dict[str, str] = {}
        for word, text in stage.instructions:
            if word == "ARG":
                key, _, default = text.partition("=")
                given[key] = self.arguments.get(key, default)
            elif word == "ENV":
                pairs = dict(pair.split("=", 1) for pair in shlex.split(text))
                expanded = {key: string.Template(value).substitute(image.variables) for key, value in pairs.items()}
                image = replace(image, variables={**image.variables, **expanded})
            elif word == "WORKDIR":
                image = replace(image, workdir=text)
                (layer / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif word == "USER":
                image = replace(image, user=text)
            elif word == "ENTRYPOINT":
                image = replace(image, entrypoint=tuple(json.loads(text)))
            elif word == "CMD":
                image = replace(image, command=tuple(json.loads(text)))
            elif word == "COPY":
                self._copy(image, shlex.split(text))
            elif word == "RUN":
                shell = ["/bin/bash", "-o", "pipefail", "-c", text]
                done = self.run(image, shell, {**given, **self.variables}, self.lent)
                assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            else:
                assert word in ("SHELL", "LABEL", "EXPOSE"), word
        # As Docker hands build arguments on to the stages that begin with this one.
        self.variables = {**given, **self.variables}
        self.built[name] = image
        return image

    def _copy(self, image: Image, words: list[str]) -> None:
        layer = image.layers[0]
        if words[0].startswith("--from="):
            source = self.build(words[0].partition("=")[2])
            *names, target = words[1:]
            for name in names:
                (layer / target.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                into = f"{layer / target.lstrip('/')}:/copied"
                (layer / target.lstrip("/")).mkdir()
                done = self.run(replace(source, user="0"), ["cp", "-a", f"{name}/.", "/copied/"], lent=[into])
                assert done.returncode == 0, done.stderr
            return
        *names, target = words
        for name in names:
            there = layer / image.workdir.lstrip("/") / target
            if (self.context / name).is_dir():
                shutil.copytree(self.context / name, there, dirs_exist_ok=True)
            else:
                there.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.context / name, there)

    def run(
        self, image: Image, words: Sequence[str], variables: dict[str, str] | None = None, lent: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in an image as its user; what it writes stays in the image's newest layer."""
        command, environment = self._enter(image, words, variables or {}, lent)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)

    def start(self, image: Image, words: Sequence[str], lent: Sequence[str], stream: IO[str]) -> subprocess.Popen:
        """Start a command in an image, as a process group of its own."""
        command, environment = self._enter(image, words, {}, lent)
        return subprocess.Popen(
            command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )

    def _enter(
        self, image: Image, words: Sequence[str], variables: dict[str, str], lent: Sequence[str]
    ) -> tuple[list[str], dict[str, str]]:
        work, merged = self.folder / "work", self.folder / "merged"
        for folder in (work, merged):
            folder.mkdir(exist_ok=True)
        given = [f"{key}={text}" for key, text in {**image.variables, **variables}.items()]
        inside = ["/bin/sh", "-c", f'cd {shlex.quote(image.workdir)} && exec "$@"', "sh", *words]
        environment = {
            **os.environ, "LOWER": ":".join(map(str, image.layers[1:])), "UPPER": str(image.layers[0]),
            "WORK": str(work), "MERGED": str(merged), "LENT": " ".join(lent), "RUN_AS": f"{image.user}:{image.user}",
        }  # fmt: skip
        enter = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", ENTER, "sh"]
        return [*enter, *given, *inside], environment


def copy_context(source: Path, folder: Path) -> Path:
    """What Docker would be sent of a folder: what .dockerignore names after ``!``, without what it excludes again."""
    lines = [line for line in (source / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    kept = [line[1:] for line in lines if line.startswith("!") and "/" not in line]
    again = [line[1:] for line in lines if line.startswith("!") and "/" in line]
    dropped = [line for line in lines[1:] if not line.startswith("!")]

    def ignore(parent: str, names: list[str]) -> set[str]:
        inside = Path(parent).relative_to(source)

        def is_of(name: str, patterns: list[str]) -> bool:
            path = inside / name
            return any(
                path.match(pattern.removeprefix("**/"))
                and (pattern.startswith("**/") or len(path.parts) == len(Path(pattern).parts))
                for pattern in patterns
            )

        return {name for name in names if is_of(name, dropped) and not is_of(name, again)}

    for name in kept:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=ignore)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, folder / name)
    return folder


def lend_pip() -> tuple[list[str], dict[str, str]]:
    """Where pip of this machine takes packages from: files and folders to lend, and variables that say so."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    variables = {f"PIP_{key.upper().replace('-', '_')}": text for key, text in found.items()}
    paths = set()
    for url, path in re.findall(r"(?:^|(?<=\s))(file://)?(/\S+)", "\n".join(found.values())):
        # Beside an index stand the files that it names.
        paths |= {Path(path).parent if url else Path(path)}
    return [f"{path}:{path}" for path in sorted(paths) if path.exists()], variables
