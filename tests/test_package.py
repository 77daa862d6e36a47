"""What holds for the package as a whole: its modules are told apart."""

from collections import Counter
from pathlib import Path

import interaction_monitor

ROOT = Path(interaction_monitor.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


def test_version_is_stated():
    assert interaction_monitor.__version__.count(".") == 2


def test_no_two_modules_have_one_name():
    names = Counter(path.stem for path in MODULES if path.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []
