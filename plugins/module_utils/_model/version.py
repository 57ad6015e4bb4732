# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The version of the collection, as records and messages name it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

VERSION = "0.1.0"
