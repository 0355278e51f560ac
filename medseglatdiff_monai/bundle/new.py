"""A bundle of one's own, made from an existing one by choices alone: sizes, channels, how masks are resized.

In the source tree the choices become ``configs/bundles/NAME.json``, from which ``build_bundles`` makes the stage files
of ``bundles/NAME``; elsewhere the bundle stands alone. What only the maker can know, such as the data's licence, is
marked ``FILL IN`` in metadata, model card and data licence, and :func:`check_bundle` lists what is left of it.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.datalist import load_dataset_info
from ..errors import InputError, unwrapped_errors
from .build import build_bundle, write_run_folder
from .config import STAGES, bundles_dir, find_bundle, load_stage_config, stages_that_know
from .metadata import DATA_LICENSE, METHOD, MODEL_CARD, name_structure, write_metadata

__all__ = ["new_bundle"]


def new_bundle(
    name: str,
    source: str | Path,
    output_dir: str | Path | None = None,
    dataset_dir: str | Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    structure: str | None = None,
    modality: str | None = None,
    mask_resize: str | None = None,
    intensities: str | Sequence[float] | None = None,
    **overrides: Any,
) -> Path:
    """Make a bundle from another one.

    Args:
        name: the bundle's name: lower-case letters, digits and underscores, a letter first.
        source: bundle folder, or a name under ``bundles/``, whose configuration the new one starts from.
        output_dir: folder in which the bundle ``name`` is made, standing alone. Without it the bundle goes into the
            source tree: ``configs/bundles/NAME.json`` and ``bundles/NAME``.
        dataset_dir: prepared folder; its channels, labels, modality and number of readers are taken over.
        image_size: side in pixels of the network's input.
        channels: channels of the image.
        structure: what is outlined, for the metadata, e.g. ``"vessel"``.
        modality: of the images, for the metadata, e.g. ``"fundus photography"``.
        mask_resize: how masks are brought to ``image_size`` where the source resizes: ``"nearest"``, or ``"area"``: a
            pixel is foreground where at least half of its area is, which keeps structures of a few pixels' width.
        intensities: grey values that become 0 and 1, e.g. ``(0, 4095)``, values beyond are clipped; or ``"image"``:
            each image's own minimum and maximum.
        overrides: configuration keys; ``stages`` takes a dictionary of keys for single stages.

    Returns:
        The bundle's folder.

    Raises:
        InputError: a bad name, a folder that exists, an unknown bundle or key, sizes that do not fit the network.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{2,79}", str(name)):
        raise InputError(
            f"The bundle's name is {name!r}; expected 3 to 80 lower-case letters, digits and underscores, a letter "
            "first, e.g. retinal_vessel_fundus_latent_diffusion."
        )
    root = find_bundle(source)
    in_tree = output_dir is None
    target = (bundles_dir() if output_dir is None else Path(output_dir).absolute()) / name
    own_file = bundles_dir().parent / "configs" / "bundles" / f"{name}.json"
    source_file = own_file.with_name(f"{root.name}.json")
    if in_tree and (root.parent != bundles_dir() or not source_file.is_file()):
        raise InputError(f"{root} is no bundle of the source tree ({source_file} is missing): give --output-dir.")
    for path in (target, own_file) if in_tree else (target,):
        if path.exists():
            raise InputError(f"{path} exists already: choose another name, or remove it first.")

    before = load_stage_config(root, "inference")
    info = {} if dataset_dir is None else load_dataset_info(dataset_dir)
    dims = int(before.get("spatial_dims", 2))
    if info and info.get("spatial_dims", 2) != dims:
        raise InputError(f"{dataset_dir} holds images of {info.get('spatial_dims', 2)} dimensions, {root.name} {dims}.")
    if channels is not None and info and channels != info.get("num_channels"):
        raise InputError(f"--channels is {channels}, the images of {dataset_dir} have {info.get('num_channels')}.")
    changes: dict[str, Any] = dict(overrides)
    for key, value in (("image_size", image_size), ("image_channels", channels or info.get("num_channels"))):
        if value is not None:
            changes[key] = value
    if mask_resize is not None or intensities is not None:
        if "preprocessing_transforms" in changes:
            raise InputError("Give --preprocessing_transforms, or --mask-resize and --intensities, not both.")
        changes["preprocessing_transforms"] = _change_preprocessing(
            before["preprocessing_transforms"], root.name, mask_resize, intensities
        )
    unknown = sorted(set(changes.get("stages", {})) - set(STAGES))
    if unknown:
        raise InputError(f"--stages has {', '.join(unknown)}; expected some of {', '.join(STAGES)}.")

    config = load_stage_config(root, "inference", overrides=changes)
    for stage in STAGES:
        load_stage_config(root, stage, overrides=changes)
    _check_sizes(config)
    metadata = write_metadata(name, root, config, info, structure, modality)
    license_file = next(
        (path for path in (root / "LICENSE", bundles_dir().parent / "LICENSE") if path.is_file()), None
    )  # fmt: skip
    if license_file is None:
        raise InputError(f"{root} has no LICENSE: put the licence of its configurations there.")

    target.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and moved there whole: what fails half-way leaves nothing behind.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as temporary:
        made = Path(temporary) / name
        write_run_folder(root, made, None, changes)
        (made / "docs").mkdir()
        shutil.copyfile(license_file, made / "LICENSE")
        (made / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")
        raters = info.get("num_raters")
        card = MODEL_CARD.format(
            name=name, title=metadata["name"], channels=config["image_channels"], method=METHOD,
            shape=", ".join([str(config["image_size"])] * dims), structure=name_structure(structure, info),
            readers="how many readers outlined each" if raters is None else f"{raters} reader(s) an image",
            **{key: metadata[key] for key in ("description", "intended_use", "image_classes")},
        )  # fmt: skip
        (made / "docs" / "README.md").write_text(card)
        (made / "docs" / "data_license.txt").write_text(DATA_LICENSE.format(name=name))
        if in_tree:
            own = _join_own(json.loads(source_file.read_text()), changes, root)
            own_file.write_text(json.dumps(own, indent=2) + "\n")
            try:
                build_bundle(name, destination=made)
            except BaseException:
                own_file.unlink()
                raise
        made.rename(target)
    return target


def _change_preprocessing(
    transforms: Sequence[Mapping[str, Any]], source: str, mask_resize: str | None, intensities: Any
) -> list[dict[str, Any]]:
    """The source's transforms with another way of resizing masks, or another grey scale."""
    changed = [copy.deepcopy(dict(transform)) for transform in transforms]
    if mask_resize is not None:
        if mask_resize not in ("nearest", "area"):
            raise InputError(f"--mask-resize is {mask_resize!r}; expected nearest or area.")
        where = _find_transform(changed, "Resized", source, "--mask-resize")
        resize = changed[where]
        keys = resize["keys"]
        if not isinstance(keys, list) or "label" not in keys or not isinstance(resize.get("mode"), list):
            raise InputError(f"--mask-resize: Resized of {source} has no mode for the key 'label'.")
        resize["mode"][keys.index("label")] = mask_resize
        following = changed[where + 1] if where + 1 < len(changed) else {}
        binarized = following.get("_target_") == "AsDiscreted" and following.get("keys") == "label"
        if mask_resize == "area" and not binarized:
            half = {"_target_": "AsDiscreted", "keys": "label", "threshold": 0.5, "allow_missing_keys": True}
            changed.insert(where + 1, half)
        elif mask_resize == "nearest" and binarized:
            del changed[where + 1]
    if intensities is not None:
        where = _find_transform(changed, "ScaleIntensityRanged", source, "--intensities")
        if intensities == "image":
            changed[where] = {"_target_": "ScaleIntensityd", "keys": "image", "minv": 0.0, "maxv": 1.0}
        else:
            try:
                low, high = (float(value) for value in intensities)
            except (TypeError, ValueError):
                low = high = 0.0
            if not low < high:
                raise InputError(f"--intensities is {intensities!r}; expected 'image' or LOW,HIGH, e.g. 0,4095.")
            changed[where].update(a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)
    return changed


def _find_transform(transforms: list[dict[str, Any]], target: str, source: str, option: str) -> int:
    for index, transform in enumerate(transforms):
        if transform.get("_target_") == target:
            return index
    raise InputError(f"{option}: the preprocessing of {source} has no {target}; start from a bundle that has.")


def _check_sizes(config: dict) -> None:
    """The network can be built, and the input's side is a multiple of all its downsampling."""
    side, channels = config["image_size"], config["image_channels"]
    for option, value in (("image_size", side), ("channels", channels)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{option} is {value!r}; expected a positive whole number.")
    # Here: MONAI takes seconds to import, and a wrong argument is to be told before.
    from monai.bundle import ConfigParser

    try:
        with unwrapped_errors():
            network = ConfigParser(config).get_parsed_content("network_def")
    except InputError:
        raise
    except Exception as error:  # networks refuse their sizes in all kinds
        raise InputError(f"The network cannot be built with these sizes: {error} Choose others.") from error
    codec = config.get("mask_codec_def", {}).get("_target_", "")
    levels = len(config["mask_codec_channels"]) if codec.endswith(("VQVAECodec", "KLCodec")) else 0
    multiple = 2 ** (levels + len(config["denoiser_channels"]) - 1)
    # All are powers of two: the largest is a multiple of the others.
    multiple = max(multiple, getattr(getattr(network, "conditioner", None), "size_multiple", 1))
    if hasattr(network, "denoiser") and side % multiple:
        nearest = max(multiple, round(side / multiple) * multiple)
        raise InputError(
            f"image_size is {side}; codecs, image encoder and denoiser halve it {multiple.bit_length() - 1} times: "
            f"expected a multiple of {multiple}, e.g. {nearest}."
        )


def _join_own(own: dict[str, Any], changes: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The source's own file with changes: keys that all stages know on top, others in the blocks of those that do."""
    joined = copy.deepcopy(own)
    blocks: dict[str, dict] = joined.pop("stages", {})
    for key, value in changes.items():
        if key == "stages":
            continue
        knowing = stages_that_know(root, key)
        for block in blocks.values():
            block.pop(key, None)
        if set(knowing) == set(STAGES):
            joined[key] = value
        else:
            for stage in knowing:
                blocks.setdefault(stage, {})[key] = value
    for stage, block in changes.get("stages", {}).items():
        blocks.setdefault(stage, {}).update(block)
    # In the stages' order; empty blocks say nothing.
    ordered = {stage: blocks[stage] for stage in STAGES if blocks.get(stage)}
    return {**joined, "stages": ordered} if ordered else joined
