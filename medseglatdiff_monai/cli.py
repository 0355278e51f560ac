"""The command line, made by fire: each command parses its arguments and makes one call.

``medseglatdiff COMMAND --help`` lists a command's arguments; further ``--key value`` pairs are configuration overrides.
"""

from __future__ import annotations

import gc
import inspect
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .errors import InputError, did_you_mean

__all__ = ["main"]


class Commands:
    """Segmentation of medical images as a distribution of masks.

    From data to masks:

        medseglatdiff prepare lidc-slices lidc.tar.xz --output-dir data/lidc
        medseglatdiff train lung_nodule_ct_latent_diffusion --dataset-dir data/lidc --output-dir runs/lung
        medseglatdiff evaluate runs/lung --dataset-dir data/lidc --split validation --output-dir results/lung
        medseglatdiff predict lung_nodule_ct_latent_diffusion SERIES_FOLDER --point=-62.5,41,-120 --output-dir out
    """

    def prepare(
        self,
        source: str,
        src: str | None = None,
        *,
        output_dir: str,
        split_file: str | None = None,
        ratios: str | None = None,
        seed: int = 0,
        crop: int | None = None,
        whole_slice: int | None = None,
        workers: int | None = None,
        **options: Any,
    ) -> None:
        """Turn a data set into one prepared folder: images, masks with a channel per rater, dataset.json.

        Example: medseglatdiff prepare cvc-clinicdb cvc.tar --output-dir data/cvc

        Args:
            source: lidc, lidc-slices, isic2018, cvc-clinicdb, chase, folder or phantom.
            src: folder or .tar/.tar.xz of the data set (not for phantom).
            output_dir: the prepared folder.
            split_file: CSV of group and train/val/test; without it groups are split by ratio.
            ratios: shares of training, validation and test groups, e.g. 8:1:1.
            seed: seed of the split (the phantom has its own, --phantom_seed).
            crop: side in pixels of nodule crops (LIDC).
            whole_slice: side to which whole slices are resized instead (LIDC; the paper's protocol).
            workers: processes; by default one a core.
            options: options of the source.
        """
        from .data.prepare import prepare

        path = prepare(
            source, src, output_dir=output_dir, split_file=split_file, ratios=ratios, seed=seed, crop=crop,
            whole_slice=whole_slice, workers=workers, **options,
        )  # fmt: skip
        print(f"Prepared: {path}")

    def train(
        self,
        bundle: str,
        *,
        dataset_dir: str,
        experiment: str | None = None,
        output_dir: str | None = None,
        max_minutes: float | None = None,
        initial_weights: str | None = None,
        **overrides: Any,
    ) -> None:
        """Train image codec, mask codec and diffusion; finished stages are skipped, interrupted ones go on.

        Example: medseglatdiff train lung_nodule_ct_latent_diffusion --dataset-dir data/lidc --output-dir runs/lung

        Args:
            bundle: bundle folder, or a name under bundles/.
            dataset_dir: prepared folder.
            experiment: overlay: a JSON file or a name under configs/experiments/.
            output_dir: the run's folder, a bundle of its own when done.
            max_minutes: stop cleanly after so many minutes.
            initial_weights: a bundle's models/model.pt to go on from, e.g. to adapt it to images of your own.
            overrides: configuration keys, e.g. --max_epochs 3 --batch_size 8.
        """
        with _quick_imports():
            from .bundle.arguments import check_bundle_arguments
            from .data.datalist import load_dataset_info

            check_bundle_arguments(bundle, "train", experiment, overrides)
            load_dataset_info(dataset_dir)
            from .training.run import train

        path = train(bundle, dataset_dir, experiment, output_dir, max_minutes, initial_weights, **overrides)
        print(f"Run: {path}")

    def evaluate(
        self,
        bundle: str,
        *,
        dataset_dir: str,
        output_dir: str,
        split: str = "validation",
        experiment: str | None = None,
        weights: str | None = None,
        num_samples: int | None = None,
        num_inference_steps: int | None = None,
        max_cases: int | None = None,
        seed: int = 0,
        save_samples: bool = False,
        **overrides: Any,
    ) -> None:
        """Score a bundle against all readers: metrics.json, cases.csv and, if asked, the samples.

        Example: medseglatdiff evaluate runs/lung --dataset-dir data/lidc --max-cases 300 --output-dir results/lung

        Args:
            bundle: bundle folder, or a name under bundles/.
            dataset_dir: prepared folder.
            output_dir: where the results go.
            split: training, validation or test.
            experiment: overlay that the weights were trained with.
            weights: other weights than the bundle's own.
            num_samples: samples a case (default 16).
            num_inference_steps: denoiser calls a sample (default: the bundle's).
            max_cases: draw so many cases by seed.
            seed: seed of the noise and of the draw of cases.
            save_samples: write samples/<case>.npz.
            overrides: configuration keys.
        """
        with _quick_imports():
            from .bundle.arguments import check_bundle_arguments

            check_bundle_arguments(bundle, "evaluate", experiment, overrides)
            from .evaluation.run import evaluate

        result = evaluate(
            bundle, dataset_dir, output_dir, split, experiment, weights, num_samples, num_inference_steps, max_cases,
            seed, save_samples, **overrides,
        )  # fmt: skip
        summary = result["summary"]
        names = [name for name in ("ged_v", "ged_u", "hm_iou", "dice", "iou") if summary[name] is not None]
        print("  ".join(f"{name} {summary[name]:.4f}" for name in names), f" ({summary['num_cases']} cases)")
        print(f"Results: {output_dir}/metrics.json, {output_dir}/cases.csv")

    def benchmark(
        self,
        suite: str,
        *,
        dataset_dir: str,
        output_dir: str,
        bundle: str | None = None,
        max_minutes: float | None = None,
        max_cases: int | None = None,
        systems: str | Sequence[str] | None = None,
        seeds: int | Sequence[int] = 0,
        split: str = "validation",
        run: str | Sequence[str] | None = None,
        **overrides: Any,
    ) -> None:
        """Train, score and compare the systems of a suite: results.json, results.csv, report.html.

        Example: medseglatdiff benchmark ambiguity --dataset-dir data/lidc --max-minutes 60 --output-dir results

        Args:
            suite: paper-table-1, paper-table-2, paper-table-3, paper-figure-3, paper-figure-4, ambiguity,
                ambiguity-laptop, all-systems, calibration, ablation, recipe, or a JSON file.
            dataset_dir: prepared folder.
            output_dir: where runs, scores and the report go; the same call goes on from there.
            bundle: bundle that the systems start from; by default the one for the data set.
            max_minutes: budget of training and scoring together; 0 only scores what is trained.
            max_cases: score so many cases, drawn by a fixed seed.
            systems: names, separated by commas; all by default.
            seeds: training seeds, separated by commas.
            split: training, validation or test.
            run: NAME=FOLDER, separated by commas: trained runs or bundles to take instead of training.
            overrides: configuration keys of every system's training.
        """
        with _quick_imports():
            from .suites.runner import run_suite

        runs = dict(_name_and_folder(entry) for entry in _as_list(run))
        results = run_suite(
            suite, dataset_dir, output_dir, bundle, max_minutes, max_cases,
            None if systems is None else [str(name) for name in _as_list(systems)], [int(s) for s in _as_list(seeds)],
            split, runs, **overrides,
        )  # fmt: skip
        for entry in results["left_out"]:
            print(f"Left out: {entry['what']}: {entry['why']}")
        for name, reason in results["not_applicable"].items():
            print(f"Does not apply: {name}: {reason}")
        print(f"Results: {output_dir}/results.json, {output_dir}/results.csv, {output_dir}/report.html")
        if results["failures"]:
            raise InputError("; ".join(f"{entry['what']}: {entry['message']}" for entry in results["failures"]))

    def predict(
        self,
        bundle: str,
        *inputs: str,
        output_dir: str,
        weights: str | None = None,
        experiment: str | None = None,
        num_samples: int | None = None,
        num_inference_steps: int | None = None,
        seed: int = 0,
        point: Sequence[float] | None = None,
        index: Sequence[int] | None = None,
        roi: Sequence[float] | None = None,
        slices: int | None = None,
        reach_mm: float = 30.0,
        dicom: bool | None = None,
        **overrides: Any,
    ) -> None:
        """Draw an ensemble of masks: consensus and confidence in the input's geometry, samples, and a picture.

        Of a volume the whole nodule is drawn, slice by slice from the clicked one until the consensus is empty, and its
        volume in mm³ is stated with an interval. Of a DICOM series DICOM SEG and an SR report are written, too, where
        the extra 'dicom' is installed.

        Example: medseglatdiff predict lung_nodule_ct_latent_diffusion SERIES --point=-62.5,41,-120 --output-dir out

        Args:
            bundle: bundle folder, or a name under bundles/.
            inputs: PNG or JPEG images, NIfTI files, or folders with one DICOM series each.
            output_dir: where the results go.
            weights: other weights than the bundle's own.
            experiment: overlay that the weights were trained with.
            num_samples: samples (default: the bundle's, 16 for the lung bundle, else 5).
            num_inference_steps: denoiser calls a sample (default: the bundle's).
            seed: seed of the noise.
            point: x,y,z of a nodule in patient millimetres (LPS), as --point=-62.5,41,-120; of several nodules of one
                volume with semicolons between them, as --point="-62.5,41,-120;30,12,-85".
            index: i,j,k of a nodule: column, row, slice; several as with --point.
            roi: x0,y0,z0,x1,y1,z1 of a box around a nodule in patient millimetres (LPS); several as with --point.
            slices: at most so many slices of a nodule, an odd number; 1: the clicked slice alone, no volume. By default
                all, until the consensus is empty.
            reach_mm: no slice farther than this from the clicked one (nodules measure at most 30 mm).
            dicom: True: DICOM SEG and SR of a series must be written; False: they are not; by default they are where
                highdicom is installed.
            overrides: configuration keys.
        """
        with _quick_imports():
            from .bundle.arguments import check_bundle_arguments
            from .io.formats import check_path
            from .predict.arguments import check_predict

            paths, _ = check_predict(
                [str(entry) for entry in inputs], num_samples, num_inference_steps, seed, point, index, roi, slices,
                reach_mm, dicom, overrides.get("device"),
            )  # fmt: skip
            for path in paths:
                check_path(path)
            check_bundle_arguments(bundle, "inference", experiment, overrides)
            from .predict.files import predict

        results = predict(
            bundle, paths, output_dir, weights=weights, experiment=experiment,
            num_samples=num_samples, num_inference_steps=num_inference_steps, seed=seed, point=point, index=index,
            roi=roi, slices=slices, reach_mm=reach_mm, dicom=dicom, **overrides,
        )  # fmt: skip
        for result in results:
            for nodule in result.get("nodules", ()):
                print(f"{result['input']['name']}, nodule {nodule['number']}: {_describe_size(nodule)}")
        print(f"Results: {output_dir}")

    def export(
        self,
        bundle: str,
        *,
        format: str = "torchscript",
        output_file: str | None = None,
        output_dir: str | None = None,
        weights: str | None = None,
        device: str = "cpu",
        **overrides: Any,
    ) -> None:
        """Write a bundle for other programs: TorchScript of (image, noise) → confidence map, or ONNX with a runner.

        Example: medseglatdiff export lung_nodule_ct_latent_diffusion --output-file lung.ts
        Example: medseglatdiff export lung_nodule_ct_latent_diffusion --format onnx --output-dir lung_onnx

        Args:
            bundle: bundle folder, or a name under bundles/.
            format: torchscript or onnx.
            output_file: the TorchScript file.
            output_dir: folder of the ONNX networks, their settings and onnx_runner.py.
            weights: other weights than the bundle's own.
            device: where the TorchScript will run, cpu or cuda; ONNX runs on either.
            overrides: configuration keys, e.g. --num_samples 16: fixed in TorchScript, the runner's default in ONNX.
        """
        with _quick_imports():
            from .bundle.arguments import check_bundle_arguments

            check_bundle_arguments(bundle, "inference", None, {**overrides, "device": device})
            from .integrations.export.export import export

        print(f"Exported: {export(bundle, format, output_file, output_dir, weights, device, **overrides)}")

    def pack(self, bundle: str, *, output_file: str) -> None:
        """Write a bundle, or a finished run, as the zip that monai.bundle.download and load take.

        Example: medseglatdiff pack runs/lung --output-file lung.zip

        Args:
            bundle: bundle folder, or a name under bundles/.
            output_file: the zip.
        """
        with _quick_imports():
            from .bundle.config import find_bundle

            find_bundle(bundle)
            from .bundle.pack import pack
            from .files import weights_sha256

        path = pack(bundle, output_file)
        print(f"Packed: {path} ({path.stat().st_size / 1e6:.1f} MB, SHA-256 {weights_sha256(path)})")

    def register(
        self, bundle: str, *, tracking_uri: str, name: str | None = None, experiment_name: str = "medseglatdiff"
    ) -> None:
        """Log a finished bundle in MLflow as a pyfunc model and register it, beside the runs that trained it.

        Example: medseglatdiff register runs/lung --tracking-uri http://localhost:5000 --name lung

        Args:
            bundle: bundle folder, or a name under bundles/.
            tracking_uri: MLflow server or database, e.g. sqlite:////data/mlruns.db.
            name: name of the registered model (default: the bundle's folder).
            experiment_name: experiment of the run, where the bundle has none on that server.
        """
        with _quick_imports():
            from .bundle.config import find_bundle

            find_bundle(bundle)
            from .integrations.mlflow.model import register

        uri, version = register(bundle, tracking_uri, name, experiment_name)
        print(f"Registered: version {version}. mlflow.pyfunc.load_model({uri!r})")

    def report(self, run_folder: str, *, output_file: str | None = None) -> None:
        """Write what `predict` left in a folder as one HTML file: pictures, sizes of every sample, notes, provenance.

        Example: medseglatdiff report out --output-file report.html

        Args:
            run_folder: the --output-dir of predict.
            output_file: the HTML (default: RUN_FOLDER/report.html).
        """
        from .predict.report import report

        print(f"Report: {report(run_folder, output_file)}")

    def view(
        self,
        input: str | None = None,
        *,
        bundle: str = "lung_nodule_ct_latent_diffusion",
        readers: str | Sequence[str] | None = None,
        point: Sequence[float] | None = None,
        weights: str | None = None,
        experiment: str | None = None,
        num_samples: int = 16,
        seed: int = 0,
        port: int = 8080,
        show: bool = True,
        **overrides: Any,
    ) -> None:
        """Look at an ensemble in the browser: page through samples, slide the threshold, compare with readers.

        The page is served on this computer alone. Needs the extra 'view'.

        Example: medseglatdiff view SERIES --point=-62.5,41,-120
        Example: medseglatdiff view data/lidc/images/CASE.nii.gz --readers data/lidc/masks/CASE.nii.gz

        Args:
            input: a PNG or JPEG image, a NIfTI file, or a folder with one DICOM series; it can also be opened later.
            bundle: bundle folder, or a name under bundles/.
            readers: readers' masks: a prepared file with a channel a reader, or a PNG or NIfTI a reader with commas
                between; of a volume NIfTI on its own grid.
            point: x,y,z of the nodule in patient millimetres (LPS); without it the nodule is clicked in the page.
            weights: other weights than the bundle's own.
            experiment: overlay that the weights were trained with.
            num_samples: masks to begin with.
            seed: seed of the noise to begin with.
            port: port of the page on 127.0.0.1.
            show: False: do not open the browser.
            overrides: configuration keys.
        """
        with _quick_imports():
            from .bundle.arguments import check_bundle_arguments

            check_bundle_arguments(bundle, "inference", experiment, overrides)
            from .integrations.view.page import view

        # Fire makes a list of names with commas between.
        names = None if readers is None else [readers] if isinstance(readers, str) else [str(name) for name in readers]
        view(input, bundle, None if names is None else ",".join(names), point, weights, experiment, num_samples, seed,
             port, show, **overrides)  # fmt: skip

    def demo(self, *, output_dir: str = "demo_output", num_cases: int = 24, seed: int = 0) -> None:
        """The main job on an embedded example: phantom cases with real readers' contours, no download.

        Example: medseglatdiff demo --output-dir demo_output

        Args:
            output_dir: where data, pictures and results go.
            num_cases: phantom cases.
            seed: seed of phantom and noise.
        """
        with _quick_imports():
            from .demo import demo

        demo(output_dir, num_cases, seed)

    def new_bundle(
        self,
        name: str,
        *,
        output_dir: str | None = None,
        dataset_dir: str | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        structure: str | None = None,
        modality: str | None = None,
        mask_resize: str | None = None,
        intensities: str | Sequence[float] | None = None,
        **overrides: Any,
    ) -> None:
        """Make a bundle for data of one's own: NAME --from BUNDLE, then choices of sizes and keys.

        Example: medseglatdiff new-bundle my_cells --from skin_lesion_dermoscopy_latent_diffusion --output-dir bundles

        Args:
            name: lower-case letters, digits and underscores.
            output_dir: folder in which the bundle is made; without it, the source tree's bundles/ and configs/bundles/.
            dataset_dir: prepared folder whose channels, labels and readers the bundle is for.
            image_size: side in pixels of the network's input.
            channels: channels of the image.
            structure: what is outlined, for the texts.
            modality: of the images, for the texts.
            mask_resize: nearest, or area, which keeps thin structures.
            intensities: LOW,HIGH: grey values that become 0 and 1; or image: each image's own extremes.
            overrides: --from BUNDLE (needed), a folder or a name under bundles/; configuration keys; --stages for keys
                of single stages.
        """
        from .bundle.check import check_bundle
        from .bundle.new import new_bundle

        # A keyword of Python cannot be the name of an argument.
        source = overrides.pop("from", None)
        if source is None:
            raise InputError("new-bundle needs --from BUNDLE: a bundle's folder, or a name under bundles/.")
        path = new_bundle(
            str(name), str(source), output_dir, dataset_dir, image_size, channels, structure, modality, mask_resize,
            intensities, **overrides,
        )  # fmt: skip
        print(f"Bundle: {path}")
        print("Before it is given to others:")
        for line in check_bundle(path):
            print(f"  {line}")

    def check_bundle(self, bundle: str) -> None:
        """Say what a bundle still lacks before it is given to others; the exit status is 1 if there is anything.

        Example: medseglatdiff check-bundle bundles/my_cells

        Args:
            bundle: bundle folder, or a name under bundles/.
        """
        from .bundle.check import check_bundle

        found = check_bundle(bundle)
        if found:
            raise InputError("\n  ".join([f"{bundle} is not complete:", *found]))
        print("Complete.")

    def build_bundles(self) -> None:
        """Rebuild the stage files of all bundles from configs/ (for developers)."""
        from .bundle.build import build_bundle
        from .bundle.config import bundles_dir

        for path in sorted((bundles_dir().parent / "configs" / "bundles").glob("*.json")):
            build_bundle(path.stem)
            print(f"Built: {path.stem}")


@contextmanager
def _quick_imports() -> Iterator[None]:
    """Import without looking for garbage, which takes a fifth of the time of importing MONAI.

    Modules stay until the program ends: what they made is set aside, and later searches for garbage skip it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


def _as_list(value: Any) -> list[Any]:
    """What fire made of ``a,b``, ``0,1``, ``[a,b]`` or a single value."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _name_and_folder(entry: Any) -> tuple[str, str]:
    name, mark, folder = str(entry).partition("=")
    if not (name.strip() and mark and folder.strip()):
        raise InputError(f"--run expects NAME=FOLDER, separated by commas; found {entry!r}.")
    return name.strip(), folder.strip()


def _describe_size(nodule: dict[str, Any]) -> str:
    """The numbers of a nodule that one looks for first."""
    from .predict.measure import format_number

    parts = []
    for key, name, unit in (("volume_mm3", "volume", "mm³"), ("longest_diameter_mm", "diameter", "mm")):
        if nodule[key] is not None:
            low, high = (format_number(value) for value in nodule[key]["interval"])
            parts.append(f"{name} {format_number(nodule[key]['consensus'])} {unit} ({low} to {high})")
    iou = nodule["agreement"]["mean_pairwise_iou"]
    return ", ".join(parts + ([] if iou is None else [f"agreement of the samples {iou:.2f} IoU"]))


def _check_options(command: str, arguments: Sequence[str]) -> None:
    """Exit with the nearest option where a command that takes no overrides is given one that it does not know.

    Fire would say only that it could not consume the argument; of overrides the configuration says what is near.
    """
    parameters = inspect.signature(vars(Commands)[command]).parameters if command in vars(Commands) else {}
    if not parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [name for name in parameters if name != "self"]
    for argument in arguments:
        if argument == "--":
            # What follows is for fire itself.
            return
        name = argument[2:].split("=")[0].replace("-", "_")
        if argument.startswith("--") and name not in (*known, "help"):
            hint = did_you_mean(name, known, prefix="--")
            listed = ", ".join(f"--{option}" for option in known) or "none"
            sys.exit(f"medseglatdiff {command}: no option {argument.split('=')[0]!r}.{hint} Options: {listed}.")


def main() -> None:
    """Entry point of the console script ``medseglatdiff``."""
    import fire

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Each of these speaks about something that a user of this program can do nothing about.
    for name in ("mlflow", "alembic", "highdicom", "monai.data.nvimgcodec_pydicom_plugin", "monai.data.image_reader"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    commands = sorted(name for name in vars(Commands) if not name.startswith("_"))
    given = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else ""
    if given and not given.startswith("_") and given not in commands:
        hint = did_you_mean(given, commands)
        sys.exit(f"medseglatdiff: no command {sys.argv[1]!r}.{hint} Commands: {', '.join(commands)}.")
    _check_options(given, sys.argv[2:])
    # To fire, --help beside a command that can be called without arguments is one more override.
    arguments = [given, "--", "--help"] if given and {"--help", "-h"} & set(sys.argv[2:]) else sys.argv[1:]
    try:
        # An instance: of a class, fire's help would describe the constructor and leave the commands out.
        fire.Fire(Commands(), command=arguments, name="medseglatdiff")
    except fire.core.FireExit as done:
        # Arguments that are missing beside --help are an error to fire, though it prints the help.
        sys.exit(0 if {"--help", "-h"} & set(sys.argv[1:]) else done.code)
    except InputError as error:
        sys.exit(f"medseglatdiff: {error}")
