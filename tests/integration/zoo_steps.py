"""What MONAI's model zoo checks of a bundle, written down from its CI, for a process without this package.

Taken from Project-MONAI/model-zoo: ``ci/verify_bundle.py`` and ``ci/bundle_custom_data.py`` at commit
17e7879cb1b464912fdc47c8cff6a5497f7cdc36 (mode "full", in its order), ``ci/unit_tests/runner.py`` at 437993933dad, and
what ``CONTRIBUTING.md`` at 04c6b0e6eca1 asks for in words. The zoo downloads the schema of the metadata; here it is
given.

    python zoo_steps.py MODELS NAME SCHEMA

``MODELS`` holds the folder ``NAME``, as ``models/`` does in the zoo. A line per step goes to stdout.
"""

import importlib.util
import json
import os
import shutil
import sys
import unittest
from pathlib import Path

sys.modules["medseglatdiff_monai"] = None  # type: ignore[assignment]

import torch  # noqa: E402
from monai.bundle import ckpt_export, create_workflow, verify_metadata, verify_net_in_out  # noqa: E402

# The zoo's lists of bundles that are excused; ours belong to the second alone.
EXCLUDE_VERIFY_SHAPE_LIST: list[str] = []
EXCLUDE_VERIFY_TORCHSCRIPT_LIST = [
    "lung_nodule_ct_latent_diffusion",
    "polyp_colonoscopy_latent_diffusion",
    "retinal_vessel_fundus_latent_diffusion",
    "skin_lesion_dermoscopy_latent_diffusion",
]
NECESSARY_FILES = ("configs/metadata.json", "LICENSE")
PREFERRED_FILES = ("models/model.pt", "configs/inference.json")
PREFERRED_KEYS = ("bundle_root", "device", "network_def", "inferer", "output_dir")
LARGEST_FILE = 25 * 2**20


def verify_bundle_directory(bundle: Path) -> None:
    for name in (*NECESSARY_FILES, *PREFERRED_FILES):
        assert (bundle / name).is_file(), f"necessary file {name} is not existing."
    for path in bundle.rglob("*"):
        assert not path.is_file() or path.stat().st_size <= LARGEST_FILE, f"{path} needs large_files.yml"
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    assert set(PREFERRED_KEYS) <= set(config)


def verify_version_changes(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    # And models/model_info.json, which lists what the zoo has, must not name this version: ours has no entry there.


def verify_metadata_format(bundle: Path, schema: Path) -> None:
    (bundle / "eval").mkdir()
    shutil.copyfile(schema, bundle / "eval" / "schema.json")
    verify_metadata(meta_file=str(bundle / "configs/metadata.json"), filepath=str(bundle / "eval/schema.json"))


def verify_bundle_properties(bundle: Path) -> None:
    # The zoo looks up the properties of each app of supported_apps that keeps a file of them there; without one it
    # skips this step. MONAI's own are asked for here.
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["supported_apps"] == {}
    workflow = create_workflow(
        workflow_type="inference",
        bundle_root=str(bundle),
        config_file=str(bundle / "configs/inference.json"),
        logging_file=str(bundle / "configs/logging.conf"),
        meta_file=str(bundle / "configs/metadata.json"),
    )
    assert workflow.check_properties() == []


def _network_files(bundle: Path) -> dict[str, str]:
    return {
        "net_id": "network_def",
        "meta_file": str(bundle / "configs/metadata.json"),
        "config_file": str(bundle / "configs/inference.json"),
        "bundle_root": str(bundle),
    }


def verify_data_shape(bundle: Path) -> None:
    assert bundle.name not in EXCLUDE_VERIFY_SHAPE_LIST
    verify_net_in_out(**_network_files(bundle))


def verify_torchscript(bundle: Path) -> None:
    exported = bundle / "models" / "verify_model.ts"
    given = {"filepath": str(exported), "ckpt_file": str(bundle / "models/model.pt"), **_network_files(bundle)}
    assert bundle.name in EXCLUDE_VERIFY_TORCHSCRIPT_LIST
    # The zoo does not trace, hence the list.
    ckpt_export(**given, use_trace=True)
    torch.jit.load(str(exported))
    exported.unlink()


def run_unit_test(bundle: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"test_{bundle.name}", Path(__file__).with_name("zoo_inference.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As it is found in the zoo: ci/unit_tests/test_NAME.py, started in the folder that holds models/.
    module.__file__ = f"test_{bundle.name}.py"
    os.chdir(bundle.parent.parent)
    spec.loader.exec_module(module)
    result = unittest.TextTestRunner(stream=sys.stdout).run(unittest.TestLoader().loadTestsFromModule(module))
    assert result.testsRun
    assert result.wasSuccessful()


def main() -> None:
    models, name, schema = sys.argv[1:]
    bundle = Path(models, name).resolve()
    sys.path.insert(0, str(bundle))
    for number, (step, *further) in enumerate(
        (
            (verify_bundle_directory,),
            (verify_version_changes,),
            (verify_metadata_format, Path(schema).resolve()),
            (verify_bundle_properties,),
            (verify_data_shape,),
            (verify_torchscript,),
            (run_unit_test,),
        ),
        1,
    ):
        step(bundle, *further)
        print(f"step {number}: {step.__name__} passed", flush=True)


if __name__ == "__main__":
    main()
