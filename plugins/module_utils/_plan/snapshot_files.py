# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the files of a snapshot are to lie.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from .._model.names import check_path, file_part
from .._model.problem import BadInput
from .._model.snapshot import Snapshot
from .._model.state import DiskState, VmState

if TYPE_CHECKING:
    from .snapshot import SnapshotWish

_LONGEST_FILE_NAME = 255
_NUMBERED = re.compile(r"(.*)\.r(\d+)(\.[^./]*)\Z", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_:@+=,%~][A-Za-z0-9_.:@+=,%~-]*\Z")


def overlay_file(wish: SnapshotWish, vm: VmState, disk: DiskState) -> str:
    asked = wish.file_of(disk.target)
    if asked:
        return asked
    name = f"{file_part(vm.name)}.{disk.target}.{wish.name}.qcow2"
    return free_name(posixpath.join(_directory(wish, vm, disk), name), vm)


def free_name(file: str, vm: VmState) -> str:
    """The name, or the first with a number, that nothing of the VM has and no record names."""
    chains = (*(disk.chain for disk in vm.disks), *vm.branches)
    known = {image.filename for chain in chains for image in chain}
    known.update(vm.numbered, *(snapshot.made for snapshot in vm.snapshots))
    while file in known:
        file = next_name(file)
    return file


def next_name(file: str) -> str:
    """An overlay's name with the next number: a.qcow2, a.r1.qcow2, a.r2.qcow2.

    What another tool has called it is made a plain name first.
    """
    folder, name = posixpath.split(file)
    match = _NUMBERED.match(name)
    number = int(match[2]) + 1 if match else 1
    stem, ending = _parts(name)
    return posixpath.join(folder, f"{stem}.r{number}{ending}")


def first_name(file: str) -> str:
    """The name that all overlays have in common which followed each other, without a folder."""
    return "".join(_parts(posixpath.basename(file)))


def made_for(found: Snapshot, target: str, path: str) -> bool:
    """Whether an image is or was the overlay of a disk; former ones have the name of the first."""
    overlay = found.overlays.get(target, "")
    return path in (overlay, *found.former) and first_name(path) == first_name(overlay)


def _parts(name: str) -> tuple[str, str]:
    """What is before its number and after it, in plain characters."""
    match = _NUMBERED.match(name)
    stem, extension = (match[1], match[3]) if match else posixpath.splitext(name)
    return _plain(stem, 180), f".{_plain(extension[1:], 40)}" if extension else ""


def _plain(part: str, longest: int) -> str:
    """A part of a file name that has no other characters than ours, and is not too long."""
    plain = part if _PLAIN.match(part) else file_part(part)
    if len(plain) <= longest:
        return plain
    digest = sha256(part.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{plain[: longest - 17]}.{digest}"


def memory_file(wish: SnapshotWish, vm: VmState, disks: tuple[DiskState, ...]) -> str:
    name = f"{file_part(vm.name)}.memory.{wish.name}.save"
    return posixpath.join(_directory(wish, vm, disks[0]), name)


def _directory(wish: SnapshotWish, vm: VmState, disk: DiskState) -> str:
    if wish.directory:
        return wish.directory
    if disk.disk.source is not None and disk.disk.source.kind == "block":
        raise BadInput(
            f"disk {disk.target} of VM {vm.name} is the block device {disk.disk.path}",
            wanted="a directory for its overlay",
            todo="set the option 'directory', or 'file' of that disk",
        )
    return posixpath.dirname(disk.disk.path)


def check_files(vm: VmState, files: Mapping[str, str], memory: str) -> None:
    overlays = {f"the overlay of disk {target}": file for target, file in files.items()}
    new = {**overlays, **({"the memory file": memory} if memory else {})}
    for what, file in new.items():
        name = posixpath.basename(check_path(file, f"{what} of VM {vm.name}"))
        if len(name.encode()) > _LONGEST_FILE_NAME:
            raise BadInput(
                f"the name {name[:60]}... for {what} of VM {vm.name} is {len(name.encode())} bytes"
                " long",
                wanted=f"at most {_LONGEST_FILE_NAME} bytes",
                todo="choose a shorter snapshot name, or set 'file'",
            )
    if len(set(new.values())) < len(new):
        raise BadInput(
            f"VM {vm.name} would have the same overlay file twice, or as its memory file:"
            f" {', '.join(new.values())}",
            wanted="one file for each disk",
            todo="correct the 'file' entries",
        )
