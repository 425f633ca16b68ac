"""Only what pyproject.toml cannot say: a wheel carries the committed networks."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class WithNetworks(build_py):
    """Puts ``checkpoints/`` into the package, where ``jmlv.checkpoints`` looks for it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = pathlib.Path(self.build_lib, "jmlv", "shipped", "checkpoints")
            shutil.copytree("checkpoints", target, dirs_exist_ok=True)


setup(cmdclass={"build_py": WithNetworks})
