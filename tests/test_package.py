"""What holds for the package as a whole: its modules are few and short, lie in one direction and are told apart."""

import ast
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import interaction_monitor

ROOT = Path(interaction_monitor.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
MOST_MODULES = 96
# Of several modules at once: whole runs, all devices and processes, the examples, the documentation, this file.
OF_NO_ONE_MODULE = (
    "test_devices.py",
    "test_docs.py",
    "test_examples.py",
    "test_fuzz.py",
    "test_gallery.py",
    "test_package.py",
    "test_published_layouts.py",
    "test_real_data.py",
    "test_runs_with_references.py",
    "test_sharded.py",
    "test_undisturbed.py",
    "test_ways.py",
)
ARCHITECTURE = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, known):
    """Give the package's modules that a module imports when it is loaded, or for its types."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for part in node.body if isinstance(node, ast.If) else [node]:
            if isinstance(part, ast.ImportFrom) and part.module and part.module.startswith(ROOT.name):
                names = {f"{part.module}.{alias.name}" for alias in part.names}
                yield from (names & known) or {part.module}


def test_version_is_stated():
    assert interaction_monitor.__version__.count(".") == 2


def test_no_two_modules_have_one_name():
    names = Counter(path.stem for path in MODULES if path.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_module_imports_one_that_imports_it():
    known = {name_of(path) for path in MODULES}
    # What the package itself offers is imported by name when it is asked for.
    graph = {
        name_of(path): set(imported(path, known)) for path in MODULES if path.parent != ROOT or path.stem != "__init__"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_modules_are_few_and_short():
    assert len(MODULES) <= MOST_MODULES
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES
    }
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_each_file_of_tests_is_named_by_its_module():
    tests = Path(__file__).parent
    without = set()
    for path in tests.rglob("test_*.py"):
        folder = ROOT / path.parent.relative_to(tests)
        name = path.stem.removeprefix("test_")
        # The tests of a folder's own `__init__` bear the folder's name.
        if not (folder / f"{name}.py").exists() and (path.parent == tests or folder.name != name):
            without.add(path.relative_to(tests).as_posix())
    assert without == set(OF_NO_ONE_MODULE)


def test_each_exception_from_a_check_has_its_reason_beside_it():
    without = [
        f"{path.relative_to(ROOT.parent)}:{number}"
        for folder in ("interaction_monitor", "tests", "benchmarks", "examples", "gallery")
        for path in (ROOT.parent / folder).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"# (noqa|type: ignore|pragma)\b(?!.*  # \w)", line)
    ]
    assert without == []


def test_the_page_on_the_code_names_every_folder_and_every_public_module_at_the_top():
    folders = {f"{path.parent.name}/" for path in MODULES if path.parent.parent == ROOT}
    files = {path.name for path in MODULES if path.parent == ROOT and not path.name.startswith("_")}
    assert {name for name in folders | files if f"`{name}`" not in ARCHITECTURE} == set()


def test_the_page_on_the_code_names_no_file_that_is_not_there():
    named = set(re.findall(r"`([\w/]+\.(?:py|jinja|html\.jinja))`", ARCHITECTURE))
    assert named > {"losses.py", "theory/fit.py"}
    bases = (ROOT, ROOT.parent, ROOT / "players")
    assert {name for name in named if not any((base / name).exists() for base in bases)} == set()
