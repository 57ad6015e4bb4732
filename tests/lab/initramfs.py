# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an initramfs is made of: programs, modules of a kernel, and the archive that holds them.

The archive is in the "newc" format of cpio: see
Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source.
"""

from __future__ import annotations

import lzma
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from .cache import cache_dir
from .programs import Programs

Tree = dict[str, "bytes | str"]
"""Path to bytes (a file, executable) or text (a symbolic link)."""


def busybox(programs: Programs) -> Tree:
    """A shell and the usual programs."""
    tree: Tree = {"bin/busybox": Path(programs.find("busybox")).read_bytes()}
    for applet in programs.run("busybox", "--list").split():
        if applet != "busybox":
            tree[f"bin/{applet}"] = "busybox"
    return tree


def kernel_modules(
    programs: Programs, version: str, wanted: Iterable[str], root: Path = Path("/")
) -> Tree:
    """Modules of a kernel in ``root`` and all that they need, and their order of loading.

    What is built in does not appear.
    """
    modules: dict[str, bytes] = {}
    place = ("--dirname", str(root), "--set-version", version)
    for name in wanted:
        listing = programs.run("modprobe", *place, "--show-depends", name)
        for path in re.findall(r"^insmod (\S+)", listing, re.MULTILINE):
            file = re.sub(r"\.(xz|zst|gz)$", "", Path(path).name)
            modules.setdefault(file, _unpacked(programs, path))
    tree: Tree = {f"modules/{file}": content for file, content in modules.items()}
    tree["modules/order"] = "".join(f"{file}\n" for file in modules).encode()
    return tree


def _unpacked(programs: Programs, path: str) -> bytes:
    """A kernel module as the guest's insmod wants it."""
    if path.endswith(".xz"):
        return lzma.decompress(Path(path).read_bytes())
    if path.endswith(".zst"):
        target = cache_dir() / f"module.{os.getpid()}"
        programs.run("zstd", "--decompress", "--quiet", "--force", path, "-o", str(target))
        content = target.read_bytes()
        target.unlink()
        return content
    return Path(path).read_bytes()


def cpio(tree: Tree) -> bytes:
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
