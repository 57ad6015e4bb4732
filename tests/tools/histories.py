# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``histories``: random histories on real guests, by ``tests/histories``."""

from __future__ import annotations

import os
import sys

from tools.common import COLLECTIONS, ROOT, Tally, run


def run_histories(options: list[str]) -> Tally:
    """Play them with these options; how many it were is in what they print."""
    path = f"{ROOT / 'tests'}:{COLLECTIONS}"
    command = [sys.executable, "-m", "histories", *options]
    status = run(command, env={**os.environ, "PYTHONPATH": path})
    return Tally(failed=1) if status else Tally(passed=1)
