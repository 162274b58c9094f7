"""The exact versions of the product and of the examples, which one environment has together."""

import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setup_support import ROOT


def pinned(path: str) -> dict[str, str]:
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {canonicalize_name(name): version for name, version in pairs}


def test_what_both_files_name_has_one_version() -> None:
    product, examples = pinned("constraints.txt"), pinned("examples/constraints.txt")
    assert {
        name: (product[name], examples[name]) for name in product.keys() & examples if product[name] != examples[name]
    } == {}


def test_all_that_an_example_needs_is_pinned_beside_it() -> None:
    """So that a folder that was copied out installs what was tested here."""
    project = tomllib.loads((ROOT / "examples/pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    missing = {canonicalize_name(Requirement(one).name) for one in needed} - pinned("examples/constraints.txt").keys()
    assert missing == set()
