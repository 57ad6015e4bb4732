# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting the hypervisor and taking it away again.

All of a run lies in one directory, which is also how its QEMU is found: by the name of the program
and that directory on its command line, whoever started it and whether that one still lives.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from lab.ownership import end, processes
from tools.common import CACHE

from nested.emulator import candidates, emulator, processor
from nested.image import HypervisorImage, hypervisor_image
from nested.seed import KEY, SEED, make_seed

ADDRESS = "127.0.0.1"
# One for each checkout, so that whoever comes next finds what a killed run has left.
DIRECTORY = CACHE / "nested" / "machine"
MEMORY = 3072
# Emulated, it answers after 40 s on an idle machine with two cores.
BOOT_SECONDS = {"kvm": 60.0, "tcg": 600.0}
NESTED_SECONDS = 30
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 "
    "mitigations=off nokaslr no_timer_check cryptomgr.notests ipv6.disable=1 net.ifnames=0"
)


class MachineError(Exception):
    """The hypervisor does not come up; the text says why, with the end of its console."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """A hypervisor that runs: how ssh reaches it, and what its QEMU runs on (kvm or tcg)."""

    directory: Path
    port: int
    accelerator: str

    def ssh(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command in the hypervisor, as root."""
        options = ["-i", f"{self.directory}/{KEY}", "-p", str(self.port), "-o", "BatchMode=yes"]
        options += ["-o", f"UserKnownHostsFile={self.directory}/known_hosts"]
        command = ["ssh", *options, f"root@{ADDRESS}", "--", *words]
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"'{' '.join(words)}' did not end within {timeout} s") from error


def up(suite: str, directory: Path = DIRECTORY) -> Machine:
    """Boot the hypervisor of a Debian release; returns when it can be worked in."""
    down(directory)
    directory.mkdir(parents=True)
    image = hypervisor_image(suite)
    seed = make_seed(directory)
    tried = []
    for accelerator in candidates():
        machine = Machine(directory, _free_port(), accelerator)
        try:
            _wait(machine, _start(machine, image, seed))
            if accelerator == "kvm":  # what is emulated nests: that needs no proof here
                _prove_nesting(machine)
        except MachineError as error:
            tried.append(f"{accelerator}: {error}")
            _end(directory)
        else:
            return machine
    raise MachineError("\n".join(tried))


def down(directory: Path = DIRECTORY) -> None:
    """End the hypervisor of the directory, whoever started it, and remove the directory."""
    _end(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _end(directory: Path) -> None:
    end(list(processes(directory)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def _start(machine: Machine, image: HypervisorImage, seed: Path) -> subprocess.Popen[bytes]:
    directory, qemu = machine.directory, emulator(machine.accelerator)
    host_key = " ".join(image.host_key.read_text().split()[:2])
    (directory / "known_hosts").write_text(f"[{ADDRESS}]:{machine.port} {host_key}\n")
    (directory / "console").unlink(missing_ok=True)
    disks = [*_disk(_overlay(directory, image), "qcow2"), *_disk(seed, "raw")]
    disks += _disk(_blank(directory), "qcow2", "lvm")
    network = f"user,id=lan,hostfwd=tcp:{ADDRESS}:{machine.port}-:22"
    words = [*qemu.words, "-nodefaults", "-no-user-config", "-machine", "q35"]
    words += [*processor(machine.accelerator), "-smp", "2", "-m", str(MEMORY), "-display", "none"]
    words += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", COMMAND_LINE]
    words += [*disks, "-netdev", network, "-device", "virtio-net-pci,netdev=lan,romfile="]
    words += ["-device", "virtio-rng-pci", "-serial", f"file:{directory}/console", "-no-reboot"]
    with (directory / "qemu.log").open("w") as log:
        return subprocess.Popen(
            words,
            executable=qemu.executable,
            env={**os.environ, **qemu.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _disk(path: Path, image_format: str, serial: str = "") -> list[str]:
    """Nothing of it has to outlive the run, so nothing waits for this machine's disks."""
    name = path.name.replace(".", "-")
    drive = f"if=none,id={name},file={path},format={image_format},cache=unsafe,discard=unmap"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={serial}"]


def _overlay(directory: Path, image: HypervisorImage) -> Path:
    path = directory / "disk.qcow2"
    base = ("-b", str(image.disk), "-F", "raw")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, str(path)], check=True)
    return path


def _blank(directory: Path) -> Path:
    """An empty disk, /dev/disk/by-id/virtio-lvm there, for volume groups."""
    path = directory / "lvm.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "4G"], check=True)
    return path


def _wait(machine: Machine, qemu: subprocess.Popen[bytes]) -> None:
    """Return when the hypervisor lets us in."""
    limit = time.monotonic() + BOOT_SECONDS[machine.accelerator]
    while not _greets(machine.port):
        if qemu.poll() is not None:
            raise MachineError(f"QEMU has ended. {_log(machine)}")
        if time.monotonic() > limit:
            raise MachineError(f"ssh did not answer in time. {_log(machine)}")
        time.sleep(0.5)
    done = machine.ssh("true")
    if done.returncode:
        raise MachineError(f"ssh does not let us in: {done.stderr.strip()}")


def _greets(port: int) -> bool:
    """Whether a server of ssh speaks; QEMU takes the connection long before there is one."""
    try:
        with socket.create_connection((ADDRESS, port), timeout=5) as connection:
            connection.settimeout(5)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _log(machine: Machine) -> str:
    parts = [machine.directory / name for name in ("qemu.log", "console")]
    return "\n".join(p.read_text(errors="replace")[-2000:] for p in parts if p.exists())


def _prove_nesting(machine: Machine) -> None:
    """Boot the guest under KVM in the hypervisor, by QEMU alone."""
    boot = f'-kernel {SEED}/kernel -initrd {SEED}/initrd -append "console=ttyS0 panic=-1"'
    qemu = f"qemu-system-x86_64 -nodefaults -machine q35,accel=kvm -cpu host -m 160 {boot}"
    qemu += " -display none -serial file:/run/console"
    ready = 'until grep -q "lab: ready" /run/console; do sleep 0.2; done'
    proof = machine.ssh(f"timeout {NESTED_SECONDS} sh -c '{qemu} & {ready}; kill $!'")
    if proof.returncode:
        raise MachineError(f"no guest boots under KVM in it within {NESTED_SECONDS} s")


def describe(machine: Machine) -> str:
    """What Molecule has to know, as JSON."""
    return json.dumps(
        {
            "instance": "hypervisor",
            "address": ADDRESS,
            "port": machine.port,
            "user": "root",
            "identity_file": f"{machine.directory}/{KEY}",
            "accelerator": machine.accelerator,
        }
    )
