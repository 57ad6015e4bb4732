# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages, playbooks and modules say the same: links, variables, options, messages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from tools.common import ROOT, files_of_the_checkout

PAGES = [
    name for name in files_of_the_checkout() if name.endswith(".md") and name != "CHANGELOG.md"
]
PLAYBOOKS = {
    "snapshot": "vm_snapshot",
    "inspect": "vm_snapshot_info",
    "commit": "vm_blockcommit",
    "restore": "vm_restore",
}
ALL_PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
LINK = re.compile(r"\]\(([^)#]*)(#[^)]*)?\)")
# Set by a playbook for itself.
OWN = {
    "vmkeep_result",
    "vmkeep_with_memory",
    "vmkeep_found",
    # of patch_with_rollback
    *("vmkeep_places", "vmkeep_made", "vmkeep_age", "vmkeep_taken_up", "vmkeep_patching"),
    *("vmkeep_snapshots", "vmkeep_taken"),
    *("vmkeep_outcome", "vmkeep_why", "vmkeep_left", "vmkeep_lost"),
}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target, anchor in LINK.findall(text):
        if not target.startswith(("http", "mailto")):
            path = (ROOT / page).parent / target if target else ROOT / page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), f"{target}{anchor}"


def anchors(page: Path) -> set[str]:
    """The names by which the headings of a page are linked."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_lists_every_module() -> None:
    section = (ROOT / "README.md").read_text().partition("## Modules")[2].partition("##")[0]
    listed = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))


def test_every_test_that_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    table = text.partition("## From virsh")[2].partition("\n## ")[0]
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", table)
    rows = [row for row in table.splitlines() if row.startswith("| ") and "::" in row]
    assert len(named) > len(rows) > 20
    missing = [f"{file}::{name}" for file, name in named if name not in functions_of(file)]
    assert not missing
    modules = set(re.findall(r"`((?:vm|qcow2)_\w+)`", table))
    assert modules <= {path.stem for path in (ROOT / "plugins/modules").glob("*.py")}


def functions_of(file: str) -> set[str]:
    """The names of the tests in a file of the integration tests."""
    path = ROOT / "tests/integration" / file
    tree = ast.parse(path.read_text() if path.exists() else "")
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_every_option_of_the_module_can_be_set(playbook: str) -> None:
    assert passed(playbook) == options(PLAYBOOKS[playbook]) - unused(playbook)


def passed(playbook: str) -> set[str]:
    """The options that a playbook hands to its module, there or as a default of the group."""
    play = yaml.safe_load((ROOT / f"playbooks/{playbook}.yml").read_text())[0]
    task = play["tasks"][2]["block"][0]
    defaults = play["module_defaults"]["group/vmkeep.libvirt.libvirt"]
    return {*task[f"vmkeep.libvirt.{PLAYBOOKS[playbook]}"], *defaults}


def options(module: str) -> set[str]:
    documents = [ROOT / f"plugins/modules/{module}.py", ROOT / "plugins/doc_fragments/vm.py"]
    found: set[str] = set()
    for path in documents:
        for text in ast.walk(ast.parse(path.read_text())):
            if isinstance(text, ast.Constant) and "\noptions:\n" in str(text.value):
                found |= set(yaml.safe_load(str(text.value))["options"])
    return found


def unused(playbook: str) -> set[str]:
    """What the shared fragment has and this module has not, or what it has no use for."""
    if playbook == "snapshot":
        # The first two are of state: reverted, the last is for plays that change something next.
        return {"keep_current", "run_after", "prove_way_back"}
    quiesce = {"quiesce", "freeze_timeout", "flush", "flush_timeout"}
    return (
        quiesce
        if playbook in ("commit", "restore")
        else {*quiesce, "name", "timeout", "lock_timeout"}
    )


@pytest.mark.parametrize("playbook", ALL_PLAYBOOKS)
def test_variables_are_documented_where_they_are_used(playbook: str) -> None:
    text = (ROOT / f"playbooks/{playbook}.yml").read_text()
    head, play = text.split("\n- name:", 1)
    used = set(re.findall(r"\bvmkeep_\w+", play)) - OWN
    assert used == set(re.findall(r"\bvmkeep_\w+", head))
    assert used == {name for name, books in table().items() if {playbook, "all"} & books}


def test_no_variable_is_refused_that_a_playbook_knows() -> None:
    [task] = yaml.safe_load((ROOT / "playbooks/tasks/known_variables.yml").read_text())
    assert set(task["vars"]["known_names"].split()) == {*table()} | OWN


@pytest.mark.parametrize("playbook", ALL_PLAYBOOKS)
def test_mistyped_variables_are_refused_first(playbook: str) -> None:
    play = yaml.safe_load((ROOT / f"playbooks/{playbook}.yml").read_text())[0]
    first = [*play.get("pre_tasks", []), *play.get("tasks", [])][0]
    assert first["ansible.builtin.import_tasks"] == "tasks/known_variables.yml"


def table() -> dict[str, set[str]]:
    """variable -> the playbooks that playbooks/README.md names for it."""
    rows = re.findall(
        r"^\| (`vmkeep_.*?) \| (.*?) \|", (ROOT / "playbooks/README.md").read_text(), re.MULTILINE
    )
    return {
        name: set(books.split(", "))
        for names, books in rows
        for name in re.findall(r"vmkeep_\w+", names)
    }


def test_the_messages_that_are_explained_exist() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    explained = re.findall(r"^\| `(.*?)` \|", page.partition("\n## How")[0], re.MULTILINE)
    assert len(explained) > 20
    known = messages()
    for message in explained:
        for part in filter(None, (part.strip() for part in re.split(r"\.\.\.|\(.*?\)", message))):
            assert part in known, part


def messages() -> str:
    """Every text in the code, adjoining pieces put together, what is filled in left out."""
    found = []
    for path in (ROOT / "plugins/module_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                pieces = (piece.value for piece in node.values if isinstance(piece, ast.Constant))
                found.append("".join(map(str, pieces)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)
