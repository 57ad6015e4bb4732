# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible sends a module with every file that an import in it leads to, whether it runs or not.

Imports in functions count, and those for types only. Each file costs the controller time in every
task, so modules that only look go without what changes VMs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.architecture import Source, imports, sources

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
SOURCES = {source.path: source for source in sources(PLUGINS)}
LOOKING = [path for path in SOURCES if path.startswith("modules/") and path.endswith("_info.py")]
CHANGING = {
    f"module_utils/{path}.py"
    for path in ("_flow/change", "_flow/recovery", "_host/apply", "_plan/recover", "_operation")
}


def files_named(source: Source) -> set[str]:
    """The files that the imports of one file name, by their path below plugins/."""
    found: set[str] = set()
    for _node, name in imports(source):
        whole = name.lstrip(".").replace(".", "/")
        found.update(f"{path}.py" for path in (whole, whole.rpartition("/")[0]))
    return found & set(SOURCES)


def sent_with(module: str) -> set[str]:
    found, new = set(), {module}
    while new:
        found |= new
        new = set().union(*(files_named(SOURCES[path]) for path in new)) - found
    return found


def test_what_changes_vms_is_found_where_it_is() -> None:
    assert sent_with("modules/vm_snapshot.py") >= CHANGING


@pytest.mark.parametrize("module", LOOKING)
def test_what_only_looks_goes_without_what_changes(module: str) -> None:
    assert sent_with(module) & CHANGING == set()


def test_images_are_described_without_plans_and_without_libvirt() -> None:
    found = sent_with("modules/qcow2_info.py")
    assert "module_utils/_host/image_file.py" in found
    assert not {path for path in found if "/_plan/" in path or "/_flow/" in path}
    assert "module_utils/_host/libvirt_dep.py" not in found
