"""The command `view`: its arguments are checked before torch and MONAI are imported, which takes seconds."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...bundle.arguments import check_overrides
from ...bundle.segmenter import load_segmenter
from ...errors import InputError
from ...extras import require
from ...io.places import parse_places
from ...startup import heavy_imports
from .guard import HOST


def view(
    input: str | Path | None = None,
    bundle: str | Path = "lung_nodule_ct_latent_diffusion",
    raters: str | Sequence[str] | None = None,
    point: Any = None,
    weights: str | Path | None = None,
    experiment: str | Path | None = None,
    num_samples: int = 16,
    seed: int = 0,
    device: str | None = None,
    port: int = 8080,
    show: bool = True,
    labels: str | Path = "labels",
    **overrides: Any,
) -> None:
    """Look at an ensemble in the browser: page through samples, slide the threshold, compare with raters.

    The page is served on this computer alone, to browsers that open the printed address, which works once; it ends when
    it is interrupted. Needs the extra 'view'.

    Example: medseglatdiff view SERIES --point=-62.5,41,-120
    Example: medseglatdiff view data/lidc/images/CASE.nii.gz --raters data/lidc/masks/CASE.nii.gz

    Args:
        input: a PNG or JPEG image, a NIfTI file, a folder with one DICOM series, or a folder of pictures or a prepared
            one, whose images come one after the other; it can also be opened later.
        bundle: a bundle's folder or name, see medseglatdiff bundles.
        raters: raters' masks: a prepared file with a channel per rater, or a PNG or NIfTI file per rater with commas
            between; of a volume NIfTI on its own grid.
        point: x,y,z of the nodule in patient millimetres (LPS); without it the nodule is clicked in the page.
        weights: other weights than the bundle's own.
        experiment: overlay that the weights were trained with.
        num_samples: masks to begin with.
        seed: seed of the noise to begin with.
        device: cpu, cuda, a numbered one such as cuda:1, or mps; by default CUDA if there is one.
        port: port of the page on 127.0.0.1.
        show: False: do not open the browser.
        labels: folder into which accepted masks are saved, as train takes them.
        overrides: configuration keys.

    Raises:
        InputError: the extra is not installed, the port is taken, or the arguments do not fit.
    """
    require("view", "The page", "'medseglatdiff report' makes one without it.")
    if input is None and (raters is not None or point is not None):
        raise InputError("--raters and --point belong to an image; give its path, too.")
    if not 1 <= port <= 65535:
        raise InputError(f"--port is {port!r}; expected a number from 1 to 65535.")
    _check_port(port)
    (places,) = parse_places({"point": point}, 1)
    if len(places) > 1:
        raise InputError("--point names several nodules; the page shows one at a time.")
    check_overrides({**overrides, "num_samples": num_samples, "device": device})
    segmenter = load_segmenter(bundle, weights, experiment, device, num_samples=num_samples, seed=seed, **overrides)
    with heavy_imports():
        from .server import serve

    serve(segmenter, input, raters, places[0][1] if places else None, num_samples, seed, port, show, labels)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"--port {port}: cannot be used ({error}); give another, e.g. {port + 1}.") from error
