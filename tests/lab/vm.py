# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual machines of the lab."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import libvirt_qemu

from .agent import ControlChannel, GuestSilent
from .disks import AttachedDisk, attached_disk, disk_xml
from .image import GuestImage
from .programs import LabError
from .records import Record, longest_gap, missing, parse_acknowledged, parse_records

if TYPE_CHECKING:
    from .core import Lab

BOOT_TIMEOUT = 90
QUIT_TIMEOUT = 10
MAX_WRITTEN = 5  # file descriptors of one digit in guest/writer
KERNEL_OPTIONS = (
    "console=ttyS0 quiet panic=-1 "
    # These save time under emulation.
    "edd=off mitigations=off nokaslr no_timer_check ipv6.disable=1 cryptomgr.notests "
    "init_on_alloc=0 "
    "initcall_blacklist=init_kprobe_trace,trace_eval_init,cubictcp_register,"
    "load_system_certificate_list"
)


@dataclasses.dataclass(frozen=True)
class Spec:
    """A virtual machine to define. `agent`: True, False (no channel) or "silent"."""

    name: str
    disks: tuple[AttachedDisk, ...]
    memory: int = 160
    agent: bool | str = True
    machine: str = "q35"

    @classmethod
    def read(cls, xml: str) -> Spec:
        """What matters of a machine that is already there."""
        domain = ET.fromstring(xml)
        channels = {target.get("name") for target in domain.iterfind("devices/channel/target")}
        disks = [attached_disk(disk) for disk in domain.iterfind("devices/disk")]
        name = domain.findtext("name", "")
        return cls(name, tuple(disks), agent="org.qemu.guest_agent.0" in channels)


def domain_xml(spec: Spec, image: GuestImage, accelerator: str, folder: Path) -> str:
    """The definition: direct kernel boot, a serial console into a file, no network, no screen."""
    domain = ET.Element("domain", type=accelerator)
    ET.SubElement(domain, "name").text = spec.name
    ET.SubElement(domain, "memory", unit="MiB").text = str(spec.memory)
    ET.SubElement(domain, "vcpu").text = "1"
    if accelerator == "kvm":
        ET.SubElement(domain, "cpu", mode="host-passthrough")
    os_element = ET.SubElement(domain, "os")
    ET.SubElement(os_element, "type", arch="x86_64", machine=spec.machine).text = "hvm"
    ET.SubElement(os_element, "kernel").text = image.kernel
    ET.SubElement(os_element, "initrd").text = image.initrd
    silent = " lab.agent=silent" if spec.agent == "silent" else ""
    ET.SubElement(os_element, "cmdline").text = KERNEL_OPTIONS + silent
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    devices = ET.SubElement(domain, "devices")
    devices.extend(disk_xml(disk) for disk in spec.disks)
    serial = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(serial, "source", path=f"{folder}/console", append="on")
    if spec.agent:
        _channel(devices, "org.qemu.guest_agent.0")
    _channel(devices, "lab.control")
    _channel(devices, "lab.ack", file=f"{folder}/ack")
    ET.SubElement(devices, "memballoon", model="none")
    return ET.tostring(domain, encoding="unicode")


def _channel(devices: ET.Element, name: str, file: str | None = None) -> None:
    """A virtio port; without a file libvirt chooses the path of its socket."""
    channel = ET.SubElement(devices, "channel", type="file" if file else "unix")
    if file:
        ET.SubElement(channel, "source", path=file, append="on")
    ET.SubElement(channel, "target", type="virtio", name=name)


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll until the condition holds; LabError naming `what` after the deadline."""
    limit = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > limit:
            raise LabError(f"{what}: not within {timeout} s")
        time.sleep(0.02)


class VM:
    """One virtual machine; `domain` is looked up anew each time, so a daemon may come and go."""

    def __init__(self, lab: Lab, spec: Spec, uuid: str) -> None:
        self.lab = lab
        self.name = spec.name
        self.spec = spec
        self.uuid = uuid
        self.folder = lab.directory / "v" / spec.name
        self.disks = {disk.target: disk for disk in spec.disks}
        self._control: ControlChannel | None = None

    # -- libvirt ---------------------------------------------------------------------------

    @property
    def domain(self) -> libvirt.virDomain:
        return self.lab.connection.lookupByUUIDString(self.uuid)

    def xml(self, *, inactive: bool = False) -> ET.Element:
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        return ET.fromstring(self.domain.XMLDesc(flags))

    def active(self) -> bool:
        return bool(self.domain.isActive())

    def source(self, target: str, *, inactive: bool = False) -> str:
        """File that the disk uses now."""
        for disk in self.xml(inactive=inactive).iterfind("devices/disk"):
            source = disk.find("source")
            if disk.find(f"target[@dev='{target}']") is not None and source is not None:
                return source.get("file", "")
        raise LabError(f"{self.name} has no disk {target}")

    def start(self, *, paused: bool = False, wait: bool = True) -> None:
        """Boot; with `wait` return when the guest (and its agent, if any) answers."""
        self.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)
        if wait and not paused:
            self.wait_ready()

    def destroy(self) -> None:
        """Cut the power, if it is on.

        As libvirt does, but not by it: libvirt 9.0 may hear so late of the end of what it has ended
        that it ends the QEMU of the next start.
        """
        self.disconnect()
        with contextlib.suppress(libvirt.libvirtError, LabError, OSError):
            if self.active():  # else its number may be that of another process by now
                os.kill(self.qemu_pid(), signal.SIGTERM)
            wait_until(lambda: not self.active(), QUIT_TIMEOUT, f"{self.name} ends")
        with contextlib.suppress(libvirt.libvirtError):
            self.domain.destroy()

    def shutdown(self, timeout: float = 30) -> None:
        """Switch off from within the guest, file systems unmounted."""
        self.control().start(["/sbin/shutdown"], capture=False)
        wait_until(lambda: not self.active(), timeout, f"{self.name} switches off")
        self.disconnect()

    def qemu_pid(self) -> int:
        return int((self.lab.directory / "r/libvirt/qemu/run" / f"{self.name}.pid").read_text())

    # -- waiting ---------------------------------------------------------------------------

    def wait_ready(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Return when the guest answers the lab, and libvirt's agent too where there is one."""
        try:
            self.control().call("guest-ping", timeout=timeout)
        except LabError as error:
            end = self.console()[-2000:]
            raise LabError(f"{self.name} did not boot: {error}\n{end}") from error
        if self.spec.agent is True:
            self.wait_agent(timeout)

    def wait_agent(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Return when the agent answers libvirt."""
        wait_until(self.agent_answers, timeout, f"the agent of {self.name} answers libvirt")

    def agent_answers(self) -> bool:
        try:
            self.agent("guest-ping", timeout=5)
        except libvirt.libvirtError:
            return False
        return True

    def agent(self, command: str, timeout: int = 10, **arguments: object) -> object:
        """A command to the agent that libvirt uses, through libvirt."""
        text = json.dumps({"execute": command, "arguments": arguments})
        answer = libvirt_qemu.qemuAgentCommand(self.domain, text, timeout, 0)
        return json.loads(answer)["return"]

    def console(self) -> str:
        """Everything that the serial console has printed, over all boots."""
        path = self.folder / "console"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- in the guest ----------------------------------------------------------------------

    def control(self) -> ControlChannel:
        """The lab's own channel into the guest, connected anew after each boot or revert."""
        if self._control is not None and self._control.lost():
            self.disconnect()
        if self._control is None:
            self._control = ControlChannel(self._control_socket())
        return self._control

    def _control_socket(self) -> str:
        for channel in self.xml().iterfind("devices/channel"):
            source = channel.find("source")
            if channel.find("target[@name='lab.control']") is not None and source is not None:
                return source.get("path", "")
        raise LabError(f"{self.name} is not running")

    def disconnect(self) -> None:
        """Forget the channel into the guest; the next command connects again."""
        if self._control is not None:
            self._control.close()
        self._control = None

    def run(self, command: str | list[str], *, data: bytes = b"", timeout: float = 20) -> str:
        """Run a shell command (or a list of words) in the guest; returns what it printed."""
        return self.run_bytes(command, data=data, timeout=timeout).decode(errors="replace")

    def run_bytes(
        self, command: str | list[str], *, data: bytes = b"", timeout: float = 20
    ) -> bytes:
        words = ["sh", "-c", command] if isinstance(command, str) else command
        try:
            return self.control().run(words, data, timeout=timeout)
        except GuestSilent:
            self.disconnect()
            raise

    def write(self, path: str, data: bytes) -> None:
        """Write a file in the guest; it is durable when this returns."""
        step = 1024 * 1024
        for start in range(0, max(1, len(data)), step):
            flags = "oflag=append conv=notrunc,fsync" if start else "conv=fsync"
            copy = f'dd of="$1" bs=64k status=none {flags}'
            self.run(["sh", "-c", copy, "write", path], data=data[start : start + step])
        self.run("sync")

    def read(self, path: str) -> bytes:
        """A file of the guest (at most 12 MiB)."""
        return self.run_bytes(["cat", path])

    def sha256(self, path: str, timeout: float = 60) -> str:
        """Digest of a file or device of the guest, in hexadecimal."""
        return self.run(["sha256sum", path], timeout=timeout).split()[0]

    def mounts(self) -> list[str]:
        """Mount points of the disks in the guest: /mnt/vda, ..."""
        return self.run("awk '$2 ~ /^\\/mnt\\// {print $2}' /proc/mounts").split()

    # -- freezing --------------------------------------------------------------------------

    def frozen(self) -> bool:
        """What the agent says about itself (guest-fsfreeze-status, through libvirt)."""
        return self.agent("guest-fsfreeze-status") == "frozen"

    def stalled(self, timeout: float = 1) -> list[str]:
        """Mount points on which a write does not end within the timeout: the truth itself."""
        command = 'exec 2>&1; echo probe >"$1/.probe"'
        control = self.control()
        pids = {
            point: control.start(["sh", "-c", command, "probe", point], capture=False)
            for point in self.mounts()
        }
        limit = time.monotonic() + timeout
        while pids and time.monotonic() < limit:
            pids = {point: pid for point, pid in pids.items() if control.poll(pid) is None}
            time.sleep(0.01)
        return sorted(pids)

    def silence_agent(self) -> None:
        """Stop the agent that libvirt uses, in the middle of whatever it does."""
        self._signal_agent("STOP")

    def wake_agent(self) -> None:
        """Let a stopped agent go on."""
        self._signal_agent("CONT")

    def restart_agent(self, *options: str) -> None:
        """End the agent that libvirt uses, and start it with more options of qemu-ga."""
        place = "/run/org.qemu.guest_agent.0"
        self._signal_agent("KILL")
        name = self.run("grep -l org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name")
        port = f"/dev/{name.split('/')[-2]}"
        words = ["--method", "virtio-serial", "--path", port, "--retry-path", "--statedir", place]
        start = f'qemu-ga "$@" </dev/null >/dev/null 2>&1 & echo $! >{place}/pid'
        pidfile = ("--pidfile", f"{place}/unused")
        self.run(["sh", "-c", start, "agent", *words, *pidfile, *options])
        self.wait_agent()

    def _signal_agent(self, name: str) -> None:
        if self.spec.agent is not True:
            raise LabError(f"{self.name} has no agent that works")
        self.run(f"kill -{name} $(cat /run/org.qemu.guest_agent.0/pid)")

    # -- the writer ------------------------------------------------------------------------

    def start_writer(self, pause: float = 0.1, disks: list[str] | None = None) -> None:
        """Append a durable record to each disk, then pause, and so on; returns when it writes.

        The default pause is short enough to notice a loss, and leaves an emulated guest most of
        the processor.
        """
        if self.writing():
            raise LabError(f"the writer of {self.name} runs already")
        points = [f"/mnt/{name}" for name in disks] if disks else self.mounts()
        if not 1 <= len(points) <= MAX_WRITTEN:
            raise LabError(f"the writer takes 1 to {MAX_WRITTEN} disks, not {points}")
        before = self.acknowledged()
        self.control().start(["writer", f"{pause:.3f}", *points], capture=False)
        names = [point.rpartition("/")[2] for point in points]
        wait_until(lambda: self._gained(before, names), 20, f"the writer of {self.name} writes")

    def _gained(self, before: dict[str, set[tuple[str, int]]], names: list[str]) -> bool:
        now = self.acknowledged()
        return all(len(now.get(name, ())) > len(before.get(name, ())) for name in names)

    def stop_writer(self, timeout: float = 20) -> None:
        """End the writer, if it runs, after a complete round."""
        if self.writing():
            self.run("touch /run/writer.stop")
            wait_until(lambda: not self.writing(), timeout, f"the writer of {self.name} ends")

    def writing(self) -> bool:
        """Whether the writer runs."""
        alive = 'p=$(cat /run/writer.pid 2>/dev/null) && kill -0 "$p" 2>/dev/null && echo yes'
        return bool(self.run(f"{alive} || true"))

    def acknowledged(self) -> dict[str, set[tuple[str, int]]]:
        """Disk to (boot, number) of the records known on the host to be durable."""
        return parse_acknowledged(self.folder / "ack")

    def writer_records(self) -> dict[str, list[Record]]:
        """Disk to the records read from it, in order; RecordsDamaged when they are not sound."""
        found = {}
        for point in self.mounts():
            disk = point.rpartition("/")[2]
            data = self.run_bytes(f"cat {point}/records 2>/dev/null || true", timeout=60)
            found[disk] = parse_records(data, disk)
        return found

    def lost_records(self, known: dict[str, set[tuple[str, int]]] | None = None) -> list[str]:
        """Acknowledged records that the disks do not have; must be empty.

        `known`: what `acknowledged` returned at the point in time that was gone back to.
        """
        if known is None:
            known = self.acknowledged()  # before reading: a running writer goes on
        return missing(known, self.writer_records())

    def longest_gap(self) -> dict[str, float]:
        """Disk to the longest time without a record, in milliseconds."""
        return {disk: longest_gap(records) for disk, records in self.writer_records().items()}
