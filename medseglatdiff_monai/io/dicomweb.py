"""Series out of a DICOMweb archive, and results back into it (QIDO-RS, WADO-RS, STOW-RS).

User and password are those of the server in ``.netrc``, which requests reads: there they are in no command and no log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..console import count
from ..errors import InputError
from ..extras import require
from ..files import find_full_disk

logger = logging.getLogger(__name__)

# To connect, and between two parts of an answer: an archive may fetch a series from a slow store first.
TIMEOUT_SECONDS = (10, 300)
# NumberOfSeriesRelatedInstances.
NUMBER_TAG = "00201209"
UID = re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+")


class Archive:
    """A DICOMweb server.

    Args:
        url: of the service, that the standard's paths (``/studies`` …) follow.

    Raises:
        InputError: the extra is not installed, or it is no such address.
    """

    def __init__(self, url: str) -> None:
        require("dicomweb", "--dicomweb")
        from dicomweb_client.api import DICOMwebClient

        if not re.fullmatch(r"https?://[^/@\s]+(/[^@\s?#]*)?", url):
            raise InputError(
                "--dicomweb is no address of a DICOMweb service; expected one such as http://127.0.0.1:8042/dicom-web. "
                "User and password belong into the file .netrc in your home folder."
            )
        self.url = url.rstrip("/")
        self._client = DICOMwebClient(self.url, timeout=TIMEOUT_SECONDS)

    def fetch(self, uid: str, folder: Path) -> Path:
        """Write a series into a new folder of its name, and return that.

        Raises:
            InputError: it is no UID, the server has no such series, does not answer as the standard says, or sends
                another number of files than it says that the series has.
        """
        if not UID.fullmatch(uid):
            raise InputError(f"{uid}: no UID; with --dicomweb the inputs are SeriesInstanceUIDs, such as 1.2.840.1.5.")
        target = folder / uid
        with self._asking(f"the series {uid}"):
            found = self._client.search_for_series(fields=[NUMBER_TAG], search_filters={"SeriesInstanceUID": uid})
            # How many files the series has; 0 where the server does not say.
            studies = {
                entry["0020000D"]["Value"][0]: int((entry.get(NUMBER_TAG, {}).get("Value") or [0])[0])
                for entry in found
            }
        if len(studies) != 1:
            raise InputError(
                f"{self.url}: the series {uid} is in {len(studies)} studies; expected one. Check the UID, and what the "
                "server lets you see."
            )
        ((study, expected),) = studies.items()
        target.mkdir(exist_ok=True)
        with self._asking(f"the series {uid}"):
            number = 0
            for number, image in enumerate(self._client.iter_series(study, uid), start=1):
                image.save_as(target / f"{number:05}.dcm")
        if expected not in (0, number):
            raise InputError(
                f"{self.url}: received {count(number, 'file')} of the series {uid}; expected {expected}, as the server "
                "says. Try again once all are there; if it stays so, ask who runs the server."
            )
        logger.info("%s: %s of the series %s", self.url, count(number, "file"), uid)
        return target

    def store(self, paths: Sequence[Path]) -> None:
        """Store DICOM files.

        Raises:
            InputError: the server cannot be reached, or does not take one of them; those before it are stored.
        """
        import pydicom

        for path in paths:
            with self._asking(f"to store {path}"):
                answer = self._client.store_instances([pydicom.dcmread(path)])
            for refused in answer.get("FailedSOPSequence", ()):
                raise InputError(
                    f"{self.url} does not take {path} (reason {refused.get('FailureReason')}, see STOW-RS in DICOM "
                    "PS3.18). All results are in the output folder; ask who runs the server."
                )
        logger.info("%s: stored %s", self.url, count(len(paths), "file"))

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of requests, urllib3, retrying, pydicom, and KeyError of answers without a UID
            if find_full_disk(error) is not None:
                raise
            from requests.exceptions import ConnectionError

            reason = f"{type(error).__name__}: {str(error)[:300]}"
            reason = "nobody answers there, or not to the end" if isinstance(error, ConnectionError) else reason
            raise InputError(
                f"{self.url}: asked for {what}, it failed ({reason}). Check the "
                "address, user and password in .netrc, and that the server speaks DICOMweb."
            ) from error
