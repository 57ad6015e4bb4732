# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with another VM stops no work on this one, unless it may need its images."""

from __future__ import annotations

import libvirt
import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import other_vms, survey
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.facts import image_uses
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.observe import Host, observe
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    NotFound,
)
from lab import Lab


class Patient:
    """A domain one of whose calls fails."""

    def __init__(self, dom: libvirt.virDomain, **errors: Exception) -> None:
        self._dom, self._errors = dom, errors

    def __getattr__(self, name: str) -> object:
        if name in self._errors:

            def fail(*_args: object) -> None:
                raise self._errors[name]

            return fail
        return getattr(self._dom, name)


class Seen:
    """A connection that has one domain in place of another."""

    def __init__(self, conn: libvirt.virConnect, patient: Patient) -> None:
        self._conn, self._patient = conn, patient

    def listAllDomains(self, flags: int) -> list[object]:
        name = self._patient.name()
        others = [dom for dom in self._conn.listAllDomains(flags) if dom.name() != name]
        return [*others, self._patient]

    def __getattr__(self, name: str) -> object:
        return getattr(self._conn, name)


def test_other_vms(lab_session: Lab, make_vm, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    make_vm("other", disks=1, running=False)
    mine = make_vm("mine", disks=1, running=False)
    conn = lab_session.connection
    dom, other = conn.lookupByName("mine"), conn.lookupByName("other")
    image = lab_session.vms["other"].disks["vda"].path
    host = Host(conn, lab_session.uri, str(tmp_path), 10, 10, "test")
    vm = observe(host, dom)

    def uses(patient: Patient | None = None) -> list[tuple[str, bool]]:
        seen = Host(Seen(conn, patient), lab_session.uri, str(tmp_path), 10, 10, "test")
        found = image_uses(seen if patient else host, vm, [image])
        return sorted({(use.user, use.writes) for use in found})

    assert uses() == [("disk vda of VM other", True)]
    assert uses(Patient(other, XMLDesc=NotFound("gone"))) == []
    with pytest.raises(Conflict, match="VM other cannot be looked at"):
        uses(Patient(other, XMLDesc=KeyError("x")))

    def parse(_text: str) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(other_vms, "parse_domain", parse)
    assert uses() == [("VM other", True)]
    assert image_uses(host, vm, [mine.disks["vda"].path]) == ()
    found = {
        one.definition.name: one.trouble
        for one in survey.residents(Seen(conn, Patient(other, XMLDesc=KeyError("x"))))
    }
    assert found["mine"] == "" and "VM other: KeyError" in found["other"]
