# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the engine of histories that need no machine: model, choice, text, shrinking."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from random import Random

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import CHECKPOINT
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.users import (
    removal_of,
    what_to_do_about,
)
from builders import snapshot, vm
from histories.__main__ import script, steps_of
from histories.actions import ACTIONS, Task
from histories.advice import advised
from histories.definition import CHOICES, edit, edits
from histories.faults import FAULTS, PLACE, Fault
from histories.judge import Fault as Found
from histories.ledger import ROOT, Entry, Ledger
from histories.model import MACHINES, OFF, RUNNING, SAVED, Model, Unfit
from histories.play import (
    MACHINE,
    Outcome,
    Step,
    Wanted,
    choose,
    possible,
    random_steps,
    read,
    written,
)
from histories.sample import missing, more, shares
from histories.shrink import shrink


def planned(seed: int, wanted: Wanted = ()) -> list[Step]:
    """A history as it would be if everything went as the model says."""
    model = Model()
    random = random_steps(seed, lambda: model, wanted)
    steps = [next(random)]
    model = Model.of(**steps[0][1])
    for name, params in random:
        ACTIONS[name].after(model, **params)
        steps.append((name, params))
    return steps


def act(model: Model, action: str, **params: object) -> None:
    ACTIONS[action].after(model, **params)


def test_a_seed_is_always_the_same_history_and_its_text_can_be_read_again():
    assert planned(7) == planned(7) != planned(8)
    for step in planned(7):
        assert read(written(step)) == step


def test_every_action_is_chosen_by_some_seed():
    chosen = {name for seed in range(400) for name, _params in planned(seed)}
    assert chosen == {MACHINE, *(name for name, each in ACTIONS.items() if each.weight)}


def test_a_point_is_what_was_there_then():
    model = Model()
    act(model, "write", places=["vda:1", "vdb:2"])
    act(model, "snapshot", name="s1", mode="external", memory=True)
    then = dict(model.disks)
    act(model, "write", places=["vda:1"])
    assert model.disks != then
    act(model, "cut the power")
    act(model, "go back", name="s1", run_after="unchanged")
    assert (model.disks, model.memory, model.power) == (then, 1, RUNNING)
    act(model, "go back", name="s1", run_after="shutoff")
    assert (model.disks, model.power) == (then, OFF)


def test_memory_goes_on_from_where_it_was_saved():
    model = Model()
    act(model, "write", places=["vda:1"])
    act(model, "save memory", file="m1")
    assert (model.power, model.saved_in) == (SAVED, "m1")
    with pytest.raises(Unfit):
        act(model.copy(), "let memory run")  # from where it is not
    booted = model.copy()
    act(booted, "start saved")
    assert (booted.power, booted.memory, set(booted.kept)) == (RUNNING, 0, {"m1"})
    act(model, "let memory run", file="m1")
    assert (model.power, model.memory, model.kept) == (RUNNING, 1, {})


def test_going_back_brings_the_definition_and_the_agent_of_then():
    model = Model()
    act(model, "virsh edit", what="memory", value="176")
    act(model, "the agent lies", how="may not thaw")
    act(model, "snapshot", name="s1", mode="external", memory=True)
    act(model, "mend the agent")
    act(model, "virsh edit", what="memory", value="192")
    act(model, "go back", name="s1", run_after="unchanged")
    assert (model.edits, model.liar) == ({"memory": "176"}, "may not thaw")
    act(model, "cut the power")
    assert model.honest


def test_what_is_edited_is_seen_and_nothing_else_changes():
    text = (
        "<domain><memory>163840</memory><os/><devices>"
        "<disk><driver name='qemu'/><target dev='vdb'/><serial>vdb</serial></disk>"
        "</devices></domain>"
    )
    root = ET.fromstring(text)
    first = edits(root)
    for what, choices in CHOICES.items():
        value = (*choices, "anything")[0]
        edit(root, what, value)
        first[what] = value
        assert edits(root) == first


def test_what_stands_on_a_point_that_goes_stands_on_its_parent():
    model = Model()
    for name in ("s1", "s2", "s3"):
        act(model, "snapshot", name=name, mode="external", memory=False)
    act(model, "remove", name="s2")
    assert model.points["s3"].parent == "s1" and model.below("s1") == ["s1", "s3"]
    act(model, "remove with all below", name="s1")
    assert model.points == {} and model.current is None


def test_a_storage_snapshot_brings_its_disks_back_and_no_point_may_be_lost():
    model = Model.of(disks=["vda", "vdb"], storage="xfs")
    act(model, "write", places=["vda:1", "vdb:1"])
    then = dict(model.disks)
    act(model, "storage snapshot", name="z1", backend="auto", of=["vdb"], place="")
    act(model, "write", places=["vda:2", "vdb:2"])
    since = model.disks["vda"]
    back = ACTIONS["go back to storage snapshot"]
    assert isinstance(back, Task) and back.certain(model, name="z1", of=[])
    with pytest.raises(Unfit):  # it is running
        act(model, "go back to storage snapshot", name="z1", of=[])
    act(model, "cut the power")
    act(model, "go back to storage snapshot", name="z1", of=[])
    assert model.disks == {"vda": since, "vdb": then["vdb"]}
    act(model, "snapshot", name="s1", mode="external", memory=False)
    assert not back.certain(model, name="z1", of=[])


def test_a_machine_that_cannot_be_had_is_another_one_and_says_so(monkeypatch):
    monkeypatch.setattr("histories.play.mount_trouble", lambda: "there is no loop device here")
    outcome = Outcome()
    machine = possible((MACHINE, {"disks": ["vda"], "storage": "xfs"}), outcome)
    assert machine == (MACHINE, {"disks": ["vda"]})
    assert outcome.lacking.startswith("NOT TESTED") and "no loop device" in outcome.lacking
    outcome = Outcome()
    assert possible((MACHINE, {"disks": ["vda"]}), outcome)[1] == {"disks": ["vda"]}
    assert outcome.lacking == ""


def test_what_cannot_be_is_left_out():
    model = Model()
    for name, params in (("resume", {}), ("remove", {"name": "s1"}), ("thaw", {})):
        with pytest.raises(Unfit):
            act(model, name, **params)


def test_a_history_is_made_as_short_as_it_can_be():
    tried = []

    def fails(steps: list[int]) -> bool:
        tried.append(len(steps))
        return {3, 11} <= set(steps)

    assert shrink(range(20), fails, seconds=60) == [3, 11]
    assert len(tried) < 80
    assert shrink([1], lambda _steps: True, seconds=60) == [1]
    assert shrink(range(20), fails, seconds=0) == list(range(20))


def test_what_was_good_is_remembered(tmp_path):
    ledger = Ledger(tmp_path / "histories" / "one.jsonl")
    assert ledger.good() == []
    good, bad = (Entry(seed, 20, 2, 30.0, fault) for seed, fault in ((1, ""), (2, "it is wrong")))
    for entry in (good, bad):
        ledger.add(entry)
    assert ledger.good() == [good]


def test_a_history_is_printed_as_a_program_that_plays_it():
    steps = planned(3)
    text = script(steps)
    assert text.startswith("bin/test histories --play /dev/stdin <<'END'\n")
    assert steps_of(text.splitlines()[1:-1]) == steps


@pytest.mark.parametrize(
    ("advice", "wanted"),
    [
        (removal_of(snapshot("s1")), ("remove", {"name": "s1"})),
        (
            removal_of(snapshot("c1", kind=CHECKPOINT)),
            ("remove checkpoint", {"name": "c1"}),
        ),
        (
            what_to_do_about(["image /vms/x.qcow2"], vm()),
            ("remove image", {"path": "/vms/x.qcow2"}),
        ),
        (
            "merge the overlays above it (vm_blockcommit with 'disks: [vda]' and 'base: /vms/b')",
            ("commit onto", {"target": "vda", "path": "/vms/b"}),
        ),
        (
            "delete it first (qcow2_snapshot with path /vms/x.qcow2, name i1, state absent)",
            ("delete inside", {"path": "/vms/x.qcow2", "name": "i1"}),
        ),
        ("switch the VM off first", ("cut the power", {})),
    ],
)
def test_advice_is_understood(advice: str, wanted: tuple):
    assert advised(advice, []) == [wanted]
    with pytest.raises(Found, match="no advice that is known"):
        advised("look at it", [])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_that_is_built_in_has_its_place(fault: Fault):
    text = (ROOT / PLACE / fault.file).read_text()
    assert text.count(fault.old) == 1 and fault.new != fault.old
    compile(text.replace(fault.old, fault.new), fault.file, "exec")


def test_the_sample_has_every_action_if_all_goes_as_the_model_says():
    played = [name for seed, wanted in shares() for name, _params in planned(seed, wanted)]
    assert missing(played) == []
    machines = [dict(planned(seed)[0][1]) for seed, _wanted in shares()]
    assert all(machine in machines for machine in MACHINES)


def test_what_has_not_come_is_asked_for_before_what_goes_with_it():
    """A neighbour uses up what it needs: without that, it came in none of three histories."""
    [(seed, (urgent, rest))] = more({"start saved"}, last=100)
    assert seed > 100 and urgent == ["start saved"] and "virsh managedsave-remove" in rest
    model = Model()
    act(model, "virsh managedsave")
    for n in range(50):
        name, _params = choose(Random(n), model, {"start saved": 1}, (urgent, rest))
        assert name == "start saved"


def test_what_is_rare_is_asked_for_where_it_can_be():
    asked = list(more({"start saved", "remove storage snapshot"}, last=100))
    for seed, (urgent, _rest) in asked:
        on_storage = bool(planned(seed)[0][1].get("storage"))
        assert on_storage == ("remove storage snapshot" in urgent)
