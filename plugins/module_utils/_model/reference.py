# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How an image names its backing file or data file, read as QEMU reads it.

A name is a path, or it is a reference that makes QEMU use another driver: ``json:{...}``,
``nbd://...``, ``file:...`` or any other word before a colon. References are reported and
never followed.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import unescape

_NAMED = re.compile(r"""\b(?:file|dev)\s*=\s*(?:"(/[^"]*)"|'(/[^']*)')""")


def is_reference(name: str) -> bool:
    """Whether QEMU takes ``name`` for something other than a path: a colon before any slash."""
    return ":" in name and "/" not in name[: name.index(":")]


def full_name(image: str, name: str) -> str:
    """The path (or the reference, unchanged) that ``name``, written in ``image``, stands for.

    A relative path starts at the directory of ``image`` as that was named, whether or not a
    symbolic link leads there; ``..`` is left for the kernel to resolve.
    """
    if name.startswith("/") or is_reference(name):
        return name
    return image[: image.rfind("/") + 1] + name


def relative_name(names: Iterable[str | None]) -> str:
    """How the first image can name what stands below the last one, '' if only by its full path.

    ``names`` are the backing file names in a row of images, each of which stands on the next.
    Where all are relative, so is the one that replaces them: such chains are made to be moved.
    """
    place = found = ""
    for name in names:
        if not name or name.startswith("/") or is_reference(name):
            return ""
        found = place + name
        place = found[: found.rfind("/") + 1]
    return found


def shown(name: str, limit: int = 120) -> str:
    """``name`` quoted for a message: one line, no control characters, not endless."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return f"'{text}'" if len(text) <= limit else f"'{text[:limit]}...' ({len(text)} characters)"


def paths_named_in(text: str) -> Iterator[str]:
    """All paths that a definition names as images, each once, whatever else it says."""
    yield from dict.fromkeys(unescape(a or b) for a, b in _NAMED.findall(text))
