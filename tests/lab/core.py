# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as a whole: daemon, accelerator, virtual machines."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import libvirt

from .accel import accelerator
from .boots import Boots, Like
from .daemon import Daemon
from .disks import Disk, make_disk, plan_targets
from .image import GuestImage, guest_image
from .ownership import BASE, Ownership
from .programs import HostPrograms, Programs
from .vm import VM, Spec, domain_xml


class Lab:
    """A private libvirtd and its virtual machines; use it as a context manager.

    `uri` is all that a module needs to reach the daemon.
    """

    def __init__(
        self,
        *,
        programs: Programs | None = None,
        base: Path = BASE,
        kept: Path | None = None,
        boot_once: bool = False,
    ) -> None:
        """Make a lab, or take over one that was left up by `keep`.

        `boot_once`: a machine like one that has booted before goes on from there (see boots.py).
        """
        # Errors come as exceptions; libvirt would print each one besides.
        libvirt.registerErrorHandler(lambda *_: None, None)
        self.programs = programs or HostPrograms()
        self._ownership = Ownership(base, kept=kept)
        self.directory = self._ownership.directory
        self.daemon = Daemon(self.programs, self.directory)
        self.uri = self.daemon.uri
        self.vms: dict[str, VM] = {}
        self._connection: libvirt.virConnect | None = None
        self._image: GuestImage | None = None
        self._boots = Boots(self) if boot_once else None
        (self.directory / "v").mkdir(exist_ok=True)
        try:
            self._bring_up()
        except BaseException:
            self._ownership.release()
            raise

    def _bring_up(self) -> None:
        if not self.daemon.running():
            self.daemon.start()
            self.daemon.warm_up()
        for domain in self.connection.listAllDomains():
            vm = VM(self, Spec.read(domain.XMLDesc()), domain.UUIDString())
            self.vms[vm.name] = vm

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take everything away."""
        for vm in self.vms.values():
            vm.disconnect()
        self.vms.clear()
        self._drop_connection()
        self._ownership.release()
        self.daemon.forget()

    def keep(self) -> None:
        """Leave everything up and let go of it; `python -m lab down` takes it away."""
        for vm in self.vms.values():
            vm.disconnect()
        self._drop_connection()
        self._ownership.keep()
        self.daemon.forget(running=True)

    @property
    def connection(self) -> libvirt.virConnect:
        """A connection that lives; a new one after the daemon was away."""
        if self._connection is None or not self._alive():
            self._drop_connection()
            self._connection = self.daemon.connect()
        return self._connection

    def _alive(self) -> bool:
        """Whether the daemon answers: isAlive() notices its end too late."""
        try:
            return bool(self._connection and self._connection.getLibVersion())
        except libvirt.libvirtError:
            return False

    def _drop_connection(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.close()
        self._connection = None

    @property
    def image(self) -> GuestImage:
        if self._image is None:
            self._image = guest_image(self.programs)
        return self._image

    def vm(
        self,
        name: str,
        disks: int | Iterable[Disk] = 1,
        *,
        running: bool = True,
        paused: bool = False,
        transient: bool = False,
        memory: int = 160,
        agent: bool | str = True,
        wait: bool = True,
    ) -> VM:
        """Make a virtual machine; with `running` return when its guest and agent answer.

        `disks`: how many default ones, or their descriptions. `paused`: started, but its
        processor never runs (cheap, for large numbers). `agent`: True, False for no channel,
        "silent" for a channel that is open in the guest and never answers.
        When it does not come up, nothing of it stays.
        """
        wanted = plan_targets([Disk()] * disks if isinstance(disks, int) else list(disks))
        like = Like(name, tuple(wanted), memory, agent)
        (self.directory / "v" / name).mkdir()
        try:
            if self._boots and like.own and running and wait and not (paused or transient):
                vm = self.vms[name] = self._boots.vm(like, lambda: self._booted(like))
                return vm
            vm = self.vms[name] = self._make(like, paused=paused, transient=transient)
            if not transient and (running or paused):
                vm.start(paused=paused, wait=False)
            if wait and not paused and (running or transient):
                vm.wait_ready()
        except BaseException:
            self.remove(name)
            raise
        return vm

    def _booted(self, like: Like) -> VM:
        vm = self._make(like)
        vm.start()
        return vm

    def _make(self, like: Like, *, paused: bool = False, transient: bool = False) -> VM:
        folder = self.directory / "v" / like.name
        disks = tuple(make_disk(self.programs, folder, disk) for disk in like.disks)
        spec = Spec(like.name, disks, like.memory, like.agent)
        return self._make_domain(spec, paused=paused, transient=transient)

    def _make_domain(self, spec: Spec, *, paused: bool, transient: bool) -> VM:
        kind = accelerator(self.programs, self.image)
        xml = domain_xml(spec, self.image, kind, self.directory / "v" / spec.name)
        if transient:
            flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
            domain = self.connection.createXML(xml, flags)
        else:
            domain = self.connection.defineXML(xml)
        return VM(self, spec, domain.UUIDString())

    def many(self, count: int, *, disks: int = 1, paused: bool = True) -> list[VM]:
        """Cheap virtual machines, many00, many01, ...: paused right after start, or off."""
        spec = Disk(size=1, content="blank")
        return [
            self.vm(f"many{n:02}", [spec] * disks, running=False, paused=paused, memory=32)
            for n in range(count)
        ]

    def remove(self, vm: VM | str) -> None:
        """Take one virtual machine away, whoever made it, with its files."""
        name = vm if isinstance(vm, str) else vm.name
        if (known := self.vms.pop(name, None)) is not None:
            known.disconnect()
        domains = {domain.name(): domain for domain in self.connection.listAllDomains()}
        if name in domains:
            remove_domain(domains[name])
        shutil.rmtree(self.directory / "v" / name, ignore_errors=True)


def remove_domain(domain: libvirt.virDomain) -> None:
    """Destroy and undefine with everything that libvirt remembers about it."""
    if domain.isActive():
        persistent = domain.isPersistent()
        with contextlib.suppress(libvirt.libvirtError):  # it may just have ended by itself
            domain.destroy()
        if not persistent:
            return
    flags = (
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    )
    domain.undefineFlags(flags)
