# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest: a kernel of the distribution and an initramfs made of its packages.

Both are built once and kept in the cache under a name that follows from their contents.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

from .cache import cache_dir, forget_unused, mark_used, replace_file
from .initramfs import Tree, busybox, cpio, kernel_modules
from .kernel import pick_kernel, quick_kernel
from .programs import Programs

GUEST_FILES = Path(__file__).parent / "guest"
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4", "crc32c")
TOOLS = ("qemu-ga", "chattr")


@dataclasses.dataclass(frozen=True)
class GuestImage:
    """Files to boot from."""

    kernel: str
    initrd: str


def guest_image(programs: Programs) -> GuestImage:
    """The guest for this machine, built on the first call."""
    version, packed = pick_kernel()
    kernel = quick_kernel(programs, version, packed)
    tree = _collect(programs, version)
    digest = hashlib.sha256(repr(sorted(tree.items())).encode()).hexdigest()[:16]
    initrd = cache_dir() / f"initrd-{version}-{digest}"
    if not initrd.exists():
        replace_file(initrd, cpio(tree))
        forget_unused("initrd-*", "vmlinux-*")
    mark_used(initrd, kernel)
    return GuestImage(str(kernel), str(initrd))


def _collect(programs: Programs, version: str) -> Tree:
    tree = busybox(programs) | kernel_modules(programs, version, MODULES)
    for tool in TOOLS:
        path = programs.find(tool)
        tree[f"bin/{tool}"] = _read(path)
        for library in _libraries(programs, path):
            tree[library.lstrip("/")] = _read(library)
    tree["init"] = _read(GUEST_FILES / "init")
    tree["bin/writer"] = _read(GUEST_FILES / "writer")
    tree["sbin/shutdown"] = _read(GUEST_FILES / "shutdown")
    tree["etc/passwd"] = b"root::0:0:root:/:/bin/sh\n"
    return tree


def _read(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def _libraries(programs: Programs, path: str) -> list[str]:
    """Shared libraries and loader, by the names under which the program looks for them."""
    return re.findall(r"(/\S+) \(0x", programs.run("ldd", path))
