# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a VM keeps what is neither on its disks nor in its memory: NVRAM and the state of its TPM.

And memory that lasts (NVDIMM and the like), of which nothing is kept. Follows
https://libvirt.org/formatdomain.html#bios-bootloader, #tpm-device, #memory-devices and #pstore.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

NVRAM_STATE, TPM_STATE, SECRET, LASTING = "nvram", "tpm", "secret", "lasting"
NEVER_KEPT = (SECRET, LASTING)
"""What no task needs to leave out knowingly: it is told of."""


def nvram_file(root: ET.Element) -> str:
    """The file with the variables of the firmware that a ``<domain>`` names, '' for none.

    It is the text of the element, or a source of its own where the element has a type.
    """
    node = root.find("os/nvram")
    if node is None:
        return ""
    source = node.find("source")
    if source is not None:
        return source.get("file", "") if node.get("type", "file") == "file" else ""
    return (node.text or "").strip() if node.get("type", "file") == "file" else ""


def nvram_unnamed(root: ET.Element) -> bool:
    """Whether it has such a file whose place is left to libvirt."""
    system = root.find("os")
    if system is None or nvram_file(root) or any(True for _found in unkept(root, NVRAM_STATE)):
        return False
    loader = system.find("loader")
    if loader is not None and loader.get("stateless") == "yes":
        return False
    return system.get("firmware") == "efi" or system.find("nvram") is not None


def set_nvram(root: ET.Element, path: str) -> None:
    """Let a ``<domain>`` name this file, by its text, in place of any other; '' names none."""
    node = root.find("os/nvram")
    if node is None:
        node = ET.SubElement(_child(root, "os"), "nvram")
    for source in node.findall("source"):
        node.remove(source)
    node.attrib.pop("type", None)
    node.text = path or None


def _child(root: ET.Element, tag: str) -> ET.Element:
    node = root.find(tag)
    return ET.SubElement(root, tag) if node is None else node


def unkept(root: ET.Element, kind: str = "") -> Iterator[tuple[str, str]]:
    """(nvram or tpm, what it is) of every state that is in no file or directory we could copy.

    And (secret, what it is) of a key without which a copy of such a state is worth nothing, and
    (lasting, what it is) of memory that a guest finds again when it was off.
    """
    for what in _unkept_nvram(root) if kind != TPM_STATE else ():
        yield NVRAM_STATE, what
    for what in _unkept_tpm(root) if kind != NVRAM_STATE else ():
        yield TPM_STATE, what
    for found in root.iterfind("devices/tpm/backend/encryption") if not kind else ():
        yield SECRET, f"the state of its TPM is encrypted with the secret {found.get('secret')}"
    for what in _lasting(root) if not kind else ():
        yield LASTING, what


def _lasting(root: ET.Element) -> Iterator[str]:
    for node in root.iterfind("devices/memory"):
        if node.get("model") in ("nvdimm", "virtio-pmem"):
            path = (node.findtext("source/path") or "").strip()
            yield f"it has a memory device {node.get('model')} whose content is in {path}"
    for node in root.iterfind("devices/pstore"):
        path = (node.findtext("path") or "").strip()
        yield f"it has a persistent store of its kernel in {path or 'a file of libvirt'}"


def _unkept_nvram(root: ET.Element) -> Iterator[str]:
    node, loader = root.find("os/nvram"), root.find("os/loader")
    if node is not None and node.get("type", "file") != "file":
        yield f"NVRAM of type {node.get('type')} ({_names(node.find('source'))})"
    if root.find("os/varstore") is not None:
        yield f"variables of the firmware in a varstore ({_names(root.find('os/varstore'))})"
    if loader is not None and _is_written(loader, node):
        yield f"a firmware that is written to itself ({(loader.text or '').strip()})"


def _is_written(loader: ET.Element, nvram: ET.Element | None) -> bool:
    """Whether a firmware keeps its variables in itself; what is not called read-only is not."""
    if loader.get("type") != "pflash" or loader.get("stateless") == "yes":
        return False
    return loader.get("readonly", "no" if nvram is None else "yes") == "no"


def _unkept_tpm(root: ET.Element) -> Iterator[str]:
    for backend in root.iterfind("devices/tpm/backend"):
        source, kind = backend.find("source"), backend.get("type", "")
        if kind != "emulator":
            yield f"a TPM of type {kind} ({_names(_device(backend))})"
        elif source is not None and source.get("type", "dir") != "dir":
            yield f"the state of a TPM in a {source.get('type')} of its own ({_names(source)})"


def _device(backend: ET.Element) -> ET.Element | None:
    device = backend.find("device")
    return backend.find("source") if device is None else device


def _names(node: ET.Element | None) -> str:
    """What an element says of a place, on this host or on another."""
    if node is None:
        return "its place is not named"
    keys = ("file", "dev", "path", "pool", "volume", "protocol", "name")
    found = [f"{key}={node.get(key)}" for key in keys if node.get(key)]
    return " ".join(found) or (node.text or "").strip() or "its place is not named"


def tpm_folder(root: ET.Element, *, own: bool = False) -> str:
    """The folder of an emulated TPM's state in libvirt's place for the VM, or an absolute path.

    '' where there is none that could be kept. With ``own`` libvirt's own, whatever the definition
    names; libvirt has ``source`` since 10.10.
    """
    backend = root.find("devices/tpm/backend")
    if backend is None or backend.get("type") != "emulator":
        return ""
    source = backend.find("source")
    if source is not None and source.get("path") and not own:
        return source.get("path", "") if source.get("type", "dir") == "dir" else ""
    return "tpm1.2" if backend.get("version") == "1.2" else "tpm2"
