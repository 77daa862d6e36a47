"""What holds for the package as a whole: its modules are told apart, and a page says where they lie."""

import re
from collections import Counter
from pathlib import Path

import interaction_monitor

ROOT = Path(interaction_monitor.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
ARCHITECTURE = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_version_is_stated():
    assert interaction_monitor.__version__.count(".") == 2


def test_no_two_modules_have_one_name():
    names = Counter(path.stem for path in MODULES if path.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []


def test_the_page_on_the_code_names_every_folder_and_every_public_module_at_the_top():
    folders = {f"{path.parent.name}/" for path in MODULES if path.parent.parent == ROOT}
    files = {path.name for path in MODULES if path.parent == ROOT and not path.name.startswith("_")}
    assert {name for name in folders | files if f"`{name}`" not in ARCHITECTURE} == set()


def test_the_page_on_the_code_names_no_file_that_is_not_there():
    named = set(re.findall(r"`([\w/]+\.(?:py|jinja|html\.jinja))`", ARCHITECTURE)) - {"cli/NAME_command.py"}
    assert named > {"losses.py", "theory/fit.py"}
    bases = (ROOT, ROOT.parent, ROOT / "players")
    assert {name for name in named if not any((base / name).exists() for base in bases)} == set()
