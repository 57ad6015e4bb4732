# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What images hold, read without our code: regions by ``qemu-img convert``, chains by headers."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lab.forked import run_forked

from .model import REGIONS

REGION = 4096
# Of a small ext4.
BLOCK = 1024
# Regions of a disk without a file system lie so far apart that none shares a cluster.
STRIDE = 1024 * 1024
_MARK = re.compile(rb"region (vd[a-z]) (\d+) holds (\d+)\n")


class Stray(Exception):
    """A disk holds what nobody has written."""


def block_of(region: int) -> int:
    """Where a region lies, in units of `REGION`."""
    return (region * STRIDE + region * REGION) // REGION


def filled(target: str, region: int, number: int) -> bytes:
    """What is written for a number."""
    text = f"region {target} {region} holds {number}\n".encode()
    return (text * (REGION // len(text) + 1))[:REGION]


def content(target: str, path: str, scratch: Path | None = None) -> tuple[int, ...]:
    """The numbers of a disk whose image, also one that is in use, is this.

    `scratch`: a directory to work in, by default that of the image.
    """
    raw = _raw(path, scratch or Path(path).parent)
    return _of_file_system(target, raw) if target == "vda" else _of_disk(target, raw)


def _raw(path: str, folder: Path) -> bytes:
    """What the guest sees of the image, byte by byte."""
    if path.endswith(".raw"):
        return Path(path).read_bytes()
    scratch = folder / f".look-{os.getpid()}"
    command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", path, str(scratch)]
    try:
        subprocess.run(command, check=True, capture_output=True)
        return scratch.read_bytes()
    finally:
        scratch.unlink(missing_ok=True)


def _of_file_system(target: str, raw: bytes) -> tuple[int, ...]:
    """Regions in a file that was written once as a whole, so that each has its place for good."""
    found: dict[int, int] = {}
    for match in _MARK.finditer(raw):
        name, region, number = match[1].decode(), int(match[2]), int(match[3])
        if match.start() % BLOCK == 0:
            if name != target or raw[match.start() :][:REGION] != filled(name, region, number):
                raise Stray(f"{target}: a region is torn or of another disk: {match[0]!r}")
            found[region] = number
    return tuple(found.get(region, -1) for region in range(REGIONS))


def _of_disk(target: str, raw: bytes) -> tuple[int, ...]:
    """All else must be zero."""
    numbers, rest = [], bytearray(raw)
    for region in range(REGIONS):
        start = block_of(region) * REGION
        held = raw[start : start + REGION]
        rest[start : start + REGION] = bytes(REGION)
        match = _MARK.match(held)
        number = int(match[3]) if match else 0
        if held != (filled(target, region, number) if match else bytes(REGION)):
            raise Stray(f"{target}: region {region} holds {held[:40]!r}")
        numbers.append(number)
    if rest != bytes(len(rest)):
        raise Stray(f"{target}: bytes outside of the regions were written")
    return tuple(numbers)


def files_named(xml: str) -> set[str]:
    """Every file that a definition of a machine or a snapshot names."""
    root = ET.fromstring(xml)
    named = {node.get("file", "") for node in root.iter() if node.get("file")}
    return named | {os.path.realpath(path) for path in named}


def holding(xml: str) -> set[str]:
    """The images that hold a snapshot inside, as its definition names them."""
    root = ET.fromstring(xml)
    inside = {d.get("name") for d in root.iterfind("disks/disk") if d.get("snapshot") == "internal"}
    found = {
        disk.find("target").get("dev"): disk.find("source").get("file", "")
        for disk in root.iterfind("domain/devices/disk")
        if disk.find("target") is not None and disk.find("source") is not None
    }
    return {path for target, path in found.items() if target in inside}


def former(xml: str) -> set[str]:
    """The overlays that a snapshot has had before, and that go when it is removed."""
    found = re.search(r" former=(\S+)", ET.fromstring(xml).findtext("description", ""))
    return {unquote(path) for path in found[1].split(",")} if found else set()


def chain(path: str) -> list[str]:
    """An image and all that it stands on."""
    found: list[str] = []
    while path and path not in found and os.path.exists(path):
        found.append(path)
        path = _backing(path)
    return found


def _backing(path: str) -> str:
    """The name of the backing file in the header of a qcow2 image, '' for none."""
    with open(path, "rb") as image:
        magic, _version, offset, size = struct.unpack(">4sIQI", image.read(20))
        if magic != b"QFI\xfb" or not offset:
            return ""
        image.seek(offset)
        name = os.fsdecode(image.read(size))
    return os.path.join(os.path.dirname(path), name)


def absent(module: str, path: str, root: Path, state_dir: Path, **more: str) -> dict[str, Any]:
    """The result of the task that removes an image, or something in it, which nobody needs.

    It sees the definitions of the libvirt whose directory is ``root``.
    """
    given = {"path": path, "state": "absent", "allowed_roots": [str(root)], **more}
    env = {"XDG_CONFIG_HOME": str(root / "c")}
    return run_forked(module, {**given, "state_dir": str(state_dir)}, env=env)


def is_state(path: Path) -> bool:
    """Whether a file in the folder of a machine is an image or holds memory."""
    return path.suffix in (".qcow2", ".raw", ".save") and not path.name.startswith(".")
