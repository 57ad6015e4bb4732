# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that pages, playbooks and examples name are options of the modules, with such values."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import yaml
from tools.common import ROOT, files_of_the_checkout

PREFIX = "vmkeep.libvirt."
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))
PAGES = [
    name for name in files_of_the_checkout() if name.endswith(".md") and name != "CHANGELOG.md"
]
PLAYS = [
    name
    for name in files_of_the_checkout()
    if name.startswith(("playbooks/", "roles/", "extensions/")) and name.endswith(".yml")
]
BLOCK = re.compile(r"```ya?ml\n(.*?)```", re.DOTALL)
# Of Ansible, and of results, where a table speaks of them.
SAID = re.compile(r"`([a-z_]+): ([\w.:|-]+)`")
Options = dict[str, dict[str, Any]]


@cache
def spec(module: str) -> Options:
    """The argument spec of a module, with its aliases as options."""
    found: Options = {}

    class Seen(Exception):
        """Enough was seen."""

    def take(argument_spec: Options, **_rest: object) -> None:
        found.update(argument_spec)
        raise Seen

    code = import_module(f"ansible_collections.vmkeep.libvirt.plugins.modules.{module}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "AnsibleModule", take)
        with pytest.raises(Seen):
            code.main()
    aliases = {alias: told for told in found.values() for alias in told.get("aliases", ())}
    return {**found, **aliases}


def tasks(node: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """(module, options) of every task in a piece of YAML."""
    if isinstance(node, list):
        for each in node:
            yield from tasks(each)
    elif isinstance(node, dict):
        for key, value in node.items():
            module = str(key).removeprefix(PREFIX)
            if str(key).startswith(PREFIX) and module in MODULES and isinstance(value, dict):
                yield module, value
            yield from tasks(value)


def complaints(text: str) -> list[str]:
    found = []
    for module, given in tasks(yaml.safe_load(text)):
        known = spec(module)
        for option, value in given.items():
            choices = known.get(option, {}).get("choices")
            if option not in known:
                found.append(f"{module} has no option {option}")
            elif choices and "{{" not in str(value) and value not in choices:
                found.append(f"{module}: {option} is none of {choices}: {value}")
    return found


def constant(module: str, name: str) -> str:
    """A text of a module, such as EXAMPLES."""
    tree = ast.parse((ROOT / f"plugins/modules/{module}.py").read_text())
    [text] = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == name
    ]
    return text


@pytest.mark.parametrize("page", PAGES)
def test_examples_on_pages(page: str) -> None:
    for block in BLOCK.findall((ROOT / page).read_text()):
        assert complaints(block) == []


@pytest.mark.parametrize("play", PLAYS)
def test_playbooks_and_roles(play: str) -> None:
    class Loader(yaml.SafeLoader):
        """Ansible's own tags are values like others."""

    Loader.add_multi_constructor("!", lambda *_args: "{{ tagged }}")
    assert complaints(yaml.dump(yaml.load((ROOT / play).read_text(), Loader))) == []  # noqa: S506


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_modules(module: str) -> None:
    assert complaints(constant(module, "EXAMPLES")) == []


def test_what_the_readme_says_in_passing() -> None:
    """`option: value` and `option` in a row of the table that names modules."""
    rows = [row for row in (ROOT / "README.md").read_text().splitlines() if row.startswith("| ")]
    wrong = []
    for row in rows:
        named = [module for module in re.findall(r"`(\w+)`", row) if module in MODULES]
        for option, value in SAID.findall(row) if named else ():
            fitting = [told for module in named if (told := spec(module).get(option)) is not None]
            if not any(value in told.get("choices", [value]) for told in fitting):
                wrong.append(f"{option}: {value} of {named}")
    assert wrong == []


def test_words_beside_modules_in_the_readme_are_theirs() -> None:
    """In "module with `word`" it is an option or a result of that module, or a value of one."""
    text = (ROOT / "README.md").read_text()
    table = text.partition("## From virsh")[2].partition("\n## ")[0]
    values = {value for module in MODULES for value in choices(module)}
    wrong = []
    for cells in (row.split("|") for row in table.splitlines() if row.count("|") > 3):
        words = re.findall(r"`(\w+)`", cells[2])
        named = [word for word in words if word in MODULES]
        known = {name for module in named for name in (*spec(module), *returned(module))}
        wrong += [word for word in words if named and word not in {*known, *values, *MODULES}]
    assert wrong == []


def choices(module: str) -> set[str]:
    return {str(value) for told in spec(module).values() for value in told.get("choices", ())}


def returned(module: str) -> set[str]:
    """All keys that a module returns, at any depth."""
    return set(_keys(yaml.safe_load(constant(module, "RETURN"))))


def _keys(told: dict[str, Any]) -> Iterator[str]:
    for key, value in told.items():
        yield key
        yield from _keys(value.get("contains", {}))


@pytest.mark.parametrize("module", MODULES)
def test_a_traceback_of_an_entry_is_documented(module: str) -> None:
    found = yaml.safe_load(constant(module, "RETURN"))
    entry = {**found.get("vms", {}), **found.get("images", {})}.get("contains", {})
    if {"msg", "error"} & entry.keys():
        assert entry["exception"]["returned"] == "when it failed for such a fault"
    else:
        assert module == "hypervisor_info"
