# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that boot once: a machine of the same description goes on from where the first one was.

After its boot a machine is saved, memory and images at the same moment. When that description
is asked for again, the images are copied and the memory is restored, which takes a tenth of the
time of a boot under emulation. The machine then is what the first one was in everything, also in
its UUID and in the id of its boot.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import libvirt

from .disks import Disk
from .vm import VM, Spec

if TYPE_CHECKING:
    from .core import Lab


class Like(NamedTuple):
    """What makes two machines the same."""

    name: str
    disks: tuple[Disk, ...]
    memory: int
    agent: bool | str

    @property
    def own(self) -> bool:
        """Whether it stands on no image of somebody else's."""
        return all(disk.path is None and disk.backing is None for disk in self.disks)


class _Kept(NamedTuple):
    """A boot: where its memory and its images lie, and the definition with the UUID."""

    place: Path
    spec: Spec
    xml: str


class Boots:
    """The boots of one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._kept: dict[Like, _Kept] = {}

    def vm(self, like: Like, boot: Callable[[], VM]) -> VM:
        """A machine as after its boot; its folder is there and empty."""
        if like not in self._kept:
            self._kept[like] = self._keep(boot())
        place, spec, xml = self._kept[like]
        self._copy(place / "files", self._lab.directory / "v" / like.name)
        vm = VM(self._lab, spec, self._lab.connection.defineXML(xml).UUIDString())
        self._lab.connection.restore(str(place / "memory"))
        vm.wait_ready()
        return vm

    def _keep(self, vm: VM) -> _Kept:
        place = self._lab.directory / "b" / str(len(self._kept))
        place.mkdir(parents=True)
        xml = vm.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        vm.disconnect()
        vm.domain.save(str(place / "memory"))
        self._copy(vm.folder, place / "files")
        return _Kept(place, vm.spec, xml)

    def _copy(self, source: Path, target: Path) -> None:
        self._lab.programs.run("cp", "-aT", "--sparse=always", str(source), str(target))
