# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt was heard to say; fixtures/record.py tells how it was recorded."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "fixtures" / "libvirt-9.0"
DOMAINS = sorted(path.stem for path in FOLDER.glob("domain/*.xml"))
SNAPSHOTS = sorted(path.stem for path in FOLDER.glob("snapshot/*.xml"))
TREE = sorted(path.stem for path in FOLDER.glob("tree/*.xml"))


def recorded_save() -> bytes:
    """The header of a save and the definition behind it."""
    return (FOLDER / "save/running").read_bytes()


def recorded(name: str) -> str:
    """A file by its name: ``domain/running.xml``, ``tree/virsh``."""
    return (FOLDER / name).read_text()
