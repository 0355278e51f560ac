"""`predict --dicomweb` with a real Orthanc on loopback: ``apt-get install orthanc orthanc-dicomweb``."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from tiny_dicom import POINT

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.predict.command import predict

pytestmark = pytest.mark.integration

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "radiologist", "correct horse"


class Orthanc:
    """A running server, asked in its own way and not in DICOMweb's."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"

    def ask(self, path: str, data: bytes | None = None) -> Any:
        word = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(self.root + path, data, {"Authorization": f"Basic {word}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()


@pytest.fixture
def orthanc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orthanc]:
    pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed")
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    if PROGRAM is None or not PLUGIN.exists():
        pytest.skip("no Orthanc with its DICOMweb plugin: apt-get install orthanc orthanc-dicomweb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "orthanc"
    folder.mkdir()
    configuration = {
        "HttpPort": port, "RemoteAccessAllowed": False, "DicomServerEnabled": False, "StorageDirectory": str(folder),
        "AuthenticationEnabled": True, "RegisteredUsers": {USER: PASSWORD}, "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    (tmp_path / "netrc").write_text(f'machine 127.0.0.1 login {USER} password "{PASSWORD}"\n')
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = Orthanc(port)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([PROGRAM, folder / "orthanc.json"], stdout=log, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                server.ask("/system")
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_a_series_is_predicted_and_its_results_are_in_the_archive(
    lung: Path, series: Path, orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = [pydicom.dcmread(path) for path in series.iterdir()]
    for path in series.iterdir():
        orthanc.ask("/instances", path.read_bytes())
    uid, address = str(slices[0].SeriesInstanceUID), f"{orthanc.root}/dicom-web"
    (found,) = predict(lung, uid, tmp_path / "out", dicomweb=address, point=POINT)
    (expected,) = predict(lung, series, tmp_path / "expected", point=POINT)
    assert found["nodules"] == expected["nodules"]

    written = {
        str(image.SOPInstanceUID): image
        for image in (pydicom.dcmread(path) for path in found["files"].values() if path.endswith(".dcm"))
    }
    assert sorted(image.Modality for image in written.values()) == ["OT", "SEG", "SEG", "SEG", "SR"]
    (study,) = json.loads(orthanc.ask("/studies?expand"))
    assert study["MainDicomTags"]["StudyInstanceUID"] == slices[0].StudyInstanceUID
    names = json.loads(orthanc.ask("/instances"))
    assert len(names) == len(slices) + len(written)
    for name in names:
        path = tmp_path / "stored.dcm"
        path.write_bytes(orthanc.ask(f"/instances/{name}/file"))
        stored = pydicom.dcmread(path)
        assert written.get(stored.SOPInstanceUID, stored) == stored

    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"asked for the series .*401.*user and password in \.netrc"):
        predict(lung, uid, tmp_path / "refused", dicomweb=address, point=POINT)
    assert not (tmp_path / "refused").exists()
