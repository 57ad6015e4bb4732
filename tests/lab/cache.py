# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the lab keeps what is costly to make: guest, capabilities, answer of the KVM test."""

from __future__ import annotations

import os
import tempfile
import time
from functools import cache
from pathlib import Path

WEEK = 7 * 24 * 3600
REPOSITORY = Path(__file__).resolve().parents[2]


@cache
def cache_dir() -> Path:
    """`.cache/lab` of the checkout, or a folder of the user when the checkout is read-only."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for path in (REPOSITORY / ".cache" / "lab", Path(home, "vmkeep-lab"), _private()):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(path, os.W_OK):
            return path
    return Path(tempfile.mkdtemp(prefix="vmkeep-lab-cache-"))


def _private() -> Path:
    return Path(f"/tmp/vmkeep-lab-cache-{os.getuid()}")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.chmod(name, 0o644)
    os.replace(name, path)


def mark_used(*paths: Path) -> None:
    """Note that files of the cache were used now; others are left as they are."""
    for path in paths:
        if path.parent == cache_dir():
            os.utime(path)


def forget_unused(*patterns: str) -> None:
    """Remove files of the cache that nobody has used for a week."""
    limit = time.time() - WEEK
    for pattern in patterns:
        for path in cache_dir().glob(pattern):
            if path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
