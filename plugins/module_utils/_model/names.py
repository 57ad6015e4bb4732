# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator may call things.

Names that we give to snapshots end up in libvirt's metadata file names, in image file names
and on qemu-img's command line, so one allow-list rules them all. What others have named is looked
up as it is, and becomes part of a file name only as :func:`file_part`.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import posixpath
import re
import shlex
import unicodedata
from collections.abc import Container
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


def meant(name: str, known: Container[str]) -> str:
    """The name as it was given where that is one, else without the blanks beside it."""
    return name if name in known else name.strip()


def check_vm_name(name: str) -> str:
    """Return ``name`` if a VM can be called so by us, or is a UUID, else raise BadInput.

    libvirt itself refuses '/' and line ends. A leading dash or dot and other control characters
    are refused here, because the name is for people and programs as well.
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


def check_known_name(name: str) -> str:
    """Return what libvirt has once called a VM, else raise BadInput: see check_vm_name."""
    if name in (".", "..", "") or "/" in name or "\n" in name or _NOT_TEXT.search(name):
        raise BadInput(
            f"the VM name {_shown(name)} is none that libvirt has given",
            wanted="a name without '/' and line ends",
            todo="restore it under another name (option 'as')",
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


def plain_path(path: str | None) -> str:
    """A path as it is compared and recorded, '' for none: no slash twice or at the end but of '/'.

    What ``..`` leads to only the kernel knows, since a symbolic link may be before it.
    """
    if not path or not path.startswith("/"):
        return path or ""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return f"/{'/'.join(parts)}"


def check_directory(path: str | None) -> str:
    """The option 'directory' as it is compared and recorded, '' for none. Raises BadInput."""
    return plain_path(check_path(path, "the option 'directory'")) if path else ""


def file_part(name: str) -> str:
    """``name`` as a part of a file name: everything but plain characters percent-encoded.

    So is a dash or a dot at its beginning, which would make it an option, hidden, or a way out.
    """
    part = quote(name, safe="_:@+=,")
    return f"%{ord(part[0]):02X}{part[1:]}" if part[:1] in ("-", ".") else part


def in_shell(name: str) -> str:
    """``name`` as a word of a command in an advice, on one line."""
    if name.isprintable():
        return shlex.quote(name)
    return "$'" + "".join(f"\\x{byte:02x}" for byte in name.encode()) + "'"


def _shown(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 60 else f"{text[:50]}...' ({len(name)} characters)"
