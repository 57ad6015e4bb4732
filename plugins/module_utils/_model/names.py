# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator may call things.

Names of snapshots end up in libvirt's metadata file names, in image file names
and on qemu-img's command line, so one allow-list rules them all.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from urllib.parse import quote

from .problem import BadInput

SNAPSHOT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,126}\Z")
_UNIT_LIMIT = 255
# What XML 1.0 has no place for (https://www.w3.org/TR/xml/#charsets).
_NOT_TEXT = re.compile(r"[^\t\n\r -\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
_NOT_IN_A_PATH = re.compile(r"[^ -~\u00A0-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def check_snapshot_name(name: str) -> str:
    """Return ``name`` if it is allowed, else raise BadInput saying what is wrong with it."""
    if SNAPSHOT_NAME.match(name):
        return name
    raise BadInput(
        f"the snapshot name {_shown(name)} is not allowed",
        wanted="1 to 127 letters, digits or any of _ . : @ + -, starting with a letter, digit or _",
        todo="choose another name",
    )


def check_vm_name(name: str) -> str:
    """Return ``name`` if libvirt could have a domain of that name or UUID, else raise BadInput.

    libvirt itself refuses '/' and control characters; a leading dash or dot is refused here
    because the name becomes part of file names.
    """
    bad = (
        not name.strip()
        or len(name.encode("utf-8", "surrogatepass")) > _UNIT_LIMIT
        or "/" in name
        or name[0] in "-."
        or any(unicodedata.category(char).startswith("C") for char in name)
    )
    if bad:
        raise BadInput(
            f"the VM name {_shown(name)} is not allowed",
            wanted="a libvirt domain name or UUID: at most 255 bytes, no '/', no control"
            " characters, no leading '-' or '.'",
            todo="correct the option 'vm' ('virsh list --all' shows the names)",
        )
    return name


def check_description(text: str) -> str:
    """``text`` with plain line ends, as XML stores it; BadInput for what XML cannot hold."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _NOT_TEXT.search(text):
        raise BadInput(
            f"the description {_shown(text)} holds a control character",
            wanted="text; tabs and line ends are allowed",
            todo="remove it",
        )
    return text


def check_path(path: str, what: str) -> str:
    """``path`` if it is absolute and can be written in XML and on one line, else BadInput."""
    if posixpath.isabs(path) and not _NOT_IN_A_PATH.search(path):
        return path
    raise BadInput(
        f"{what} is {_shown(path)}",
        wanted="an absolute path without control characters",
        todo="correct it",
    )


def file_part(name: str) -> str:
    """``name`` as a part of a file name: everything but plain characters percent-encoded."""
    return quote(name, safe="_:@+=,")


def _shown(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 60 else f"{text[:50]}...' ({len(name)} characters)"
