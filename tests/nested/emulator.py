# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which QEMU runs the hypervisor, and on what: KVM, or a processor with SVM that is emulated.

Under emulation it has to be QEMU 10 or newer: with 7.2 the kernel of Debian 13 panics where there
are two processors. An older machine takes it from the root that the image of Debian 13 is made of,
and starts it by the loader of that root, with the libraries and files of that root.
"""

from __future__ import annotations

import dataclasses
import re

from lab import accel
from lab.image import guest_image
from lab.programs import HostPrograms
from tools.debian_root import debian_root

from nested.image import hypervisor_root

OLDEST = 10
LIBRARIES = "usr/lib/x86_64-linux-gnu"
FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")


@dataclasses.dataclass(frozen=True)
class Emulator:
    """How QEMU is started: what is executed, the first words, and what the environment has more.

    The first word is always QEMU's name, so that its process can be told by that.
    """

    executable: str
    words: tuple[str, ...]
    environment: dict[str, str]


def candidates() -> list[str]:
    """Accelerators to try, the fast one first; whether it can be nested is seen by nesting."""
    programs = HostPrograms()
    usable = accel.accelerator(programs, guest_image(programs)) == "kvm"
    return ["kvm", "tcg"] if usable else ["tcg"]


def processor(accelerator: str) -> list[str]:
    """QEMU's options for a processor that can run virtual machines."""
    if accelerator == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm"]


def emulator(accelerator: str) -> Emulator:
    """A QEMU that is good for the accelerator; the first call may build a root for it."""
    programs = HostPrograms()
    path = programs.find("qemu-system-x86_64")
    version = re.search(r"version (\d+)", programs.run(path, "--version"))
    if accelerator == "kvm" or (version and int(version[1]) >= OLDEST):
        return Emulator(path, (path,), {})
    root = debian_root(hypervisor_root("trixie"))
    libraries = f"{root}/{LIBRARIES}"
    loader = ("qemu-system-x86_64", "--library-path", libraries)
    firmware = (word for folder in FIRMWARE for word in ("-L", f"{root}/{folder}"))
    words = (*loader, f"{root}/usr/bin/qemu-system-x86_64", *firmware)
    modules = {"QEMU_MODULE_DIR": f"{libraries}/qemu"}
    return Emulator(f"{root}/lib64/ld-linux-x86-64.so.2", words, modules)
