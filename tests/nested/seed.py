# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seed disk: what the hypervisor gets for one run, beside its image.

A guest of the lab to run under KVM, and the key that opens the hypervisor to this run only.
"""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

from lab.disks import Disk, make_disk, plan_targets
from lab.image import GuestImage, guest_image
from lab.programs import HostPrograms
from lab.vm import Spec, domain_xml

from nested.image import make_ext4

# Where the seed disk and the images of the guest are in the hypervisor.
SEED = Path("/srv/seed")
GUEST = "inner"
GUEST_FOLDER = Path("/var/lib/libvirt/images")
KEY = "key"
SIZE = "256M"
SCRIPTS = ("guest.py", "counter", "look", "held", "base")


def make_seed(directory: Path) -> Path:
    """Make the key pair (`key`, `key.pub`) and the disk in the directory; returns the disk."""
    key = directory / KEY
    quiet = ["-q", "-t", "ed25519", "-N", "", "-C", "molecule"]
    subprocess.run(["ssh-keygen", *quiet, "-f", str(key)], check=True, stdin=subprocess.DEVNULL)
    content, disk = directory / "seed", directory / "seed.raw"
    content.mkdir()
    shutil.copy(key.with_suffix(".pub"), content / "authorized_keys")
    add_guest(content)
    make_ext4(disk, content, SIZE, label="seed")
    shutil.rmtree(content)
    return disk


def add_guest(content: Path) -> None:
    """A guest that runs under KVM: all it boots from, its definition, and how to talk to it."""
    programs = HostPrograms()
    image = guest_image(programs)
    shutil.copy(image.kernel, content / "kernel")
    shutil.copy(image.initrd, content / "initrd")
    disks = [make_disk(programs, content, disk) for disk in plan_targets([Disk(), Disk()])]
    there = tuple(replace(disk, path=f"{GUEST_FOLDER}/{GUEST}.{disk.target}") for disk in disks)
    booted = GuestImage(f"{SEED}/kernel", f"{SEED}/initrd")
    xml = domain_xml(Spec(GUEST, there, machine="pc"), booted, "kvm", GUEST_FOLDER)
    (content / "guest.xml").write_text(quick(xml))
    for name in SCRIPTS:
        shutil.copy(Path(__file__).with_name(name), content)


def quick(xml: str) -> str:
    """The definition without what a guest within an emulated machine pays for dearly.

    Each device takes it a second to find. The agent of a channel that nobody has opened looks ten
    times a second whether that has changed.
    """
    domain = ET.fromstring(xml)
    for devices in domain.iterfind("devices"):
        for channel in devices.findall("channel"):
            if channel.find("target[@name='lab.control']") is not None:
                devices.remove(channel)
        ET.SubElement(devices, "controller", type="usb", model="none")
    return ET.tostring(domain, encoding="unicode")
