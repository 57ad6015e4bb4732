# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems in a file, some of which can clone files.

One that is mounted below the directory of a lab is unmounted by whoever takes down that lab, so
nothing stays behind of a run that was killed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# xfsprogs makes none below 300 MB. The files have holes, so that most of it takes no space.
SIZE = 768 << 20
MAKE = {
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "plain-xfs": ("mkfs.xfs", "-q", "-m", "reflink=0"),
    "btrfs": ("mkfs.btrfs", "-q"),
}


def mount_trouble() -> str:
    """Why a file cannot be mounted here, '' where it can."""
    if os.geteuid() != 0:
        return "only root can mount file systems that clone files"
    probe = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    return f"there is no loop device here ({probe.stderr.strip()})" if probe.returncode else ""


def mount_new(kind: str, image: Path, point: Path, size: int = SIZE) -> None:
    """Make a file system of this kind (see MAKE) in a new file, and mount it on a directory."""
    with image.open("xb") as file:
        file.truncate(size)
    for words in ((*MAKE[kind], str(image)), ("mount", "-o", "loop", str(image), str(point))):
        subprocess.run(words, check=True, capture_output=True)
