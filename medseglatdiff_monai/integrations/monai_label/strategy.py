"""Active learning: the image on which the samples disagree most is labelled next.

Disagreement is the mean of 1 - IoU over pairs of samples, what the generalised energy distance calls the diversity of
the model. A rater's label tells a model most where it does not know, and the ensemble says where that is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from ...errors import InputError, check_integer

logger = logging.getLogger(__name__)

# Key of the scores in an image's info.
INFO_KEY = "medseglatdiff"


class Disagreement(Strategy):
    """Proposes the unlabelled image with the largest disagreement.

    Scores are kept in the images' info and hold until the weights or the options change. A volume has a score only
    where its info says where to look (``foreground`` or ``point``, as in an inference request, put there with
    ``PUT /datastore/image/info``, e.g. by a detector).

    Options of the request: ``model`` (needed where there are several), ``max_images`` that are scored again in a call
    (default 20), ``num_samples``, ``num_inference_steps``, ``seed`` and ``device``.

    Args:
        tasks: the app's inference tasks by name; looked at in each call.
    """

    def __init__(self, tasks: Mapping[str, Any]) -> None:
        super().__init__("The image on which the samples of the ensemble disagree most")
        self.tasks = tasks

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
        """``{"id", "disagreement", "scored", "pending", "left_out"}``, or ``None`` where every image is labelled.

        Raises:
            InputError: no such model, an option out of its range, or no image that can be scored.
        """
        model, task = self._find_task(request)
        most = request.get("max_images", 20)
        check_integer("'max_images'", most, 1)
        options = {name: request.get(name, task.config()[name]) for name in task.displayable_configs}
        for name in options:
            # Before the loop, in which an unsuitable image is passed over.
            task.check_option(name, options[name])
        images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        if not images:
            return None
        stamp = {"weights": task.weights_stamp(), **options}
        scores: dict[str, float] = {}
        left_out: dict[str, str] = {}
        pending = scored = 0
        device = {"device": request["device"]} if "device" in request else {}
        for image in images:
            info = datastore.get_image_info(image)
            place = {key: info[key] for key in ("foreground", "point") if info.get(key)}
            kept = info.get(INFO_KEY, {}).get(model, {})
            if kept.get("stamp") == {**stamp, **place}:
                scores[image] = kept["disagreement"]
                continue
            if scored >= most:
                pending += 1
                continue
            scored += 1
            started = time.monotonic()
            try:
                asked = {**options, **place, "image": datastore.get_image_uri(image), **device}
                _, data = task({**asked, "skip_writer": True})
            except InputError as error:
                left_out[image] = str(error)
                continue
            value = data["result"]["disagreement"]
            if value is None:
                raise InputError("'num_samples' is 1; expected at least 2: a single sample agrees with itself.")
            scores[image] = value
            logger.info("Disagreement on %s: %.4f (%.1f s)", image, value, time.monotonic() - started)
            entry = {model: {"disagreement": value, "stamp": {**stamp, **place}}}
            datastore.update_image_info(image, {INFO_KEY: {**info.get(INFO_KEY, {}), **entry}})
        if not scores:
            reasons = " ".join(f"{image}: {reason}" for image, reason in list(left_out.items())[:10])
            raise InputError(
                f"None of {len(left_out)} unlabelled images can be scored by {model}. A volume needs its place in its "
                f"info (PUT /datastore/image/info?image=ID), as 'foreground': [[i, j, k]]. {reasons}"
            )
        chosen = max(scores, key=lambda image: scores[image])
        return {
            "id": chosen,
            "disagreement": scores[chosen],
            "scored": len(scores),
            "pending": pending,
            "left_out": left_out,
        }

    def _find_task(self, request: Mapping[str, Any]) -> tuple[str, Any]:
        known = sorted(name for name, task in self.tasks.items() if hasattr(task, "weights_stamp"))
        model = request.get("model") or (known[0] if len(known) == 1 else None)
        if model not in known:
            raise InputError(f"'model' is {model!r}; expected one of those with weights: {', '.join(known) or 'none'}.")
        return model, self.tasks[model]
