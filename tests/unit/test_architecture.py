# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The code keeps the rules of tools/architecture.py, and the rules see what breaks them.

The second half feeds each rule a tree that breaks it, so that a rule which sees nothing cannot
pass for one that is kept.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tools.architecture import (
    BELOW,
    FLOW,
    HERE,
    LICENSE_LINE,
    LONGEST_FILE,
    LONGEST_FUNCTION,
    PRIVATE_NOTE,
    RULES,
    Source,
    functions,
    sources,
)

ROOT = Path(__file__).resolve().parents[2]
MEDIAN_FUNCTION = 12


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps(rule: Callable[[Source], Iterator[str]]) -> None:
    found = [complaint for source in sources(ROOT / "plugins") for complaint in rule(source)]
    assert not found, "\n".join(found)


def test_there_is_code_in_every_layer() -> None:
    assert {source.layer for source in sources(ROOT / "plugins")} >= set(BELOW) - {FLOW}


def test_half_of_the_functions_are_short() -> None:
    lengths = [lines for source in sources(ROOT / "plugins") for _node, lines in functions(source)]
    assert statistics.median(lengths) <= MEDIAN_FUNCTION


def module_names() -> list[str]:
    return sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("[!_]*.py"))


def test_the_action_group_holds_the_modules_with_a_uri() -> None:
    groups = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())["action_groups"]
    assert groups["libvirt"] == [name for name in module_names() if name.startswith("vm_")]


@pytest.mark.parametrize("name", module_names())
def test_the_readme_names(name: str) -> None:
    assert f"`{name}`" in (ROOT / "README.md").read_text()


# --- the rules see what breaks them ---

GOOD = (
    f"{LICENSE_LINE}https://www.gnu.org/licenses/gpl-3.0.txt)\n"
    f'"""Example.\n\n{PRIVATE_NOTE}\n"""\n\nfrom __future__ import annotations\n'
)
LONG = "def f() -> None:\n" + "    g()\n" * LONGEST_FUNCTION


def complaints(plugins: Path, path: str, text: str) -> list[str]:
    (plugins / path).parent.mkdir(parents=True)
    (plugins / path).write_text(text)
    return [text for source in sources(plugins) for rule in RULES for text in rule(source)]


@pytest.mark.parametrize(
    ("path", "code", "expected"),
    [
        ("module_utils/_model/a.py", "from .._plan.b import c", "_model imports"),
        ("module_utils/_model/a.py", "from .. import _plan", "_model imports"),
        ("module_utils/_plan/a.py", "from .._host.b import c", "_plan imports"),
        ("module_utils/_plan/a.py", f"from {HERE}module_utils._host import b", "_plan imports"),
        ("module_utils/_plan/a.py", f"import {HERE}module_utils._host.b", "_plan imports"),
        ("module_utils/_host/a.py", "from .._plan.b import c", "_host imports"),
        ("module_utils/_host/a.py", "from .._run import run", "_host imports"),
        ("module_utils/_host/a.py", "def f():\n    from .._flow.b import c", "_host imports"),
        ("module_utils/_flow/a.py", "from .._run import run", "_flow imports"),
        ("module_utils/_run.py", "from ..modules.a import main", "_run imports"),
        ("modules/a.py", "from ..module_utils._host.b import c", "modules imports"),
        ("modules/a.py", "from .b import c", "modules imports"),
        ("module_utils/_other/a.py", "", "_other is no layer"),
        ("module_utils/_plan/a.py", "import libvirt", "_plan imports libvirt"),
        ("module_utils/_flow/a.py", "import libvirt_qemu", "_flow imports libvirt_qemu"),
        ("module_utils/_host/a.py", "import yaml", "_host imports yaml"),
        ("module_utils/_host/a.py", "from ansible.module_utils.basic import x", "imports ansible"),
        ("module_utils/_flow/a.py", "from subprocess import run", "_flow imports subprocess.run"),
        ("modules/a.py", "module.run_command([])", "programs are started in _host"),
        ("module_utils/_model/a.py", "import socket", "_model imports socket"),
        ("module_utils/_model/a.py", "import urllib.request", "_model imports urllib.request"),
        ("module_utils/_model/a.py", "from os import open", "_model imports os.open"),
        ("module_utils/_model/a.py", "import os\nos.open(x, 0)", "_model uses os.open"),
        ("module_utils/_plan/a.py", "import os\nos.path.exists(x)", "_plan uses os.path.exists"),
        ("module_utils/_plan/a.py", "posixpath.realpath(x)", "_plan uses os.path.realpath"),
        ("module_utils/_plan/a.py", "open(x)", "_plan calls open"),
        ("modules/a.py", "module.fail_json(msg=x)", "fail_json outside"),
        ("module_utils/_flow/a.py", "if module.check_mode:\n    pass", "check_mode outside"),
        ("module_utils/_host/a.py", LONG, "f has 41 lines"),
        ("module_utils/_host/a.py", "x = 1\n" * LONGEST_FILE, "308 lines"),
        ("module_utils/_model/a.py", "@dataclass(slots=True)\nclass A: ...", "slots"),
        ("module_utils/_model/a.py", "zip(x, y, strict=True)", "zip(strict=)"),
    ],
)
def test_a_rule_finds(tmp_path: Path, path: str, code: str, expected: str) -> None:
    found = complaints(tmp_path, path, f"{GOOD}{code}\n")
    assert len(found) == 1, found
    assert found[0].startswith(f"{path}:")
    assert expected in found[0]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("module_utils/_model/a.py", "import os.path\nfrom .b import c\nos.path.join(x, y)"),
        ("module_utils/_model/a.py", "import struct\nfrom urllib.parse import quote"),
        ("module_utils/_plan/a.py", "from .._model.b import c\nfrom .d import e"),
        ("module_utils/_host/a.py", "import libvirt, subprocess\nfrom .._model import b"),
        ("module_utils/_run.py", "from ._plan import b\nmodule.exit_json(changed=True)"),
        ("module_utils/_flow/a.py", "from .. import _plan\nfrom .._host.b import c"),
        ("modules/a.py", "from ..module_utils._run import run"),
        ("modules/a.py", "from ..module_utils._argspec import SOME_OPTIONS"),
        ("module_utils/_host/a.py", LONG.replace("    g()\n", "", 1)),
    ],
)
def test_good_code_passes(tmp_path: Path, path: str, code: str) -> None:
    assert complaints(tmp_path, path, f"{GOOD}{code}\n") == []


def test_a_file_without_header_is_found(tmp_path: Path) -> None:
    assert len(complaints(tmp_path, "module_utils/_host/a.py", "x = 1\n")) == 3


def test_syntax_of_a_newer_python_is_found(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError):
        complaints(tmp_path, "modules/a.py", f"{GOOD}match x:\n    case 1: pass\n")
