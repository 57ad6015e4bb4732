# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk of the hypervisor: a Debian with everything but one package, built once.

It is kept in the cache under a name that follows from all that it is made of.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
from pathlib import Path

from lab.initramfs import busybox, cpio, kernel_modules
from lab.kernel import unpacked_kernel
from lab.programs import HostPrograms
from tools.common import CACHE
from tools.debian_root import Recipe, debian_root, kept

IMAGES = CACHE / "nested" / "images"
SIZE = "8G"
SUITES = ("bookworm", "trixie")
# The role installs it for real, from a repository in the image: no network is needed for that.
LEFT_OUT = "python3-libvirt"
PACKAGES = (
    # an operating system that Ansible can work on
    *("systemd-sysv", "udev", "dbus", "openssh-server", "python3-apt", "iproute2", "procps"),
    "linux-image-cloud-amd64",
    # a hypervisor
    *("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-utils"),
    # what is proved here besides: LVM
    *("lvm2", "thin-provisioning-tools", "e2fsprogs"),
)
INDEX = """\
for file in *.deb; do
    dpkg-deb --field "$file"
    echo "Filename: ./$file"
    echo "Size: $(stat --format=%s "$file")"
    echo "SHA256: $(sha256sum "$file" | head --bytes=64)"
    echo
done >Packages"""
REPOSITORY = (
    f"mkdir /srv/left-out && cd /srv/left-out && apt-get download --quiet=2 {LEFT_OUT} && {INDEX}"
)
# Work that a machine with a life of an hour does not need, and that is slow under emulation.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "systemd-pstore.service", "getty.target"),
    *("systemd-timesyncd.service", "libvirt-guests.service", "systemd-logind.service"),
    *("systemd-binfmt.service", "systemd-machine-id-commit.service", "systemd-networkd.service"),
)
# What the kernel needs before it has a disk and a network.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "crc32c")
HOOKS = (
    # Else caches are made again on each first boot.
    'touch "$1/etc/.updated" "$1/var/.updated"',
    f"chroot \"$1\" sh -ec '{REPOSITORY}'",
    # libvirt tries each emulator that it finds, which takes seven seconds.
    'rm --force "$1"/usr/bin/qemu-system-i386 "$1"/usr/bin/qemu-system-*-microvm',
    f'chroot "$1" systemctl --quiet mask {" ".join(MASKED)}',
)


@dataclasses.dataclass(frozen=True)
class HypervisorImage:
    """Files to boot from, and the key by which the hypervisor proves that it is this one."""

    disk: Path
    kernel: Path
    initrd: Path
    host_key: Path


def hypervisor_root(suite: str) -> Recipe:
    """What a hypervisor of a Debian release is made of."""
    return Recipe(suite, PACKAGES, HOOKS, Path(__file__).with_name("root"))


def hypervisor_image(suite: str) -> HypervisorImage:
    """The hypervisor of a Debian release, built by the first call (as root, in two minutes)."""
    recipe = hypervisor_root(suite)
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    place = IMAGES / f"{recipe.name}-{digest}"
    folder = kept(place, lambda target: _build(debian_root(recipe), target))
    return HypervisorImage(*(folder / name for name in ("disk", "kernel", "initrd", "host_key")))


def _build(root: Path, target: Path) -> None:
    target.mkdir()
    programs = HostPrograms()
    packed = next(root.glob("boot/vmlinuz-*"))
    version = packed.name.removeprefix("vmlinuz-")
    (target / "kernel").write_bytes(unpacked_kernel(programs, packed) or packed.read_bytes())
    tree = busybox(programs) | kernel_modules(programs, version, MODULES, root)
    (target / "initrd").write_bytes(cpio(tree | {"init": (root / "srv/init").read_bytes()}))
    shutil.copy(root / "etc/ssh/ssh_host_ed25519_key.pub", target / "host_key")
    make_ext4(target / "disk", root, SIZE)


def make_ext4(path: Path, content: Path, size: str, label: str = "") -> None:
    """A raw image with a file system that holds what is in a directory."""
    subprocess.run(["truncate", f"--size={size}", str(path)], check=True)
    options = ["-q", "-F", "-L", label, "-E", "nodiscard", "-d", str(content)]
    subprocess.run(["mkfs.ext4", *options, str(path)], check=True)
