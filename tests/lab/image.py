# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest: a kernel of the distribution and an initramfs made of its packages.

Both are built once and kept in the cache under a name that follows from their contents.
The initramfs is written by this file in the "newc" format of cpio: see
Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source.
"""

from __future__ import annotations

import dataclasses
import hashlib
import lzma
import os
import re
import stat
from pathlib import Path

from .cache import cache_dir, forget_unused, mark_used, replace_file
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
        replace_file(initrd, _cpio(tree))
        forget_unused("initrd-*", "vmlinux-*")
    mark_used(initrd, kernel)
    return GuestImage(str(kernel), str(initrd))


def _collect(programs: Programs, version: str) -> dict[str, bytes | str]:
    """Contents of the initramfs: path to bytes (a file, executable) or text (a symlink)."""
    tree: dict[str, bytes | str] = {"bin/busybox": _read(programs.find("busybox"))}
    for applet in programs.run("busybox", "--list").split():
        if applet != "busybox":
            tree[f"bin/{applet}"] = "busybox"
    for tool in TOOLS:
        path = programs.find(tool)
        tree[f"bin/{tool}"] = _read(path)
        for library in _libraries(programs, path):
            tree[library.lstrip("/")] = _read(library)
    modules = _modules(programs, version)
    tree.update({f"modules/{name}": content for name, content in modules.items()})
    tree["modules/order"] = "".join(f"{name}\n" for name in modules).encode()
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


def _modules(programs: Programs, version: str) -> dict[str, bytes]:
    """File name to content, in the order of loading; what is built in does not appear."""
    modules: dict[str, bytes] = {}
    for wanted in MODULES:
        listing = programs.run("modprobe", "--set-version", version, "--show-depends", wanted)
        for path in re.findall(r"^insmod (\S+)", listing, re.MULTILINE):
            name = re.sub(r"\.(xz|zst|gz)$", "", Path(path).name)
            modules.setdefault(name, _unpacked(programs, path))
    return modules


def _unpacked(programs: Programs, path: str) -> bytes:
    """A kernel module as the guest's insmod wants it."""
    if path.endswith(".xz"):
        return lzma.decompress(_read(path))
    if path.endswith(".zst"):
        target = cache_dir() / f"module.{os.getpid()}"
        programs.run("zstd", "--decompress", "--quiet", "--force", path, "-o", str(target))
        content = _read(target)
        target.unlink()
        return content
    return _read(path)


def _cpio(tree: dict[str, bytes | str]) -> bytes:
    """An uncompressed initramfs: unpacking costs more than reading under emulation."""
    folders = {"dev", "mnt", "proc", "run", "sys", "tmp"}
    for path in tree:
        folders.update(str(parent) for parent in Path(path).parents)
    folders.discard(".")
    parts = [_entry(folder, stat.S_IFDIR | 0o755, b"") for folder in sorted(folders)]
    for path, content in sorted(tree.items()):
        if isinstance(content, str):
            parts.append(_entry(path, stat.S_IFLNK | 0o777, content.encode()))
        else:
            parts.append(_entry(path, stat.S_IFREG | 0o755, content))
    parts.append(_entry("TRAILER!!!", 0, b""))
    return b"".join(parts)


def _entry(path: str, mode: int, content: bytes) -> bytes:
    name = path.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
