"""Puts ``configs/`` into the package that is built: in a clone it stands beside it. All else is in ``setup.cfg``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """Builds the package with its configurations; an editable installation reads them where they are."""

    def run(self) -> None:
        """Build, and copy what a former build has not left as it is now."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "medseglatdiff_monai", "configs")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("configs", target)


setup(cmdclass={"build_py": BuildPy})
