# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps survive the journal, and are shown without what is empty."""

from __future__ import annotations

import dataclasses
import json
from typing import get_args

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Conflict
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
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.version import VERSION
from hypothesis import given, settings
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


REMOVAL = {"step": "remove_file", "file": "/f", "why": ""}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"step": "format_everything"}, "'format_everything' is not known"),
        ({**REMOVAL, "shred": True}, "the field shred is not known"),
        ({"step": "remove_file"}, "some of its fields are missing"),
        ({**REMOVAL, "file": ["/f"]}, "in file"),
        ({**REMOVAL, "file": None}, "in file"),
        ({"file": "/f"}, "None is not known"),
        ({"step": ["remove_file"]}, "is not known"),
        ([], "None is not known"),
        ("remove_file", "None is not known"),
    ],
)
def test_a_step_of_another_version_is_a_conflict_that_names_this_one(data, said):
    with pytest.raises(Conflict) as caught:
        from_dict(data)
    assert said in caught.value.found and f"version {VERSION}" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.step)
@settings(max_examples=30)
@given(data=st.data())
def test_no_other_value_gets_into_a_step(kind, data):
    """Whatever is put in the place of one field, there is a step or a Conflict."""
    plain = json.loads(json.dumps(to_dict(data.draw(st.builds(kind)))))
    name = data.draw(st.sampled_from(sorted(plain)))
    plain[name] = data.draw(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        )
    )
    try:
        step = from_dict(plain)
    except Conflict:
        return
    assert isinstance(hash(step), int)
    if name != "step":
        assert json.loads(json.dumps(to_dict(step)))[name] == plain[name]


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


def test_a_journal_of_before_there_was_a_flush_is_understood():
    spec = SnapshotSpec("s1", "", "external", ())
    data = to_dict(TakeSnapshot(spec, (), "preferred", 10, flush_timeout=60))
    del data["flush_timeout"]
    assert from_dict(data) == TakeSnapshot(spec, (), "preferred", 10)
