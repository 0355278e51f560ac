"""Fifty requests at once, good and bad: each is answered as it is alone."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from record import keep
from served import served
from tiny_dicom import COLUMN, POINT, ROW, SLICE

from medseglatdiff_monai.bundle.segmenter import Segmenter, load_segmenter
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.integrations.monai_label.answer import answer_request
from medseglatdiff_monai.integrations.view.case import open_case

NUMBER = 50


@pytest.fixture(scope="module")
def segmenter(lung: Path) -> Segmenter:
    return load_segmenter(lung)


def ask_all(ask: Callable[[Any], Any], requests: list[Any]) -> tuple[list[Any], list[Any]]:
    """What each of fifty requests is answered alone, and all at once, in another order."""

    def answer(request: Any) -> Any:
        try:
            return ask(request)
        except InputError as error:
            return str(error)

    asked = [requests[number % len(requests)] for number in range(NUMBER)]
    random.Random(0).shuffle(asked)
    alone = {id(request): answer(request) for request in requests}
    barrier = threading.Barrier(NUMBER)

    def ask_with_others(request: Any) -> Any:
        barrier.wait(timeout=60)
        return answer(request)

    with ThreadPoolExecutor(NUMBER) as pool:
        found = list(pool.map(ask_with_others, asked))
    return found, [alone[id(request)] for request in asked]


def count_kinds(answers: list[Any]) -> Counter[str]:
    return Counter("refused with a message" if isinstance(answer, str) else "answered" for answer in answers)


def test_label_server(segmenter: Segmenter, series: Path, crop_png: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(crop_png.read_bytes()[:300])
    voxel = [[COLUMN, ROW, SLICE]]
    requests = [
        {"image": str(crop_png)},
        {"image": str(series), "foreground": voxel},
        {"image": str(series), "point": list(POINT)},
        {"image": str(series)},
        {"image": str(series), "foreground": [[9999, 0, 0]]},
        {"image": str(series), "foreground": "[[1, 2"},
        {"image": str(crop_png), "foreground": voxel},
        {"image": str(tmp_path / "cut.png")},
        {"image": str(tmp_path / "nothing.png")},
        {"image": "/dev/null"},
    ]
    found, alone = ask_all(lambda request: answer_request(segmenter, request), requests)
    for one, other in zip(found, alone, strict=True):
        if isinstance(other, str):
            assert one == other
        else:
            np.testing.assert_array_equal(one.mask, other.mask)
            assert one.result == other.result
    kinds = count_kinds(found)
    assert kinds == {"answered": 15, "refused with a message": 35}
    keep("requests_label", f"{NUMBER} requests at once to what answers MONAI Label", kinds)


def test_view(segmenter: Segmenter, series: Path, crop_png: Path, tmp_path: Path) -> None:
    lock = threading.Lock()

    def look(request: tuple) -> Any:
        path, number, point = request
        case = open_case(path, segmenter)
        # As the page does.
        with lock:
            return case.segment(number, 2, 0, point)

    (tmp_path / "empty").mkdir()
    requests: list[tuple] = [
        (crop_png, 3, None), (series, 2, POINT), (series, 2, None), (series, 2, (9e9, 0, 0)), (crop_png, 0, None),
        (crop_png, 2, POINT), (tmp_path / "nothing", 2, None), (tmp_path / "empty", 2, None), (series, 10**30, POINT),
        (series, 2, (float("nan"),) * 3),
    ]  # fmt: skip
    found, alone = ask_all(look, requests)
    for one, other in zip(found, alone, strict=True):
        if isinstance(other, str):
            assert one == other
        else:
            np.testing.assert_array_equal(one.ensemble.samples, other.ensemble.samples)
    kinds = count_kinds(found)
    assert kinds == {"answered": 10, "refused with a message": 40}
    keep("requests_view", f"{NUMBER} requests at once to what the page of view shows", kinds)


@pytest.mark.slow
@pytest.mark.integration
def test_page(lung: Path, crop_png: Path, tmp_path: Path) -> None:
    """Requests of the page's own browser between those of strangers; afterwards it is still there."""
    pytest.importorskip("nicegui")
    with served(tmp_path, crop_png, "--bundle", lung, "--num-samples", 2) as address:
        host = address.partition("/?")[0]

        async def ask() -> list[tuple[int, int]]:
            async with (
                httpx.AsyncClient(base_url=host, timeout=60) as own,
                httpx.AsyncClient(base_url=host) as stranger,
            ):
                assert (await own.get(address.removeprefix(host), follow_redirects=True)).status_code == 200
                kinds = [
                    (own, "GET", "/", {}, 200), (own, "GET", "/favicon.ico", {}, 200), (own, "PUT", "/", {}, 405),
                    (own, "GET", "/nothing", {}, 404), (own, "GET", "/", {"host": "example.org"}, 400),
                    (own, "GET", "/", {"origin": "https://example.org"}, 403), (own, "GET", "/" + "x" * 5000, {}, 404),
                    (stranger, "GET", "/", {}, 403), (stranger, "GET", "/?token=wrong", {}, 403),
                    (stranger, "POST", "/_nicegui_ws/socket.io/?EIO=4&transport=polling", {}, 403),
                ]  # fmt: skip
                asked = [kinds[number % len(kinds)] for number in range(NUMBER)]
                answers = await asyncio.gather(
                    *(client.request(method, path, headers=headers) for client, method, path, headers, _ in asked)
                )
                assert (await own.get("/")).status_code == 200
                return [(answer.status_code, kind[-1]) for answer, kind in zip(answers, asked, strict=True)]

        statuses = asyncio.run(ask())
        assert [found for found, _ in statuses] == [expected for _, expected in statuses]
    good = sum(expected == 200 for _, expected in statuses)
    keep("requests_page", f"{NUMBER} requests at once to the page of view over HTTP",
         {"answered": good, "refused with a status": NUMBER - good})  # fmt: skip
