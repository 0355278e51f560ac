"""`predict --dicomweb` against a stand-in of a server; a real one is in tests/integration/test_orthanc.py."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from tiny_dicom import POINT

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.predict.command import predict

pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed")
from medseglatdiff_monai.io.dicomweb import Archive

BOUNDARY = "between"


class StandIn(ThreadingHTTPServer):
    """Answers as DICOM PS3.18 says, from and into lists."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stored: list[pydicom.Dataset] = []
        self.files: dict[str, list[Path]] = {}
        self.refuses = False
        self.cuts_off = False
        self.number: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"


class Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: bytes, kind: str, status: int = 200, missing: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - missing])
        self.close_connection = bool(missing)

    def do_GET(self) -> None:
        address = urllib.parse.urlparse(self.path)
        if address.path == "/dicom-web/series":
            (uid,) = urllib.parse.parse_qs(address.query)["SeriesInstanceUID"]
            entry = {"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}
            if self.server.number is not None and "00201209" in address.query:
                entry["00201209"] = {"vr": "IS", "Value": [self.server.number]}
            found = [entry] if uid in self.server.files else []
            return self.answer(json.dumps(found).encode(), "application/dicom+json")
        start, _, uid = address.path.rpartition("/")
        if start != "/dicom-web/studies/1.2.3/series":
            return self.answer(b"", "text/plain", 404)
        parts = [
            f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + path.read_bytes()
            for path in self.server.files[uid]
        ]
        body = b"".join([*parts, f"\r\n--{BOUNDARY}--".encode()])
        kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
        return self.answer(body, kind, missing=len(body) // 3 if self.server.cuts_off else 0)

    def do_POST(self) -> None:
        if "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        else:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        image = pydicom.dcmread(BytesIO(body[body.index(b"\r\n\r\n") + 4 : body.rindex(b"\r\n--")]))
        answer = pydicom.Dataset()
        item = pydicom.Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        if self.server.refuses:
            item.FailureReason = 0xA700
            answer.FailedSOPSequence = [item]
        else:
            answer.ReferencedSOPSequence = [item]
            self.server.stored.append(image)
        self.answer(answer.to_json().encode(), "application/dicom+json", 202 if self.server.refuses else 200)


@pytest.fixture
def server(series: Path) -> Iterator[StandIn]:
    with StandIn() as server:
        files = sorted(series.iterdir())
        server.files[str(pydicom.dcmread(files[0]).SeriesInstanceUID)] = files
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def uid(server: StandIn) -> str:
    (uid,) = server.files
    return uid


@pytest.mark.parametrize("says_number", [True, False])
def test_a_series_is_fetched_as_it_is(says_number: bool, server: StandIn, uid: str, tmp_path: Path) -> None:
    server.number = len(server.files[uid]) if says_number else None
    folder = Archive(server.url + "/").fetch(uid, tmp_path)
    assert folder == tmp_path / uid
    fetched = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path) for path in folder.iterdir()}
    originals = [pydicom.dcmread(path) for path in server.files[uid]]
    assert len(fetched) == len(originals)
    for original in originals:
        assert fetched[original.SOPInstanceUID] == original


def test_results_are_those_of_the_folder_and_stored(
    lung: Path, series: Path, server: StandIn, uid: str, tmp_path: Path
) -> None:
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    options: dict[str, Any] = {"point": POINT, "slices": 1}
    (found,) = predict(lung, uid, tmp_path / "out", dicomweb=server.url, **options)
    (expected,) = predict(lung, series, tmp_path / "expected", **options)
    assert found["nodules"] == expected["nodules"]
    assert found["input"]["series_instance_uid"] == uid
    written = [pydicom.dcmread(path) for path in found["files"].values() if path.endswith(".dcm")]
    assert sorted(image.Modality for image in written) == sorted(image.Modality for image in server.stored)
    assert {image.SOPInstanceUID: image for image in written} == {im.SOPInstanceUID: im for im in server.stored}
    assert {image.StudyInstanceUID for image in server.stored} == {"1.2.3"}


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("../../etc", {}, r"\.\./\.\./etc: no UID; with --dicomweb the inputs are SeriesInstanceUIDs"),
        ("1.2.04", {}, r"1\.2\.04: no UID"),
        ("1.2.99", {}, r"the series 1\.2\.99 is in 0 studies; expected one"),
        ("1.2.99", {"dicom": False}, r"--dicom False is given with --dicomweb"),
        ("1.2.99", {"dicomweb": "ftp://a"}, r"--dicomweb is no address of a DICOMweb service"),
    ],
)
def test_bad_arguments(
    inputs: str, options: dict[str, Any], message: str, lung: Path, server: StandIn, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        predict(lung, inputs, tmp_path / "out", **{"dicomweb": server.url, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match=r"belong into the file \.netrc") as caught:
        Archive("http://someone:secret@127.0.0.1/dicom-web")
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # dicomweb-client tries five times within half a minute.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with StandIn() as server:
        url = server.url
    with pytest.raises(InputError, match=r"127\.0\.0\.1.*1\.2\.3, it failed \(nobody answers there"):
        Archive(url).fetch("1.2.3", tmp_path)


def test_an_answer_that_ends_early(server: StandIn, uid: str, tmp_path: Path) -> None:
    server.cuts_off = True
    with pytest.raises(InputError, match=f"asked for the series {uid}, it failed"):
        Archive(server.url).fetch(uid, tmp_path)


def test_a_series_that_lacks_files(server: StandIn, uid: str, tmp_path: Path) -> None:
    server.number = len(server.files[uid])
    del server.files[uid][-1]
    with pytest.raises(InputError, match=f"received 3 files of the series {uid}; expected 4"):
        Archive(server.url).fetch(uid, tmp_path)


def test_results_that_are_refused_stay_here(lung: Path, server: StandIn, uid: str, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    server.refuses = True
    with pytest.raises(InputError, match=r"does not take .*\.dcm \(reason 42752"):
        predict(lung, uid, tmp_path / "out", dicomweb=server.url, point=POINT, slices=1)
    assert (tmp_path / "out" / f"{uid}_prediction.json").is_file()
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 5


def test_a_full_disk_is_not_the_servers_fault(
    server: StandIn, uid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", fill_up)
    with pytest.raises(OSError, match="No space left"):
        Archive(server.url).fetch(uid, tmp_path)
