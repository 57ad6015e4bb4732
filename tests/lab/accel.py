# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""KVM or emulation, decided by really booting.

A /dev/kvm may open, and guests hang or abort on it all the same. So the lab's own guest is booted
on it once per boot of the machine, with a time limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from .cache import cache_dir, replace_file
from .image import GuestImage
from .programs import Programs

KVM = "/dev/kvm"
LIMIT = 20.0
READY = b"lab: ready"


def accelerator(programs: Programs, image: GuestImage) -> str:
    """The domain type that works here: "kvm" or "qemu" (emulation)."""
    if not os.access(KVM, os.R_OK | os.W_OK):
        return "qemu"
    key = _key(programs, image)
    record = cache_dir() / f"kvm-{os.getuid()}.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    if known.get("key") != key:
        known = {"key": key, "boots": _boots(programs, image)}
        replace_file(record, json.dumps(known).encode())
    return "kvm" if known["boots"] else "qemu"


def _key(programs: Programs, image: GuestImage) -> list[object]:
    """What the answer depends on."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    qemu = programs.find("qemu-system-x86_64")
    return [boot, qemu, os.stat(qemu).st_mtime_ns, image.kernel]


def _boots(programs: Programs, image: GuestImage) -> bool:
    """Whether the guest comes up under KVM; never takes longer than the limit."""
    with tempfile.TemporaryDirectory(prefix="vmk-probe-") as folder:
        console = Path(folder, "console")
        command = [programs.find("qemu-system-x86_64"), "-nodefaults", "-no-user-config"]
        command += ["-machine", "q35,accel=kvm", "-cpu", "host", "-m", "160", "-display", "none"]
        command += ["-kernel", image.kernel, "-initrd", image.initrd, "-no-reboot"]
        command += ["-append", "console=ttyS0 panic=-1", "-serial", f"file:{console}"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            return _comes_up(process, console)
        finally:
            process.kill()
            process.wait()


def _comes_up(process: subprocess.Popen[bytes], console: Path) -> bool:
    limit = time.monotonic() + LIMIT
    while time.monotonic() < limit and process.poll() is None:
        if console.exists() and READY in console.read_bytes():
            return True
        time.sleep(0.05)
    return False
