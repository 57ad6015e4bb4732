# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each role says the same in its argument specs, its defaults and its README."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.common import ROOT

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def read(role: str, name: str) -> Any:
    return yaml.safe_load((ROOT / "roles" / role / name).read_text())


def options(role: str) -> dict[str, Any]:
    return dict(read(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"])


@pytest.mark.parametrize("role", ROLES)
def test_options_have_the_prefix_of_the_role_and_a_default(role: str) -> None:
    assert all(name.startswith(f"{role}_") for name in options(role))
    required = {name for name, option in options(role).items() if option.get("required")}
    assert set(options(role)) - required == set(read(role, "defaults/main.yml"))


@pytest.mark.parametrize("role", ROLES)
def test_specified_defaults_are_the_real_ones(role: str) -> None:
    real = read(role, "defaults/main.yml")
    for name, option in options(role).items():
        if "default" in option:
            assert real[name] == option["default"], name


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_lists_every_option_with_its_default(role: str) -> None:
    page = (ROOT / "roles" / role / "README.md").read_text()
    table = dict(re.findall(rf"^\| `({role}_\w+)` \| (.*?) \|", page, re.MULTILINE))
    assert set(table) == set(options(role))
    for name, option in options(role).items():
        if "default" in option:
            assert table[name].strip("`") == shown(option["default"]), name


def shown(default: object) -> str:
    if default == "":
        return '""'
    return str(default).lower() if isinstance(default, bool) else str(default)


@pytest.mark.parametrize("role", ROLES)
def test_the_tags_of_the_readme_are_those_of_the_tasks(role: str) -> None:
    tasks = [path.read_text() for path in Path(ROOT / "roles" / role / "tasks").glob("*.yml")]
    used = {tag for text in tasks for tag in tags(yaml.safe_load(text))}
    page = (ROOT / "roles" / role / "README.md").read_text()
    assert used == set(re.findall(rf"^\| \w+ \| `({role}_\w+)` \|", page, re.MULTILINE))


def tags(tasks: list[dict[str, Any]]) -> Iterator[str]:
    """Those of tasks, and of the tasks in blocks."""
    for task in tasks:
        found = task.get("tags", [])
        yield from [found] if isinstance(found, str) else found
        yield from tags([*task.get("block", []), *task.get("always", [])])


PLAYBOOKS = {
    "consistent_checkpoint": "checkpoint",
    "chain_maintenance": "maintain_chains",
    "backup_rotation": "backup",
    "restore_drill": "restore_drill",
}


@pytest.mark.parametrize("role", PLAYBOOKS)
def test_the_playbook_of_a_role_can_set_every_option_and_has_its_defaults(role: str) -> None:
    play = yaml.safe_load((ROOT / f"playbooks/{PLAYBOOKS[role]}.yml").read_text())[0]
    given = play["roles"][0]["vars"]
    # a restore is what the playbook rollback is for
    assert set(given) == set(options(role)) - {"consistent_checkpoint_run_after"}
    real = read(role, "defaults/main.yml")
    for name, text in given.items():
        found = re.fullmatch(r"\{\{ vmkeep_\w+ \| default\((.*)\) \}\}", text)
        required = options(role)[name].get("required")
        assert found or (required and text == f"{{{{ vmkeep_{name[len(role) + 1 :]} }}}}"), name
        if found and "{{" not in str(real[name]):
            assert yaml.safe_load(found[1]) == real[name], name
