# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which image of a chain is the VM's own disk, and where the template below it begins.

A VM's own disk is what it was defined on before its first snapshot. Nothing below is written
unless it is named. The oldest snapshot tells which it is, and without snapshots it is the image
that the VM is defined on, unless that may be an overlay of a snapshot that nobody records any more.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .._model.domain import Disk
from .._model.names import file_part
from .._model.problem import Conflict
from .._model.state import DiskState, VmState

_OF_IMAGES = (".qcow2", ".img", ".raw")


@dataclass(frozen=True)
class Own:
    """The depth of a VM's own disk in its chain. ``doubt``: it may as well be the one below it."""

    depth: int
    doubt: bool = False

    @property
    def lowest(self) -> int:
        """The depth of the lowest image that may be the own disk."""
        return self.depth + self.doubt


def own_disk(vm: VmState, disk: DiskState) -> Own:
    """Where the own disk is, of a chain that can be read.

    An overlay that no snapshot records counts as one only if two signs say so: libvirt's definition
    names what is below it as what the disk was before, and its name is that of an overlay.
    """
    before = tuple(_defined(vm, disk))
    depth = max((depth for found in before for depth in _depths(disk, found.path)), default=0)
    stacks = [disk.stacked, *(found.stacked for found in before)]
    made = {file for snapshot in vm.snapshots for file in snapshot.made}
    while depth < len(disk.chain) - 1:
        # What its snapshot goes back to has left the chain: nobody can tell by what.
        if disk.chain[depth].filename in made:
            return Own(depth, doubt=True)
        upper, lower = disk.files[depth], disk.files[depth + 1]
        signs = _was_put_on(upper, lower, stacks), _is_named_so(vm, disk, upper, lower)
        if not all(signs):
            return Own(depth, doubt=any(signs))
        depth += 1
    return Own(depth)


def images_left(vm: VmState, disk: DiskState) -> int:
    """How many images its chain has down to the VM's own disk."""
    return own_disk(vm, disk).depth + 1 if disk.chain else 0


def _defined(vm: VmState, disk: DiskState) -> Iterator[Disk]:
    """The disk as the definitions of the snapshots have it."""
    for snapshot in vm.snapshots:
        found = snapshot.before.disk(disk.target) if snapshot.before else None
        if found:
            yield found


def _depths(disk: DiskState, path: str) -> Iterator[int]:
    depth = disk.depth_of(path)
    if depth is not None:
        yield depth


def _was_put_on(upper: str, lower: str, stacks: Sequence[tuple[str, ...]]) -> bool:
    """Whether a definition says that the disk stood on ``lower`` before it stood on ``upper``."""
    return any(upper in stack and lower in stack[stack.index(upper) + 1 :] for stack in stacks)


def _is_named_so(vm: VmState, disk: DiskState, upper: str, lower: str) -> bool:
    """Whether an image is called as we, or libvirt, call the overlay of a snapshot."""
    folder, name = posixpath.split(upper)
    stem, extension = posixpath.splitext(name)
    ours = f"{file_part(vm.name)}.{disk.target}."
    if extension == ".qcow2" and stem.startswith(ours) and stem != ours:
        return True
    # libvirt puts the name of the snapshot in place of the extension.
    below = posixpath.splitext(posixpath.basename(lower))[0]
    beside = folder == posixpath.dirname(lower)
    return beside and stem == below and bool(extension) and extension not in _OF_IMAGES


def doubt(vm: VmState, disk: DiskState, own: Own) -> Conflict:
    """That nobody can tell which of two images is the own disk, and how to go on."""
    upper, lower = disk.files[own.depth : own.depth + 2]
    return Conflict(
        f"disk {disk.target} of VM {vm.name} stands on {upper}, which stands on {lower}, and"
        " nothing tells which of them the VM was defined on before its first snapshot",
        wanted="to know its own disk, since what is below that is a template and is not written"
        " unless it is named",
        todo=f"name it: 'disks: [{disk.target}]' and 'base: {lower}' to merge into that one, or"
        f" 'base: {upper}' if {lower} is a template",
    )
