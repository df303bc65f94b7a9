"""What is installed is what is here, with the dependencies that it imports and no more."""

import re
import sys
import tomllib

from tests.architecture.source import FILES, ROOT, imported_by, module_name
from tests.architecture.test_imports import OPTIONAL

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}
NOT_IMPORTED = {"tensorboard": "the training logger needs it", "numpy": "PyAV's frames are arrays"}


def test_every_package_is_listed():
    here = {module_name(file) for file in FILES if file.name == "__init__.py"}
    assert sorted(here) == sorted(PROJECT["tool"]["setuptools"]["packages"])


def test_every_package_says_that_it_is_typed():
    for package in ("longlive_core", "longlive_models", "recipes", "longlive_cli"):
        assert (ROOT / package / "py.typed").is_file()


def test_dependencies_are_those_that_are_imported():
    declared = {re.split(r"[<>=\[; ]", line)[0] for line in PROJECT["project"]["dependencies"]}
    names = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared}
    used = {name.partition(".")[0] for file in FILES for name, _ in imported_by(file)}
    ours = {name for name in used if name.startswith("longlive_")}
    third = used - ours - set(sys.stdlib_module_names)
    brought = {"rich", "functorch"}  # by typer and torch
    assert third - names - OPTIONAL - brought == set()
    assert names - third - set(NOT_IMPORTED) == set()


def test_the_license_is_the_one_that_is_named():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
