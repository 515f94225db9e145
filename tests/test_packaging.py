"""Our packages are named plainly (`schema`, `events`, …): nothing that is installed may claim the same names."""

import importlib
import re
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PROJECT["tool"]["uv"]["build-backend"]["module-name"]


@pytest.mark.parametrize("name", PACKAGES)
def test_no_installed_distribution_claims_the_name_of_a_package_of_ours(name: str) -> None:
    assert set(packages_distributions().get(name, [])) <= {"autovibe"}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_of_ours_is_imported_from_this_tree(name: str) -> None:
    assert importlib.import_module(name).__file__ == str(ROOT / name / "__init__.py")


def test_every_tool_looks_at_the_same_packages() -> None:
    assert PROJECT["tool"]["coverage"]["run"]["source"] == PACKAGES
    assert PROJECT["tool"]["importlinter"]["root_packages"] == PACKAGES
    assert set(PACKAGES) <= set(PROJECT["tool"]["pyright"]["include"])
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} <= {
        *PACKAGES,
        "bench",
        "docs",
        "tests",
        "tests_clis",
    }


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_a_lock_file_names_neither_a_host_nor_a_place_on_the_machine_that_made_it(path: Path) -> None:
    pins = [line for line in path.read_text().splitlines() if not line.startswith("    --hash=sha256:")]
    assert pins
    assert not [pin for pin in pins if "/" in pin or "@" in pin or "#" in pin]


def test_a_lock_file_has_what_the_project_asks_for() -> None:
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (ROOT / "requirements" / "bench.txt").read_text(), re.MULTILINE))
    groups: dict[str, list[str]] = PROJECT["dependency-groups"]
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    asked = [*PROJECT["project"]["dependencies"], *chain(*groups.values()), *chain(*extras.values())]
    wanted = [Requirement(line) for line in asked]
    assert not [str(want) for want in wanted if pins.get(want.name, "0") not in want.specifier], "remedy: make lock"


@pytest.mark.parametrize("name", ["agent", "dev", "run"])
def test_all_lock_files_agree_on_the_version_of_a_package(name: str) -> None:
    assert not _pins(name) - _pins("bench"), "remedy: make lock"


def test_the_agent_gets_none_of_the_services_dependencies() -> None:
    names = {pin.partition("==")[0] for pin in _pins("agent")}
    assert not names & {"aiohttp", "faststream", "psycopg", "starlette", "typer", "uvicorn"}
    assert "anthropic" in names, "the built-in agent speaks to its model by it, in the machine"


def _pins(lock: str) -> set[str]:
    """Each as `name==version`, without the platforms that it is for: they differ with who else asks for it."""
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines()
    return {line.split()[0] for line in lines if "==" in line}
