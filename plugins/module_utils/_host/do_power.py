# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing the steps that switch a VM off or on, or let it go on from somewhere.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET

from .._model.domain import place_disks
from .._model.problem import Problem
from .._model.step import DefineAsOf, RestoreMemory, ResumeVm, RevertInternal, StartVm, StopVm
from .._model.xml_text import xml_root, xml_text
from .connection import call, call_within
from .freeze_guard import RESUMABLE
from .libvirt_dep import libvirt
from .snapshots import XML_SECURE
from .stop import stop_for_another_start
from .work import Work, do


@do.register
def _resume_vm(_step: ResumeVm, work: Work) -> None:
    """Only what such a run could have paused; a VM that hit an I/O error stays paused."""
    state, reason = call(f"reading VM {work.vm.name}", work.dom.state)
    if state == libvirt.VIR_DOMAIN_PAUSED and reason in RESUMABLE:
        call(f"VM {work.vm.name}: resuming it", work.dom.resume)


@do.register
def _stop_vm(_step: StopVm, work: Work) -> None:
    stop_for_another_start(work.dom, work.vm.name, work.host.timeout)


@do.register
def _start_vm(step: StartVm, work: Work) -> None:
    flags = libvirt.VIR_DOMAIN_START_PAUSED if step.paused else 0
    doing = f"VM {work.vm.name}: starting it"
    call_within(work.host.timeout, doing, work.dom.createWithFlags, flags)


@do.register
def _define_as_of(step: DefineAsOf, work: Work) -> None:
    """The definition of then, under the name that the VM has now."""
    doing = f"VM {work.vm.name}: defining it as of snapshot {step.snapshot}"
    found = call(doing, work.dom.snapshotLookupByName, step.snapshot, 0)
    root = xml_root(call(doing, found.getXMLDesc, XML_SECURE))
    inactive = root.find("inactiveDomain")
    then = root.find("domain") if inactive is None else inactive
    if then is None:
        raise Problem(
            f"libvirt has no definition of VM {work.vm.name} as of snapshot {step.snapshot}",
            wanted="the definition of then",
            todo="go back to another snapshot",
        )
    then.tag = "domain"
    _with_all(then, root.find("domain"), step)
    _defined(then, step.disks, work)
    generation = then.find("genid")
    if generation is not None:
        # So the guest knows that it was brought back; restored memory gets one from libvirt.
        generation.text = str(uuid.uuid4())
    call(doing, work.host.conn.defineXML, xml_text(then))


def _with_all(then: ET.Element, live: ET.Element | None, step: DefineAsOf) -> None:
    """Add the disks that the VM had then only as it ran; libvirt finds a place for each."""
    known = {node.get("dev") for node in then.iterfind("devices/disk/target")}
    wanted = {target for target, _image, _format in step.disks} - known
    for disk in live.iterfind("devices/disk") if live is not None and live is not then else ():
        target = disk.find("target")
        devices = then.find("devices")
        if target is not None and target.get("dev") in wanted and devices is not None:
            for node in (*disk.findall("address"), *disk.findall("alias")):
                disk.remove(node)
            devices.append(disk)


def _defined(domain: ET.Element, disks: tuple[tuple[str, str, str], ...], work: Work) -> None:
    domain.attrib.pop("id", None)
    name = domain.find("name")
    if name is not None:
        name.text = work.vm.name
    place_disks(domain, {target: (image, form) for target, image, form in disks})


@do.register
def _restore_memory(step: RestoreMemory, work: Work) -> None:
    doing = f"VM {work.vm.name}: letting it go on from {step.file}"
    xml = call(doing, work.host.conn.saveImageGetXMLDesc, step.file, XML_SECURE)
    domain = xml_root(xml)
    _defined(domain, step.disks, work)
    flags = libvirt.VIR_DOMAIN_SAVE_PAUSED if step.paused else libvirt.VIR_DOMAIN_SAVE_RUNNING
    restored = xml_text(domain)
    call_within(work.host.timeout, doing, work.host.conn.restoreFlags, step.file, restored, flags)


@do.register
def _revert_internal(step: RevertInternal, work: Work) -> None:
    doing = f"VM {work.vm.name}: going back to snapshot {step.name}"
    found = call(doing, work.dom.snapshotLookupByName, step.name, 0)
    active = call(f"reading VM {work.vm.name}", work.dom.isActive)
    work.journal.mark(step.mark(work.vm.live.number if active else ""))
    flags = {
        "running": libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING,
        "paused": libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED,
    }.get(step.status, 0)
    call_within(work.host.timeout, doing, work.dom.revertToSnapshot, found, flags)
