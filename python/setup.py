"""Puts libmoecheck.so into the package: the one of $MOECHECK_LIBRARY, or one that cmake builds from the checkout around."""
import os
import pathlib
import shutil
import subprocess

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

SOURCE = pathlib.Path(__file__).resolve().parent.parent
BUILD = SOURCE / "build" / "python"


def library():
    given = os.environ.get("MOECHECK_LIBRARY")
    if given:
        path = pathlib.Path(given)
        if not path.is_absolute():  # pip builds in the package's folder: relative to where pip was called
            path = pathlib.Path(os.environ.get("PWD", ".")) / path
        if not path.is_file():
            raise SystemExit(f"MOECHECK_LIBRARY={given}: there is no such file")
        return path
    if not (SOURCE / "CMakeLists.txt").is_file():
        raise SystemExit("moecheck is installed from its checkout (pip install ./python), or with MOECHECK_LIBRARY=libmoecheck.so")
    configure = ["cmake", "-S", str(SOURCE), "-B", str(BUILD), "-DCMAKE_BUILD_TYPE=Release", "-DMOECHECK_TESTS=OFF"]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", str(BUILD), "--target", "moecheck_shared", "--parallel"], check=True)
    return BUILD / "libmoecheck.so"


class Build(build_py):
    def run(self):
        super().run()
        target = pathlib.Path(self.build_lib) / "moecheck"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library(), target / "libmoecheck.so")


class Platform(Distribution):
    def has_ext_modules(self):  # the wheel is of this platform
        return True


setup(cmdclass={"build_py": Build}, distclass=Platform)
