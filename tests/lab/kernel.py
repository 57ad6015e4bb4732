# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel that guests boot: one of the distribution, unpacked where that is possible.

A kernel file holds a compressed kernel and code to unpack it, which under emulation takes a
second of every boot. QEMU also boots an unpacked kernel, by the PVH entry.
The file's layout: Documentation/arch/x86/boot.rst in the kernel's source.
"""

from __future__ import annotations

import lzma
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from .cache import REPOSITORY, cache_dir, replace_file
from .programs import LabError, Programs

# Kernels made for virtual machines first: they are the smallest and have everything built in.
FLAVOURS = ("-cloud-", "-virtual", "-kvm", "-generic")
SETUP_SECTORS = 0x1F1
PAYLOAD = 0x248
ELF = b"\x7fELF"

Unpack = Callable[[Programs, Path], bytes]


def pick_kernel() -> tuple[str, Path]:
    """Version and file of the kernel to boot: readable, with its modules installed."""
    found = [
        (path.name.removeprefix("vmlinuz-"), path)
        for folder in (REPOSITORY / ".cache" / "lab", cache_dir(), Path("/boot"))
        for path in folder.glob("vmlinuz-*")
        if os.access(path, os.R_OK)
    ]
    usable = [item for item in found if Path("/lib/modules", item[0], "modules.dep").exists()]
    if not usable:
        raise LabError(
            "No readable kernel with its modules in /boot or the lab's cache. Run bin/setup test."
        )
    return max(usable, key=lambda item: (_flavour(item[0]), _version_key(item[0])))


def _flavour(version: str) -> int:
    return -next((rank for rank, name in enumerate(FLAVOURS) if name in version), len(FLAVOURS))


def _version_key(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def quick_kernel(programs: Programs, version: str, packed: Path) -> Path:
    """The unpacked kernel where it can be had, else the file as it is."""
    unpacked = cache_dir() / f"vmlinux-{version}-{packed.stat().st_mtime_ns}"
    if not unpacked.exists():
        content = unpacked_kernel(programs, packed) if _has_pvh(version) else b""
        if not content.startswith(ELF):
            return packed
        replace_file(unpacked, content)
    return unpacked


def _has_pvh(version: str) -> bool:
    config = Path(f"/boot/config-{version}")
    return config.exists() and "\nCONFIG_PVH=y\n" in config.read_text()


def unpacked_kernel(programs: Programs, packed: Path) -> bytes:
    """The kernel proper as an ELF file; empty when its compression cannot be undone here."""
    kernel = packed.read_bytes()
    start, length = struct.unpack_from("<II", kernel, PAYLOAD)
    start += ((kernel[SETUP_SECTORS] or 4) + 1) * 512
    payload = kernel[start : start + length]
    scratch = cache_dir() / f".payload-{os.getpid()}"
    for magic, unpack in UNPACK.items():
        if payload.startswith(magic):
            scratch.write_bytes(payload[:-4])  # behind it: the size, four bytes
            try:
                return unpack(programs, scratch)
            except (LabError, lzma.LZMAError, zlib.error):
                return b""
            finally:
                scratch.unlink()
    return b""


def _by_program(*words: str) -> Unpack:
    """Unpack with a program that takes the names of input and output last."""

    def unpack(programs: Programs, packed: Path) -> bytes:
        target = packed.with_suffix(".out")
        try:
            programs.run(*words, str(packed), *OUTPUT.get(words[0], ()), str(target))
            return target.read_bytes()
        finally:
            target.unlink(missing_ok=True)

    return unpack


OUTPUT = {"zstd": ("-o",)}
UNPACK: dict[bytes, Unpack] = {
    b"\x02\x21\x4c\x18": _by_program("lz4", "-d", "-q", "-f"),
    b"\x28\xb5\x2f\xfd": _by_program("zstd", "-d", "-q", "-f"),
    b"\xfd7zXZ": lambda _, packed: lzma.LZMADecompressor().decompress(packed.read_bytes()),
    b"\x1f\x8b": lambda _, packed: zlib.decompressobj(31).decompress(packed.read_bytes()),
}
