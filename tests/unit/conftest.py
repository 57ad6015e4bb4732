# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the unit tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says nothing on a machine that is busy.
settings.register_profile("vmkeep", deadline=None)
settings.load_profile("vmkeep")
