"""A bundle for your own data, made from an existing one by a few choices: sizes, channels, how masks are resized.

In a clone the choices become ``configs/bundles/NAME.json``, from which ``make bundles`` makes the stage files of
``bundles/NAME``; elsewhere the bundle stands alone. Where parts of its network have the same sizes as the source's,
the source's weights become its ``models/initial.pt``, from which ``train`` starts. What only the maker can know, such
as the data's licence, is marked ``FILL IN`` in metadata, model card and data licence; ``check-bundle`` lists what is
left of it.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.datalist import load_dataset_info
from ..errors import InputError, check_integer, unwrapped_errors
from ..files import save_text
from ..startup import heavy_imports
from .build import build_bundle, read_own, write_run_folder
from .config import STAGES, Bundle
from .folders import bundles_dir, configs_dir, in_clone
from .metadata import make_metadata, write_documents
from .plan import describe_data, find_resize

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)


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
    """Make a bundle for your own data: another bundle's configuration with other sizes and keys.

    Example: medseglatdiff new-bundle my_cells --from skin_lesion_dermoscopy_latent_diffusion --output-dir my_bundles

    Args:
        name: the bundle's name: lower-case letters, digits and underscores, a letter first.
        source: folder or name of the bundle whose configuration the new one starts from; on the command line --from.
        output_dir: folder in which the bundle is made, standing alone. Default: bundles/ in the current folder, where
            commands find it by name; in a clone of the repository its own configs/bundles/NAME.json and bundles/NAME.
        dataset_dir: prepared folder; its channels, labels, modality and number of raters are taken over, and what its
            images and masks are like is printed. `train` plans how long its stages take.
        image_size: side in pixels of the network's input.
        channels: channels of the image.
        structure: what is outlined, for the texts, e.g. vessel.
        modality: of the images, for the texts, e.g. "fundus photography".
        mask_resize: how masks are brought to image_size where the source resizes: nearest, or area: a pixel is
            foreground where at least half of its area is, which keeps structures of a few pixels' width.
        intensities: LOW,HIGH: grey values that become 0 and 1, values beyond are clipped; or image: each image's own
            minimum and maximum.
        overrides: configuration keys; stages takes a block of keys per stage.

    Returns:
        The bundle's folder.

    Raises:
        InputError: a bad name, a folder that exists, an unknown bundle or key, sizes that do not fit the network, grey
            values that do not fit the preprocessing.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{2,79}", str(name)):
        raise InputError(
            f"The bundle's name is {name!r}; expected 3 to 80 lower-case letters, digits and underscores, a letter "
            "first, e.g. retinal_vessel_fundus_latent_diffusion."
        )
    opened = Bundle(source)
    target, own_file = _find_place(name, opened.root, output_dir)
    before = opened.config("inference")
    info = {} if dataset_dir is None else load_dataset_info(dataset_dir)
    _check_data(info, dataset_dir, before, opened.root, channels)
    changes = dict(overrides)
    for key, value in (("image_size", image_size), ("image_channels", info.get("num_channels", channels))):
        if value is not None:
            changes[key] = value
    if mask_resize is not None or intensities is not None:
        if "preprocessing_transforms" in changes:
            raise InputError("Give --preprocessing_transforms, or --mask-resize and --intensities, not both.")
        changes["preprocessing_transforms"] = _change_preprocessing(
            before["preprocessing_transforms"], opened.root.name, mask_resize, intensities
        )
    config = opened.config("inference", changes)
    network = _check_sizes(config)
    if dataset_dir is not None:
        _check_images(dataset_dir, config)
    metadata = make_metadata(name, opened, config, info, structure, modality)
    licence = _find_licence(opened.root)

    target.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and moved there when complete: a failure leaves nothing behind.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as temporary:
        made = Path(temporary) / name
        write_run_folder(opened, made, overrides=changes)
        shutil.copyfile(licence, made / "LICENSE")
        write_documents(made, name, metadata, info)
        if own_file is not None:
            _build_in_tree(own_file, opened, changes, made)
        _copy_weights(opened.root, network, made)
        made.rename(target)
    return target


def _find_place(name: str, source: Path, output_dir: str | Path | None) -> tuple[Path, Path | None]:
    """A new bundle's folder, and in a clone the file under ``configs/bundles/`` that its stage files are built from.

    Raises:
        InputError: the place is taken, or the clone cannot build from the source.
    """
    target, own_file = Path(output_dir or "bundles").absolute() / name, None
    if output_dir is None and in_clone():
        folder = configs_dir() / "bundles"
        source_file = folder / f"{source.name}.json"
        if source.parent != bundles_dir() or not source_file.is_file():
            raise InputError(f"{source} is no bundle of the clone ({source_file} is missing): give --output-dir.")
        target, own_file = bundles_dir() / name, folder / f"{name}.json"
    for path in (target, own_file):
        if path is not None and path.exists():
            raise InputError(f"{path} exists already: choose another name, or remove it first.")
    return target, own_file


def _check_data(
    info: Mapping[str, Any], dataset_dir: str | Path | None, config: Mapping[str, Any], source: Path, channels: Any
) -> None:
    """Refuse data that the source's network or ``--channels`` does not fit."""
    if not info:
        return
    dims, expected = info.get("spatial_dims", 2), int(config.get("spatial_dims", 2))
    if dims != expected:
        raise InputError(f"{dataset_dir} holds images of {dims} dimensions, {source.name} {expected}.")
    if channels is not None and channels != info.get("num_channels"):
        raise InputError(f"--channels is {channels}, the images of {dataset_dir} have {info.get('num_channels')}.")


def _check_images(dataset_dir: str | Path, config: Mapping[str, Any]) -> None:
    """Print what the images and masks are like, and refuse grey values that the preprocessing would spoil."""
    with heavy_imports():
        from ..data.fingerprint import take_fingerprint

    resize = find_resize(config)
    fingerprint = take_fingerprint(dataset_dir, resize)
    for line in describe_data(fingerprint, resize):
        logger.info("%s", line)
    low, high = fingerprint["intensity"]["min"], fingerprint["intensity"]["max"]
    for transform in config["preprocessing_transforms"]:
        if transform.get("_target_") != "ScaleIntensityRanged" or transform.get("clip"):
            continue
        least, most = transform["a_min"], transform["a_max"]
        if low < least or high > most:
            raise InputError(
                f"The images of {dataset_dir} have grey values from {low:g} to {high:g}; this bundle scales {least} to "
                f"{most} to [0, 1]. Give --intensities {low:g},{high:g} for fixed limits, or --intensities image for "
                "those of each image."
            )


def _copy_weights(source: Path, network: nn.Module, made: Path) -> None:
    """Copy the source's weights as those that training starts from, if any part of the network fits them."""
    weights = source / "models" / "model.pt"
    if not weights.is_file():
        return
    with heavy_imports():
        from ..networks.weights import find_fresh_parts, load_tensors

    fresh, taken = find_fresh_parts(network.state_dict(), load_tensors(weights))
    if not taken:
        logger.info("Training starts from scratch: these sizes do not fit the weights of %s.", source.name)
        return
    (made / "models").mkdir()
    shutil.copyfile(weights, made / "models" / "initial.pt")
    parts = f"all parts fit but {', '.join(fresh)}" if fresh else "all parts fit"
    logger.info("Training starts from the weights of %s (models/initial.pt): %s.", source.name, parts)


def _find_licence(source: Path) -> Path:
    for path in (source / "LICENSE", bundles_dir().parent / "LICENSE"):
        if path.is_file():
            return path
    raise InputError(f"{source} has no LICENSE: put the licence of its configurations there.")


def _build_in_tree(own_file: Path, source: Bundle, changes: Mapping[str, Any], made: Path) -> None:
    """Write the bundle's own file under ``configs/bundles/`` of a clone and build its stage files from it."""
    before = read_own(own_file.with_name(f"{source.root.name}.json"))
    save_text(json.dumps(_join_own(before, changes, source), indent=2) + "\n", own_file)
    try:
        build_bundle(own_file.stem, destination=made)
    except BaseException:
        own_file.unlink()
        raise


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


def _check_sizes(config: dict) -> nn.Module:
    """The network; it can be built, and the input's side is a multiple of all its downsampling."""
    side, channels = config["image_size"], config["image_channels"]
    for option, value in (("image_size", side), ("channels", channels)):
        check_integer(option, value, 1)
    with heavy_imports():
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
    return network


def _join_own(own: dict[str, Any], changes: Mapping[str, Any], source: Bundle) -> dict[str, Any]:
    """The source's own file with changes: keys that all stages know on top, others in the blocks of those that do."""
    joined = copy.deepcopy(own)
    blocks: dict[str, dict] = joined.pop("stages", {})
    for key, value in changes.items():
        if key == "stages":
            continue
        knowing = source.stages_that_know(key)
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
