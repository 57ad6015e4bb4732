# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names in lists and paths, as people write them."""

from __future__ import annotations

import inspect
from collections import defaultdict

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._argspec import (
    VM_OPTIONS,
    state_dir_for,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._checkpoint import checkpoint_operation
from ansible_collections.vmkeep.libvirt.plugins.module_utils._lists import with_plain_lists
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.names import meant, plain_path
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import BadInput
from ansible_collections.vmkeep.libvirt.plugins.module_utils._restore import restore_operation
from ansible_collections.vmkeep.libvirt.plugins.module_utils._snapshot import snapshot_operation
from ansible_collections.vmkeep.libvirt.plugins.module_utils._storage import storage_operation

SPEC = {
    **VM_OPTIONS,
    "disks": {"type": "list", "elements": "raw"},
    "command": {"type": "list", "elements": "str"},
}


def test_blanks_beside_commas_are_no_part_of_a_name() -> None:
    given = {"vm": ["db01", " app01", "a b "], "disks": [" vda", {"target": "vdb"}], "uri": " x"}
    given["command"] = ["echo", " x "]
    assert with_plain_lists(given, SPEC) == {
        "vm": ["db01", " app01", "a b "],
        "disks": ["vda", {"target": "vdb"}],
        "uri": " x",
        "command": ["echo", " x "],
    }
    assert with_plain_lists({"vm": [], "disks": None}, SPEC) == {"vm": [], "disks": None}


def test_a_vm_may_be_called_with_blanks_at_its_ends() -> None:
    """Another one, which is called so without them, must not be meant then."""
    assert [meant(name, ["db01", "db01 "]) for name in ("db01 ", " db01", "app01 ")] == [
        "db01 ",
        "db01",
        "app01",
    ]


@pytest.mark.parametrize("given", [["db01", ""], [" "], ["db01", " ", "app01"]])
def test_an_empty_name_is_refused(given: list[str]) -> None:
    with pytest.raises(BadInput, match="'vm' has an empty name as number"):
        with_plain_lists({"vm": given}, SPEC)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (None, ""), ("", ""), ("/", "/"), ("//", "/"), ("/./", "/"), ("/srv/", "/srv"),
        ("//srv//a/./b/", "/srv/a/b"), ("/srv/../x", "/srv/../x"), ("srv/", "srv/"),
    ],
)  # fmt: skip
def test_paths(given: str | None, plain: str) -> None:
    assert plain_path(given) == plain


@pytest.mark.parametrize("directory", ["images", "../images", ".", " /images", "/images\n"])
@pytest.mark.parametrize(
    ("operation", "state"),
    [
        (snapshot_operation, "present"),
        (snapshot_operation, "reverted"),
        (checkpoint_operation, "present"),
        (storage_operation, "present"),
        (restore_operation, None),
    ],
)
def test_a_directory_is_an_absolute_path_wherever_it_is_an_option(
    operation, state: str | None, directory: str
) -> None:
    """It would be one below where Ansible happens to run the module."""
    given = {"name": "s1", "state": state, "vm": ["db01"], "directory": directory}
    with pytest.raises(BadInput, match="the option 'directory' is"):
        operation(defaultdict(lambda: None, given))


def test_so_is_the_state_directory() -> None:
    with pytest.raises(BadInput, match="the option 'state_dir' is 'state'"):
        state_dir_for("state", "qemu:///system")


def test_the_root_directory_is_no_default() -> None:
    params = {
        "name": "c1", "state": "present", "vm": ["db01"], "directory": "/", "live": False,
        "run_after": None, "description": None, "consistent_group": False, "prove_way_back": False,
    }  # fmt: skip
    operation = checkpoint_operation(params)
    wish = inspect.getclosurevars(operation.plan).nonlocals["wish"]
    assert wish.directory == "/"
