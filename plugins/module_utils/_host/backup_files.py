# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a restore point: images to be filled, and what a VM has beside its disks.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import stat
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .._model.backup import DOMAIN, NVRAM, TPM
from .._model.backup_steps import BackUp
from .._model.backups import Backups
from .._model.firmware import nvram_file, set_nvram
from .._model.problem import Problem, Unsupported
from .._model.state import VmState
from . import qemu_img
from .backup_job import paths_of
from .connection import call
from .durable import denied, write_whole
from .libvirt_dep import libvirt

if TYPE_CHECKING:
    from .libvirt_dep import Domain

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LARGEST = 64 << 20


def new_images(step: BackUp) -> None:
    """Make the images that the backup job is to fill, each on what it will stand on."""
    for copy, path in zip(step.copies, paths_of(step)):
        _new_file(path)
        if copy.backing:
            qemu_img.create_overlay(path, copy.backing, "qcow2", copy.size)
        else:
            qemu_img.create_image(path, copy.size)


def copy_images(step: BackUp, depth: int, timeout: float) -> None:
    """Make the images from those of a VM that is off; the parent's are of a chain of ``depth``."""
    for copy, path in zip(step.copies, paths_of(step)):
        _new_file(path)
        if copy.backing:
            parent = os.path.normpath(os.path.join(os.path.dirname(path), copy.backing))
            qemu_img.create_overlay(path, copy.source, copy.format, copy.size)
            qemu_img.difference(path, parent, "qcow2", depth=depth, timeout=timeout)
            qemu_img.rebase_unsafe(path, copy.backing, "qcow2")
        else:
            qemu_img.convert(path, "qcow2", copy.source, copy.format, timeout=timeout)


def _new_file(path: str) -> None:
    descriptor = os.open(path, _NEW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask
    finally:
        os.close(descriptor)


def other_files(dom: Domain, vm: VmState, known: Backups, folder: str) -> Iterator[tuple[str, str]]:
    """Write what the VM has beside its disks; (name, role) of each file.

    The definition names the NVRAM that is kept, also where that was left to libvirt.
    """
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE
    xml = call(f"reading VM {vm.name}", dom.XMLDesc, flags)
    if known.nvram:
        root = ET.fromstring(xml)  # noqa: S314 - the daemon's own output
        if not nvram_file(root):
            set_nvram(root, known.nvram)
            xml = ET.tostring(root, encoding="unicode")
        write_whole(os.path.join(folder, "nvram"), _content(known.nvram))
        yield "nvram", NVRAM
    write_whole(os.path.join(folder, "domain.xml"), xml.encode())
    yield "domain.xml", DOMAIN
    for path in known.tpm:
        name = f"tpm.{os.path.basename(path)}"
        write_whole(os.path.join(folder, name), _content(path))
        yield name, TPM


def _content(path: str) -> bytes:
    """A small regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if stat.S_ISREG(facts.st_mode) and facts.st_size <= _LARGEST:
                return file.read()
    except PermissionError as error:
        wanted = "to keep it with the restore point, since the VM does not start without"
        raise denied(path, error, wanted) from error
    except OSError as error:
        raise Problem(
            f"{path} cannot be read: {error.strerror}",
            wanted="to keep it with the restore point, since the VM does not start without",
            todo="look at it and at its file system",
        ) from error
    raise Unsupported(
        f"{path} is no regular file of at most {_LARGEST} bytes",
        wanted="to keep it with the restore point",
        todo="leave this VM out",
    )
