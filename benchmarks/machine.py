# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time

from lab.accel import accelerator
from lab.image import guest_image
from lab.programs import HostPrograms


def facts() -> dict[str, str]:
    """Everything that figures depend on, by name."""
    programs = HostPrograms()
    kind = accelerator(programs, guest_image(programs))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "guests": "KVM" if kind == "kvm" else "TCG (emulated)",
        "system": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.release()}",
        "libvirt": programs.run("virsh", "--version").strip(),
        "QEMU": programs.run("qemu-img", "--version").split()[2],
        "Python": platform.python_version(),
        "ansible-core": _ansible(),
        "commit": _commit(),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()) + " at the start",
    }


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        found = re.search(r"^model name\s*: (.*)", file.read(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _ansible() -> str:
    from ansible.release import __version__

    return str(__version__)


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
