# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps survive the journal, and are shown without what is empty."""

from __future__ import annotations

import dataclasses
import json
from typing import get_args

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    SnapshotDisk,
    SnapshotSpec,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CommitDisk,
    Plan,
    RemoveFile,
    Step,
    TakeSnapshot,
    from_dict,
    shown,
    to_dict,
)
from hypothesis import given
from hypothesis import strategies as st

# A kind that is added later is tested without being named here.
KINDS = get_args(Step)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.step)
@given(data=st.data())
def test_each_kind_survives_the_journal(kind, data):
    step = data.draw(st.builds(kind))
    again = from_dict(json.loads(json.dumps(to_dict(step))))
    assert again == step and isinstance(again, kind)
    assert hash(again) == hash(step)
    assert to_dict(step)["step"] == kind.step


def test_the_names_that_playbooks_and_old_journals_rely_on():
    assert {kind.step for kind in KINDS} >= {
        "create_overlay", "take_snapshot", "commit", "set_source", "forget_snapshot",
        "rewrite_snapshot", "delete_internal", "remove_file", "resume_vm",
    }  # fmt: skip


def test_kinds_have_names_of_their_own_and_cannot_be_changed():
    assert len({kind.step for kind in KINDS}) == len(KINDS) > 8
    for kind in KINDS:
        assert kind.__dataclass_params__.frozen
        assert "step" not in {field.name for field in dataclasses.fields(kind)}


def test_an_unknown_kind_is_no_step():
    with pytest.raises(KeyError):
        from_dict({"step": "format_everything"})


def test_a_commit_is_shown_without_what_is_empty():
    step = CommitDisk("vda", "/b", "qcow2", "/t", "qcow2", ("/t",), "active", bytes=5)
    assert shown("db", step) == {
        "vm": "db",
        "step": "commit",
        "target": "vda",
        "base": "/b",
        "base_format": "qcow2",
        "top": "/t",
        "top_format": "qcow2",
        "merged": ("/t",),
        "how": "active",
        "bytes": 5,
    }
    assert step.pivot_mark == "pivot vda"


def test_a_snapshot_is_shown_by_what_a_person_asks():
    disks = (SnapshotDisk("vda", "external", "/o", "qcow2"), SnapshotDisk("sda", "no"))
    spec = SnapshotSpec("s1", "for the update", "external", disks, "/m")
    assert shown("db", TakeSnapshot(spec, ("atomic",), "preferred", 10)) == {
        "vm": "db",
        "step": "take_snapshot",
        "flags": ("atomic",),
        "quiesce": "preferred",
        "freeze_timeout": 10,
        "name": "s1",
        "mode": "external",
        "memory_file": "/m",
        "disks": ["vda"],
    }


def test_no_memory_is_not_shown():
    spec = SnapshotSpec("s1", "", "internal", ())
    assert shown("db", TakeSnapshot(spec, (), "never", 10)) == {
        "vm": "db",
        "step": "take_snapshot",
        "quiesce": "never",
        "freeze_timeout": 10,
        "name": "s1",
        "mode": "internal",
    }


def test_an_empty_plan_has_neither_steps_nor_notes():
    assert (Plan("db").steps, Plan("db").notes) == ((), ())
    assert shown("db", RemoveFile("/f", "")) == {"vm": "db", "step": "remove_file", "file": "/f"}
