# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hypervisor with one VM in two hundred lines, to hold plans against many histories.

An image is the set of numbered writes that it holds itself; what a disk shows is the union down
its chain. So it can be seen at any moment whether something that the guest wrote is lost, and
whether each snapshot still is what it was when it was taken. What a step does follows what
libvirt 9.0 was seen to do; the integration tests hold the same plans against the real one.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import (
    Definition,
    Disk,
    local_source,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image import Image
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    FILESYSTEM,
    Snapshot,
    SnapshotDisk,
    proven_consistency,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.state import (
    DirectoryFact,
    DiskState,
    Facts,
    FileFact,
    ImageUse,
    VmState,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.step import (
    CommitDisk,
    CreateOverlay,
    DefineAsOf,
    DeleteInternal,
    ForgetSnapshot,
    PullDisk,
    RemoveFile,
    RestoreMemory,
    ResumeVm,
    RevertInternal,
    RewriteSnapshot,
    SetSource,
    StartVm,
    Step,
    StopVm,
    TakeSnapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.vet import Needs
from builders import NAME, UUID, at, image

Content = frozenset[int]


class Broken(AssertionError):
    """Something was lost, or a step cannot be done."""


@dataclass
class Stored:
    """An image file: what it stands on, the writes in it, its internal snapshots."""

    backing: str = ""
    writes: Content = frozenset()
    inside: dict[str, Content] = field(default_factory=dict)


@dataclass
class World:
    """The files of a host and one VM: ``live`` and ``persistent`` map targets to disks."""

    files: dict[str, Stored]
    live: dict[str, Disk]
    persistent: dict[str, Disk]
    status: str = "running"
    snapshots: list[Snapshot] = field(default_factory=list)
    memory_files: set[str] = field(default_factory=set)
    written: dict[str, Content] = field(default_factory=dict)
    points: dict[str, dict[str, Content]] = field(default_factory=dict)
    clock: int = 100
    starts: int = 1

    # -- what there is -----------------------------------------------------------------------

    @classmethod
    def fresh(cls, targets: Iterable[str] = ("vda", "vdb")) -> World:
        disks = {name: _disk(name, at(name, "base")) for name in targets}
        files = {disk.path: Stored() for disk in disks.values()}
        return cls(files, disks, dict(disks), written=dict.fromkeys(disks, frozenset()))

    def copy(self) -> World:
        return copy.deepcopy(self)

    @property
    def off(self) -> bool:
        return self.status == "shutoff"

    def chain(self, path: str) -> list[str]:
        found = []
        while path:
            if path not in self.files or path in found:
                raise Broken(f"{path} is not there")
            found.append(path)
            path = self.files[path].backing
        return found

    def content(self, path: str) -> Content:
        return frozenset().union(*(self.files[name].writes for name in self.chain(path)))

    def exists(self, path: str) -> bool:
        return path in self.files or path in self.memory_files

    def holds_data(self, path: str) -> bool:
        return path in self.files and bool(self.files[path].writes)

    def observe(self) -> VmState:
        """What _host/observe.py would return."""
        named = [path for found in self.snapshots for path in found.made]
        named += [found.memory_file for found in self.snapshots if found.memory_file]
        named += [path for found in self.snapshots for path in found.points.values()]
        return VmState(
            NAME,
            UUID,
            self.status,
            bool(self.persistent),
            self._definition(),
            tuple(self._disk_state(target) for target in self.live),
            tuple(self.snapshots),
            frozenset(path for path in named if not self.exists(path)),
            branches=tuple(self._branches()),
        )

    def _branches(self) -> Iterator[tuple[Image, ...]]:
        chained = {path for disk in self.live.values() for path in self.chain(disk.path)}
        before = [found.before.disks for found in self.snapshots if found.before]
        for path in dict.fromkeys(disk.path for disks in before for disk in disks):
            if path in self.files and path not in chained:
                yield self._images(path)

    def _images(self, path: str) -> tuple[Image, ...]:
        return tuple(image(name, internal=self.files[name].inside) for name in self.chain(path))

    def _definition(self) -> Definition:
        number = "" if self.off else str(self.starts)
        disks = tuple(self.live.values())
        return Definition(NAME, UUID, not self.off, disks, "connected", number=number)

    def _disk_state(self, target: str) -> DiskState:
        disk, twin = self.live[target], self.persistent.get(target)
        persistent, recorded = (twin.path, twin.recorded) if twin else ("", ())
        images = self._images(disk.path)
        unwritten = self.off and len(images) > 1 and not self.files[disk.path].writes
        return DiskState(disk, images, persistent, recorded, unwritten=unwritten)

    def facts(self, needed: Needs) -> Facts:
        """What _host/facts.py would return: here all images stand beside each other."""
        kinds = {path: "file" if self.exists(path) else "" for path in needed.files}
        own = {path for disk in self.live.values() for path in self.chain(disk.path)}
        own.update(needed.removed)
        uses = [
            ImageUse(stored.backing, f"image {path}")
            for path, stored in self.files.items()
            if path not in own and stored.backing in needed.images
        ]
        return Facts(
            {path: FileFact(path, kind) for path, kind in kinds.items()},
            {path: DirectoryFact(path, 1 << 50) for path in needed.directories},
            tuple(uses),
            agent="thawed" if needed.agent else "",
        )

    # -- what must hold ----------------------------------------------------------------------

    def check(self, surviving: Mapping[str, Container[str]] | None = None) -> None:
        """Nothing written is lost, and snapshots are what they were: all, or these disks of them.

        Also in the middle of a plan, but for what does not survive it.
        """
        for target, disk in self.live.items():
            if self.content(disk.path) != self.written[target]:
                raise Broken(f"{target} lost writes")
            if self.persistent:
                self.chain(self.persistent[target].path)
        for name in [found.name for found in self.snapshots]:
            for target, content in self.points.get(name, {}).items():
                lives = surviving is None or target in surviving.get(name, ())
                if lives and self._point(name, target) != content:
                    raise Broken(f"snapshot {name} of {target} has changed")

    def _point(self, name: str, target: str) -> Content | None:
        """What a snapshot would bring back of a disk; None if it does not cover it any more."""
        found = next(snapshot for snapshot in self.snapshots if snapshot.name == name)
        modes = {disk.target: disk.mode for disk in found.disks}
        path = found.image_before(target)
        if modes[target] == "internal":
            return self.files[path].inside.get(name)
        return self.content(path) if modes[target] != "no" else self.points[name][target]

    def settle(self) -> None:
        """After something was done by hand: what does not hold now is nobody's promise."""
        for name, point in list(self.points.items()):
            if name not in {found.name for found in self.snapshots}:
                del self.points[name]
                continue
            for target, content in list(point.items()):
                try:
                    held = self._point(name, target) == content
                except (Broken, KeyError):
                    held = False
                if not held:
                    del point[target]

    # -- what happens ------------------------------------------------------------------------

    def write(self) -> None:
        """The guest writes to each disk, if it runs (also where somebody put it on a point)."""
        if self.status != "running":
            return
        for target, disk in self.live.items():
            self.clock += 1
            self.files[disk.path].writes |= {self.clock}
            self.written[target] |= {self.clock}
        self.settle()

    def power(self) -> None:
        """Off and on; what runs next is what the persistent definition says."""
        self.starts += self.off
        self.status = "running" if self.off else "shutoff"
        self.live = {target: self._started(disk) for target, disk in self.persistent.items()}
        for target, disk in self.live.items():
            self.written[target] = self.content(disk.path)

    def _started(self, disk: Disk) -> Disk:
        return disk if self.off else replace(disk, recorded=tuple(self.chain(disk.path)[1:]))

    def do(self, step: Step) -> None:
        """A step, entirely."""
        {
            CreateOverlay: self._create,
            TakeSnapshot: self._take,
            CommitDisk: self._commit,
            PullDisk: self._pull,
            SetSource: self._set_source,
            ForgetSnapshot: lambda step: self.forget(step.name),
            RewriteSnapshot: self._rewrite,
            DeleteInternal: self._delete_internal,
            RemoveFile: self._remove,
            ResumeVm: self._resume,
            StopVm: self._stop,
            StartVm: self._start,
            DefineAsOf: self._define_as_of,
            RestoreMemory: self._restore,
            RevertInternal: self._revert_internal,
        }[type(step)](step)

    def _resume(self, _step: ResumeVm) -> None:
        self.status = "running"

    def _stop(self, _step: StopVm) -> None:
        if not self.off:
            self.power()

    def _start(self, step: StartVm) -> None:
        if not self.off:
            raise Broken("it runs already")
        self.power()
        self.status = "paused" if step.paused else "running"

    def _define_as_of(self, step: DefineAsOf) -> None:
        if not self.off:
            raise Broken("it is not off")
        self.live = {target: _disk(target, path) for target, path, _format in step.disks}
        self.persistent = dict(self.live)
        for target, disk in self.live.items():
            self.written[target] = self.content(disk.path)

    def _revert_internal(self, step: RevertInternal) -> None:
        """The active images hold what they held then; what they stand on has not changed since."""
        (found,) = (found for found in self.snapshots if found.name == step.name)
        for entry in found.taken:
            path = self.live[entry.target].path
            if step.name not in self.files[path].inside:
                raise Broken(f"{path} does not hold {step.name}")
            self.files[path].writes = self.files[path].inside[step.name]
            self.written[entry.target] = self.content(path)
        self.status = step.status
        self.snapshots = [replace(s, current=s.name == step.name) for s in self.snapshots]

    def _restore(self, step: RestoreMemory) -> None:
        """Memory goes on only on disks that are just as it left them."""
        name = next(s.name for s in self.snapshots if s.memory_file == step.file)
        for target, path, _format in step.disks:
            point = self.points.get(name, {})
            if target in point and self.content(path) != point[target]:
                raise Broken(f"the memory of {name} meets another {target}")
        self._start(StartVm(step.paused))

    def _create(self, step: CreateOverlay) -> None:
        if self.exists(step.file) or step.backing not in self.files:
            raise Broken(f"{step.file} cannot be created")
        self.files[step.file] = Stored(step.backing)

    def _take(self, step: TakeSnapshot) -> None:
        self.begin_snapshot(step)
        self.record_snapshot(step)

    def begin_snapshot(self, step: TakeSnapshot) -> None:
        """The part after which libvirt still may fail: the overlays are switched to."""
        self._before = self._definition(), dict(self.written)
        if step.spec.memory_file:
            self.memory_files.add(step.spec.memory_file)
        for entry in step.spec.disks:
            disk = self.live[entry.target]
            if entry.mode == "external":
                if self.files[entry.file].backing != disk.path or self.files[entry.file].writes:
                    raise Broken(f"{entry.file} is no empty overlay of {disk.path}")
                self._switch(entry.target, entry.file)
            elif entry.mode == "internal":
                inside = self.files[disk.path].inside
                if step.spec.name in inside:
                    raise Broken(f"{disk.path} holds {step.spec.name} already")
                inside[step.spec.name] = self.content(disk.path)

    def _switch(self, target: str, path: str) -> None:
        """The live definition moves, and the persistent one if it named the same image."""
        old = self.live[target]
        moved = _disk(target, path, () if self.off else tuple(self.chain(path)[1:]))
        if self.persistent and self.persistent[target].path == old.path:
            self.persistent[target] = moved
        self.live[target] = moved

    def record_snapshot(self, step: TakeSnapshot) -> None:
        before, content = self._before
        spec = step.spec
        memory = "external" if spec.memory_file else "no"
        if spec.mode == "internal" and not self.off:
            memory = "internal"
        state = self.status if self.off or memory != "no" else "disk-snapshot"
        quiesced = step.quiesce != "never"
        parent = next((found.name for found in self.snapshots if found.current), "")
        newest = max((found.created for found in self.snapshots), default=0)
        self.snapshots = [replace(found, current=False) for found in self.snapshots]
        self.snapshots.append(
            Snapshot(
                spec.name, parent, state, newest + 1, True, spec.description,
                FILESYSTEM if quiesced else proven_consistency(state, memory),
                memory, spec.memory_file, spec.disks, before, before.named, "",
                kind=dict(spec.more).get("kind", ""),
            )
        )  # fmt: skip
        taken = [disk.target for disk in spec.disks if disk.mode != "no"]
        self.points[spec.name] = {target: content[target] for target in taken}

    def _commit(self, step: CommitDisk) -> None:
        self.copy_down(step)
        if step.how == "active":
            if self.live[step.target].path != step.top:
                raise Broken(f"{step.top} is not active")
            self._switch(step.target, step.base)
        elif step.overlay:
            if self.files[step.overlay].backing != step.top:
                raise Broken(f"{step.overlay} does not stand on {step.top}")
            self.files[step.overlay].backing = step.base
            if step.how == "middle":
                self._switch(step.target, self.live[step.target].path)

    def copy_down(self, step: CommitDisk) -> None:
        """The part of a commit before its end: the base has the data, the chain is as before."""
        if (step.how == "offline") != self.off:
            raise Broken(f"{step.how} and {self.status}")
        span = self.chain(step.top)
        if tuple(span[: span.index(step.base)]) != step.merged:
            raise Broken(f"merging {step.merged} of {span}")
        self.files[step.base].writes |= self.content(step.top)

    def _pull(self, step: PullDisk) -> None:
        self.copy_up(step)
        self.files[step.into].backing = step.base
        if step.how == "running":
            self._switch(step.target, step.into)

    def copy_up(self, step: PullDisk) -> None:
        """The part of a pull before its end: the active image has the data, and stands on all."""
        if (step.how == "offline") != self.off or self.live[step.target].path != step.into:
            raise Broken(f"{step.how} and {self.status}, {self.live[step.target].path} is active")
        if step.doubtful:
            self.files[step.into].backing = step.pulled[0]
        below = self.chain(step.into)[1:]
        found = tuple(below[: below.index(step.base)] if step.base else below)
        if found != step.pulled and not (step.resume and not found):
            raise Broken(f"pulling {step.pulled} of {below}")
        for path in found:
            self.files[step.into].writes |= self.files[path].writes

    def lose(self, step: PullDisk) -> None:
        """QEMU is killed when the image has its new backing file, and not yet what was copied."""
        self.files[step.into].backing = step.base
        self.status = "shutoff"
        self.live = dict(self.persistent)

    def stays_off(self) -> bool:
        """Whether it would start from where it is."""
        return bool(self.persistent) and all(
            self.persistent[target].path == disk.path for target, disk in self.live.items()
        )

    def _set_source(self, step: SetSource) -> None:
        if self.persistent[step.target].path != step.old:
            raise Broken(f"{step.target} is not at {step.old}")
        self.persistent[step.target] = _disk(step.target, step.new)
        if self.off:
            self.live[step.target] = self.persistent[step.target]

    def forget(self, name: str) -> None:
        """Metadata only; the children go to the parent."""
        (gone,) = (found for found in self.snapshots if found.name == name)
        self.snapshots = [
            replace(
                found,
                parent=gone.parent if found.parent == name else found.parent,
                current=found.current or (gone.current and found.name == gone.parent),
            )
            for found in self.snapshots
            if found.name != name
        ]

    def _rewrite(self, step: RewriteSnapshot) -> None:
        self.snapshots = [_rewritten(found, step) for found in self.snapshots]
        if step.current:
            self.snapshots = [replace(s, current=s.name == step.name) for s in self.snapshots]

    def _delete_internal(self, step: DeleteInternal) -> None:
        active = {disk.path for disk in self.live.values()}
        if step.below and not self.off:
            raise Broken("qemu-img does not write below a VM that runs")
        for path in step.images:
            if path not in active and not step.below:
                raise Broken(f"libvirt deletes nothing in {path}")
            del self.files[path].inside[step.name]
        self.forget(step.name)

    def _remove(self, step: RemoveFile) -> None:
        self.files.pop(step.file, None)
        self.memory_files.discard(step.file)

    # -- what others do ----------------------------------------------------------------------

    def commit_by_hand(self, target: str) -> None:
        """virsh blockcommit --active --pivot --shallow: the snapshots are not told."""
        chain = self.chain(self.live[target].path) if target in self.live else []
        if len(chain) > 1 and not self.off:
            self.files[chain[1]].writes |= self.files[chain[0]].writes
            self._switch(target, chain[1])

    def commit_all_by_hand(self, target: str) -> None:
        """virsh blockcommit --active --pivot: down to the lowest image."""
        chain = self.chain(self.live[target].path) if target in self.live else []
        if len(chain) > 1 and not self.off:
            self.files[chain[-1]].writes |= self.content(chain[0])
            self._switch(target, chain[-1])

    def branch_off(self, name: str) -> None:
        """Go back to an external snapshot by new overlays; what was written since stays beside."""
        found = next((snapshot for snapshot in self.snapshots if snapshot.name == name), None)
        if found is None or not self.off or found.mode != "external":
            return
        self.clock += 1
        for target in found.overlays:
            point = found.image_before(target)
            if point not in self.files or target not in self.live:
                return
            path = at(target, f"branch{self.clock}")
            self.files[path] = Stored(point)
            self.live[target] = self.persistent[target] = _disk(target, path)
            self.written[target] = self.content(path)
        self.snapshots = [
            replace(snapshot, current=snapshot.name == name) for snapshot in self.snapshots
        ]

    def detach(self, target: str) -> None:
        """The VM loses a disk; its images stay."""
        if target in self.live and len(self.live) > 1:
            self.live.pop(target)
            self.persistent.pop(target, None)
            self.written.pop(target)

    def only_copy(self, path: str) -> Content:
        """The writes that are in this file and in no other."""
        others = (stored.writes for name, stored in self.files.items() if name != path)
        kept = frozenset().union(*others)
        return self.files[path].writes - kept if path in self.files else frozenset()

    def edit(self, target: str) -> None:
        """The persistent definition of a running VM is made to name the image below."""
        chain = self.chain(self.live[target].path) if target in self.live else []
        if len(chain) > 1 and not self.off and self.persistent:
            self.persistent[target] = _disk(target, chain[1], tuple(chain[2:]))


def _disk(target: str, path: str, recorded: tuple[str, ...] = ()) -> Disk:
    return Disk(target, "disk", local_source(path), "qcow2", recorded=recorded)


def _rewritten(found: Snapshot, step: RewriteSnapshot) -> Snapshot:
    if found.name != step.name:
        return found
    sources = {old: (new, image_format) for old, new, image_format in step.sources}
    before = found.before.moved(sources)
    files = dict(step.files)
    disks = tuple(
        SnapshotDisk(disk.target, "no")
        if disk.target in step.without
        else replace(disk, file=files.get(disk.target, disk.file))
        for disk in found.disks
    )
    former = (*found.former, *step.former, *(found.overlays[target] for target in files))
    return replace(found, disks=disks, before=before, named=before.named, former=former)


def halves(step: Step) -> Iterator[str]:
    """How a run may die within a step: what was done of it."""
    if isinstance(step, CommitDisk):
        yield "copied"
    if isinstance(step, PullDisk):
        yield "pulled"
        yield "lost"
    if isinstance(step, TakeSnapshot) and step.spec.mode == "external":
        yield "switched"
        if step.spec.memory_file:
            yield "memory"


def half_done(world: World, step: Step, half: str) -> None:
    """Do that part of a step."""
    if half == "copied":
        world.copy_down(step)
    elif half == "lost" and step.how == "running" and world.stays_off():
        world.lose(step)
    elif half in ("lost", "pulled"):
        world.copy_up(step)
    elif half == "switched":
        world.begin_snapshot(step)
    elif half == "memory":
        world.memory_files.add(step.spec.memory_file)
