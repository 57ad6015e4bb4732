# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a VM: definition, chains, snapshots, journal. Never changes anything.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import uuid as uuid_module
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable

from .._model.domain import Definition, Disk, parse_domain
from .._model.fault import as_problem
from .._model.image import Image
from .._model.names import check_vm_name, meant
from .._model.problem import Denied, NotFound, Problem
from .._model.snapshot import Snapshot, oldest_first, parse_snapshot
from .._model.state import OFF, DiskState, VmState
from .._model.storage import UNSEEN, StorageState
from .._model.storage_steps import is_about_storage
from .birth import seen_late
from .connection import NO_DOMAIN, call, code_of, problem_of
from .dropped import read_dropped
from .files import is_gone
from .hold import read_freeze
from .image_file import is_unwritten, read_chain
from .image_stamp import read_seen
from .journal import read_journal
from .libvirt_dep import libvirt
from .save_file import unfit_memory
from .stamp_record import outdated, read_stamps
from .virtiofs import without_idle_bars

if TYPE_CHECKING:
    from .libvirt_dep import Connection, Domain

_STATUS = {
    1: "running", 2: "blocked", 3: "paused", 4: "shutting down",
    5: "shutoff", 6: "crashed", 7: "suspended",
}  # fmt: skip


@dataclass(frozen=True)
class Host:
    """The hypervisor of one run: its connection and where the run keeps its state.

    ``timeout`` is the deadline of each long operation in seconds, ``lock_timeout`` how long to
    wait for another run; ``run`` names this run in locks and journals. ``storage`` is whether
    what is below the images matters to it. ``also`` adds to what is
    observed of a VM what the plans of this run want to know besides.
    """

    conn: Connection
    uri: str
    state_dir: str
    timeout: float
    lock_timeout: float
    run: str
    storage: bool = False
    also: Callable[[Host, Domain, VmState], VmState] | None = None

    def reached_by(self, conn: Connection) -> Host:
        """The same by a new connection."""
        return replace(self, conn=conn)


def call_roll(host: Host) -> dict[str, str]:
    """uuid -> state of every VM, by one call."""
    flags = libvirt.VIR_DOMAIN_STATS_STATE
    stats = call("listing the VMs", host.conn.getAllDomainStats, flags, 0)
    return {dom.UUIDString(): _STATUS.get(values.get("state.state"), "") for dom, values in stats}


def look_up(host: Host, names: Sequence[str]) -> dict[str, Any]:
    """name as it is meant -> domain or the Problem that kept us from it; one call for all."""
    domains = call("listing the VMs", host.conn.listAllDomains, 0)
    by_name = {domain.name(): domain for domain in domains}
    found: dict[str, Any] = {}
    for name in (meant(given, by_name) for given in names):
        try:
            found[name] = _find(host, name, by_name)
        except Exception as error:
            found[name] = as_problem(error, f"VM {name}")
    return found


def name_of(host: Host, uuid: str) -> str:
    """What a VM is called, '' where libvirt has none with this UUID."""
    try:
        return str(call(f"looking up VM {uuid}", host.conn.lookupByUUIDString, uuid).name())
    except NotFound:
        return ""


def _find(host: Host, name: str, by_name: dict[str, Domain]) -> Any:
    if name in by_name:
        return by_name[name]
    check_vm_name(name)
    try:
        return host.conn.lookupByUUIDString(str(uuid_module.UUID(name)))
    except ValueError:
        pass
    except libvirt.libvirtError as error:
        if code_of(error) != NO_DOMAIN:
            return problem_of(error, f"looking up VM {name}")
    known = ", ".join(sorted(by_name)[:20]) or "(none)"
    return NotFound(
        f"there is no VM {name} at {host.uri}",
        wanted=f"one of: {known}",
        todo="correct the option 'vm' ('virsh list --all' shows the names)",
    )


def observe(host: Host, dom: Domain) -> VmState:
    """Read one VM afresh. A disk whose chain cannot be read says so in its ``trouble``."""
    doing = f"reading VM {dom.name()}"
    live = without_idle_bars(parse_domain(call(doing, dom.XMLDesc, 0)))
    inactive: Definition | None = live if call(doing, dom.isPersistent) else None
    if inactive and live.active:
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE
        inactive = parse_domain(call(doing, dom.XMLDesc, flags))
    status = _STATUS.get(call(doing, dom.state)[0], "")
    vm = _state(host, live, inactive, status, read_snapshots(dom))
    return _more(host, dom, replace(vm, config=inactive))


def glance(host: Host, dom: Domain, status: str) -> VmState:
    """As much of a VM as tells whether there is something to do, by the fewest calls.

    What persistent definitions name, all devices but disks, and which snapshot is current are
    left out, so a plan that is to be shown or applied has to be made from :func:`observe`.
    """
    live = parse_domain(call(f"reading VM {dom.name()}", dom.XMLDesc, 0), brief=True)
    snapshots = tuple(parse_snapshot(xml, brief=True) for _name, xml in _snapshots(dom))
    return _more(host, dom, _state(host, live, None, status, snapshots))


def with_stacks(dom: Domain, vm: VmState) -> VmState:
    """A VM that was glanced at, with what its inactive definition tells of snapshots before."""
    doing = f"reading VM {vm.name}"
    if vm.persistent or not call(doing, dom.isPersistent):
        return vm
    xml = call(doing, dom.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE)
    twins = {twin.target: twin for twin in parse_domain(xml, brief=True).disks}
    disks = [
        replace(disk, stacked=twins[disk.target].stacked) if disk.target in twins else disk
        for disk in vm.disks
    ]
    return replace(vm, disks=tuple(disks))


def _more(host: Host, dom: Domain, vm: VmState) -> VmState:
    return host.also(host, dom, vm) if host.also else vm


def _state(
    host: Host,
    live: Definition,
    inactive: Definition | None,
    status: str,
    snapshots: tuple[Snapshot, ...],
) -> VmState:
    disks = tuple(_disk_state(disk, inactive, off=status == OFF) for disk in live.disks)
    journal = read_journal(host.state_dir, live.uuid)
    dropped = read_dropped(host.state_dir, live, {snapshot.name for snapshot in snapshots})
    record = read_stamps(host.state_dir, live.uuid)
    snapshots, dropped = record.on(snapshots), record.on(dropped)
    recorded = _recorded((*snapshots, *dropped))
    vm = VmState(
        name=live.name,
        uuid=live.uuid,
        status=status,
        persistent=inactive is not None,
        live=live,
        disks=disks,
        snapshots=oldest_first(snapshots),
        missing=frozenset(path for path in recorded if path and is_gone(path)),
        journal=journal,
        storage=_storage(host, live, disks, journal),
        freeze=read_freeze(host.state_dir, live.uuid, live.number),
        dropped=dropped,
        unfit=tuple(_unfit(live.uuid, snapshots)),
        numbered=frozenset(_numbered(snapshots)),
    )
    vm = replace(vm, branches=_branches(vm))
    stale = outdated(journal, record)
    return replace(vm, seen=(*read_seen(snapshots, stale), *seen_late(vm, stale)))


def _numbered(snapshots: Iterable[Snapshot]) -> Iterator[str]:
    """Only of other tools' snapshots nobody records what going back to them has left."""
    made = (file for found in snapshots if not found.ours for file in found.overlays.values())
    for folder in {posixpath.dirname(file) for file in made}:
        with contextlib.suppress(OSError):
            yield from (posixpath.join(folder, n) for n in os.listdir(folder) if ".r" in n)


def _unfit(uuid: str, snapshots: Iterable[Snapshot]) -> Iterator[tuple[str, str]]:
    for path in dict.fromkeys(found.memory_file for found in snapshots if found.memory_file):
        trouble = unfit_memory(uuid, path)
        if trouble:
            yield path, trouble


def _storage(
    host: Host, live: Definition, disks: Sequence[DiskState], journal: dict[str, Any] | None
) -> StorageState:
    """What is below the images, where this run or a dead one is about that."""
    if not host.storage and not is_about_storage(journal):
        return UNSEEN
    # Only few runs need what can read it.
    from .storage_state import read_storage

    return read_storage(host.state_dir, (live.uuid, live.name), disks, journal)


def _branches(vm: VmState) -> tuple[tuple[Image, ...], ...]:
    """The chains that snapshots go back to, as far as no disk stands on them.

    And those of disks that a snapshot had left out and that the VM has no more.
    """
    found: list[tuple[Image, ...]] = []
    for snapshot in vm.snapshots:
        for disk in snapshot.before.disks if snapshot.before else ():
            path = disk.path
            known = vm.chain_of(path) or any(path == chain[0].filename for chain in found)
            if disk.writable and path and not known and path not in vm.missing:
                with contextlib.suppress(Problem):
                    found.append(read_chain(path, format=disk.format))
    return tuple(found)


def read_snapshots(dom: Domain) -> tuple[Snapshot, ...]:
    """All snapshots of a domain; one of them is current, but for odd cases."""
    try:
        found = call(f"reading the snapshots of VM {dom.name()}", dom.snapshotCurrent, 0)
        current = found.getName()
    except NotFound:
        current = ""
    return tuple(parse_snapshot(xml, current=name == current) for name, xml in _snapshots(dom))


def _snapshots(dom: Domain) -> Iterator[tuple[str, str]]:
    """The name and the XML of each snapshot."""
    doing = f"reading the snapshots of VM {dom.name()}"
    for found in call(doing, dom.listAllSnapshots, 0):
        yield found.getName(), call(doing, found.getXMLDesc, 0)


def _disk_state(disk: Disk, inactive: Definition | None, *, off: bool) -> DiskState:
    twin = inactive.disk(disk.target) if inactive else None
    persistent = twin.path if twin else ""
    recorded = twin.recorded if twin else ()
    if not disk.source or not disk.source.local:
        return DiskState(disk, (), persistent, recorded, _no_chain(disk))
    try:
        chain = read_chain(disk.path, format=disk.format)
    except Problem as problem:
        todo = problem.todo if isinstance(problem, Denied) else ""
        return DiskState(disk, (), persistent, recorded, problem.found, denied=todo)
    unwritten = off and len(chain) > 1 and is_unwritten(chain[0])
    stacked = twin.stacked if twin else ()
    return DiskState(disk, chain, persistent, recorded, unwritten=unwritten, stacked=stacked)


def _no_chain(disk: Disk) -> str:
    if disk.source is None:
        return "it has no source"
    return f"its source is {disk.source}, which is not a file or block device of this host"


def _recorded(snapshots: Iterable[Snapshot]) -> Iterable[str]:
    for snapshot in snapshots:
        yield from snapshot.made
        for definition in (snapshot.before, snapshot.later):
            yield from (disk.path for disk in (definition.disks if definition else ()) if disk.path)
        yield from (stamp.image for stamp in snapshot.stamps)
        if snapshot.memory_file:
            yield snapshot.memory_file
