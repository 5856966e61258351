"""The stories of `data/` go into the wheel as `tinygpt/stories`; everything else about the package is in setup.cfg."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithStories(build_py):
    """A clone, and so an editable install, reads `data/` itself; an installed package has its own copy."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "tinygpt" / "stories"
        self.mkpath(str(target))
        for story in sorted(Path("data").glob("*.txt")):
            self.copy_file(str(story), str(target / story.name), preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        folder = Path(self.build_lib) / "tinygpt" / "stories"
        stories = [] if self.editable_mode else [str(folder / story.name) for story in Path("data").glob("*.txt")]
        return [*super().get_outputs(include_bytecode), *stories]


setup(cmdclass={"build_py": BuildWithStories})
