# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one guarded import of the libvirt binding.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt import virConnect as Connection
    from libvirt import virDomain as Domain
    from libvirt import virDomainCheckpoint as Checkpoint

try:
    import libvirt
    import libvirt_qemu
except ImportError:
    libvirt = None
    libvirt_qemu = None
    LIBVIRT_IMPORT_ERROR = traceback.format_exc()
else:
    LIBVIRT_IMPORT_ERROR = ""

__all__ = ["LIBVIRT_IMPORT_ERROR", "Checkpoint", "Connection", "Domain", "libvirt", "libvirt_qemu"]
