# Copyright (c) MONAI Consortium
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The unit test of a bundle in the model zoo: a copy of this file there is named ``ci/unit_tests/test_NAME.py``."""

import os
import shutil
import sys
import tempfile
import unittest

import numpy as np
from monai.bundle import ConfigWorkflow
from PIL import Image

BUNDLE_ROOT = os.path.join("models", os.path.basename(__file__)[len("test_") : -len(".py")])


class TestInference(unittest.TestCase):
    def setUp(self):
        self.dataset_dir = tempfile.mkdtemp()
        self.output_dir = tempfile.mkdtemp()
        # Larger than any of the networks' inputs, grey or colour as the bundle's own images are.
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (2, 300, 320, 3), dtype=np.uint8)
        mode = "L" if "_ct_" in BUNDLE_ROOT else "RGB"
        for number, image in enumerate(images):
            Image.fromarray(image).convert(mode).save(os.path.join(self.dataset_dir, f"image_{number}.png"))

    def tearDown(self):
        shutil.rmtree(self.dataset_dir)
        shutil.rmtree(self.output_dir)

    def test_infer_config(self):
        sys.path = [BUNDLE_ROOT, *sys.path]
        inferrer = ConfigWorkflow(
            workflow_type="infer",
            config_file=os.path.join(BUNDLE_ROOT, "configs/inference.json"),
            logging_file=os.path.join(BUNDLE_ROOT, "configs/logging.conf"),
            meta_file=os.path.join(BUNDLE_ROOT, "configs/metadata.json"),
            bundle_root=BUNDLE_ROOT,
            dataset_dir=self.dataset_dir,
            output_dir=self.output_dir,
        )
        inferrer.initialize()
        check_result = inferrer.check_properties()
        if check_result is not None and len(check_result) > 0:
            raise ValueError(f"check properties for infer config failed: {check_result}")
        inferrer.run()
        inferrer.finalize()
        written = [name for _, _, names in os.walk(self.output_dir) for name in names]
        expected = [f"image_{n}_{what}.png" for n in range(2) for what in ("confidence", "consensus")]
        self.assertEqual(sorted(written), expected)  # noqa: PT009


if __name__ == "__main__":
    unittest.main()
