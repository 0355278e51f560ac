"""The Dockerfile: linted, what it copies exists, and its steps make images whose commands work without root."""

from __future__ import annotations

import configparser
import importlib.util
import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dockerfile import Builder, Image, copy_context, lend_pip, read_dockerfile
from PIL import Image as Picture
from small_runs import BUNDLES, SKIN

from medseglatdiff_monai.integrations.monai_label.server import start

ROOT = Path(__file__).resolve().parents[1]
STAGES = read_dockerfile(ROOT / "Dockerfile")
IMAGES = ("medseglatdiff", "label-server")


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("hadolint is not installed; the extra 'test' has it")
    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_default_image_is_that_of_the_commands() -> None:
    assert list(STAGES)[-1] == IMAGES[0]
    assert set(IMAGES) <= set(STAGES)


@pytest.mark.parametrize("image", IMAGES)
def test_no_image_is_roots(image: str) -> None:
    users, stage = [], STAGES.get(image)
    while stage is not None:
        users += reversed(stage.find("USER"))
        stage = STAGES.get(stage.parent)
    assert users[0].split(":")[0] not in ("0", "root")


def test_what_it_copies_exists(tmp_path: Path) -> None:
    context = copy_context(ROOT, tmp_path / "context")
    copied = [words.split() for stage in STAGES.values() for words in stage.find("COPY")]
    assert [".", "."] in copied
    for *names, _ in copied:
        if names[0].startswith("--from="):
            assert names[0].removeprefix("--from=") in STAGES
        else:
            assert all((context / name).exists() for name in names)
    for name in re.findall(r"^!([^/\n]+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE):
        assert (context / name).exists()
    assert {path.parent.parent.name for path in context.rglob("model.pt")} == set(BUNDLES)
    assert not [path for path in context.rglob("*") if path.name == "__pycache__" or path.suffix == ".egg-info"]
    assert not (context / "tests").exists()


def test_what_is_left_out_of_the_context(tmp_path: Path) -> None:
    """A clone in which was worked holds data, runs and other weights."""
    for name in ("kept/one.py", "kept/__pycache__/one.pyc", "kept/models/a.pt", "kept/models/model.pt", "data/b.dcm"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).touch()
    lines = ["*", "!kept", "**/__pycache__", "kept/models/*", "!kept/models/model.pt"]
    (tmp_path / "source" / ".dockerignore").write_text("\n".join(lines))
    context = copy_context(tmp_path / "source", tmp_path / "context")
    found = {path.relative_to(context).as_posix() for path in context.rglob("*") if path.is_file()}
    assert found == {"kept/one.py", "kept/models/model.pt"}


def test_its_commands_and_extras_exist() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (command,) = json.loads(STAGES["medseglatdiff"].find("ENTRYPOINT")[0])
    assert f"{command} = " in setup["options.entry_points"]["console_scripts"]
    steps = "\n".join(text for stage in STAGES.values() for text in stage.find("RUN"))
    (extras,) = re.findall(r'"\.\[(.*?)\]"', steps)
    assert {"dicom", "dicomweb", "view"} <= set(extras.split(",")) <= set(setup["options.extras_require"])
    *_, module = json.loads(STAGES["label-server"].find("ENTRYPOINT")[0])
    assert importlib.util.find_spec(f"{module}.__main__") is not None
    _, *options = json.loads(STAGES["label-server"].find("CMD")[0])
    assert {word[2:] for word in options if word.startswith("--")} <= set(inspect.signature(start).parameters)


# -- its steps, run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Steps in a root folder with the packages of the Debian that the Dockerfile's base image is made from."""
    missing = [
        name for name in ("debootstrap", "unshare", "chroot") if shutil.which(name, path="/usr/sbin:/usr/bin") is None
    ]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, and {', '.join(missing) or 'nothing else'}: apt-get install debootstrap")
    folder = tmp_path_factory.mktemp("images")
    release = STAGES["python"].parent.rpartition("-")[2]
    root = folder / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", packages, release, root], check=True, timeout=1800)
    (folder / "layers").mkdir()
    lent, variables = lend_pip()
    # As `make` does: where pip has places of its own, torch comes from there, too.
    arguments = {"TORCH_INDEX_URL": ""} if {"PIP_FIND_LINKS", "PIP_INDEX_URL"} & set(variables) else {}
    lent.append("/etc/resolv.conf:/etc/resolv.conf")
    context = copy_context(ROOT, folder / "context")
    return Builder(STAGES, context, root, folder / "layers", arguments, lent, variables)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(builder: Builder, image: Image, words: list[str], data: Path) -> Iterator[Path]:
    """A command in an image, until the end of the block; yields its log."""
    log = data.parent / "log"
    with log.open("w") as stream:
        process = builder.start(image, words, [f"{data}:/data"], stream)
    try:
        yield log
    finally:
        # unshare itself ignores SIGTERM, and its command outlives it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)


def ask(url: str, log: Path) -> str:
    # The page's token is changed for a cookie.
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    end = time.monotonic() + 300
    while True:
        try:
            with opener.open(url, timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of user 1000."""
    folder = tmp_path / "data"
    (folder / "studies").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("one.png", "studies/two.png"):
        Picture.fromarray(pixels).save(folder / name)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 1000, 1000)
    return folder


@pytest.mark.slow
@pytest.mark.integration
def test_the_commands_work_in_the_image(builder: Builder, data: Path) -> None:
    image = builder.build("medseglatdiff")
    assert builder.run(image, ["id", "-u"]).stdout == "1000\n"
    words = [*image.entrypoint, "predict", SKIN, "one.png", "--num-samples", "2", "--output-dir", "out"]
    done = builder.run(image, words, lent=[f"{data}:/data"])
    assert done.returncode == 0, done.stderr
    assert (data / "out" / "one_prediction.json").stat().st_uid == 1000
    found = json.loads(builder.run(image, [*image.entrypoint, "info", "--json"]).stdout)
    assert found["extras"]["dicomweb"]["installed"]
    # Nothing of the image is the user's.
    assert builder.run(image, ["touch", "/opt/venv/mine"]).returncode != 0
    port = free_port()
    words = [*image.entrypoint, "view", "one.png", "--bundle", SKIN, "--show", "false", "--port", str(port)]
    with started(builder, image, words, data) as log:
        end = time.monotonic() + 300
        while not (address := re.search(r"^Open (\S+) ", log.read_text(), re.MULTILINE)):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)
        assert "<html" in ask(address[1], log)


@pytest.mark.slow
@pytest.mark.integration
def test_the_label_server_answers_in_the_image(builder: Builder, data: Path) -> None:
    image = builder.build("label-server")
    port = free_port()
    # Not at the address of its default arguments, which the network reaches.
    words = [*image.entrypoint, image.command[0], "--host", "127.0.0.1", "--port", str(port)]
    with started(builder, image, words, data) as log:
        assert set(json.loads(ask(f"http://127.0.0.1:{port}/info/", log))["models"]) == set(BUNDLES)
