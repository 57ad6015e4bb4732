# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts ``histories`` and ``histories-trixie``: random histories, by ``tests/histories``.

Without options of theirs it is the sample, which has every action in it.
"""

from __future__ import annotations

import os
import sys

from tools import debian_root
from tools.common import COLLECTIONS, ROOT, Tally, run

# Each history keeps most of a processor busy where guests are emulated.
JOBS = min(4, (os.cpu_count() or 1) + 1)
OURS = ("--seed", "--count", "--minutes", "--jobs", "--play", "--proof", "--sample")


def run_histories(options: list[str]) -> Tally:
    """Play them; how many it were is in what they print."""
    if os.geteuid():
        print("SKIPPED LOUDLY: histories mount file systems, which needs root", flush=True)
        return Tally(skipped=1)
    if not _ours(options):
        options = ["--sample", f"--jobs={JOBS}"]
    path = f"{ROOT / 'tests'}:{COLLECTIONS}"
    command = [sys.executable, "-m", "histories", *options]
    return _tally(run(command, env={**os.environ, "PYTHONPATH": path}))


def run_on_trixie(options: list[str]) -> Tally:
    """The same on Debian 13."""
    if reason := debian_root.obstacle():
        print(f"SKIPPED LOUDLY: {reason}", flush=True)
        return Tally(skipped=1)
    mine = options if _ours(options) else []
    return _tally(run(["bin/trixie", "bin/test", "histories", *mine]))


def _ours(options: list[str]) -> bool:
    """Whether these are options of histories; pytest has others."""
    return any(option.partition("=")[0] in OURS for option in options)


def _tally(status: int) -> Tally:
    return Tally(failed=1) if status else Tally(passed=1)
