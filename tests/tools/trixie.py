# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``integration-trixie``: the integration tests on Debian 13, by ``bin/trixie``."""

from __future__ import annotations

import os

from tools.common import CACHE, Tally, run, tally_of_junit

# The cache of the checkout in there, seen from here.
REPORT = CACHE / "roots" / "trixie" / "cache" / "results" / "integration.xml"


def run_integration(options: list[str]) -> Tally:
    """Run the part ``integration`` in there with the options of pytest; skipped without root."""
    if os.geteuid() != 0:
        print("SKIPPED LOUDLY: a root folder of Debian 13 can only be made and entered by root")
        return Tally(skipped=1)
    REPORT.unlink(missing_ok=True)
    status = run(["bin/trixie", "bin/test", "integration", *options])
    return tally_of_junit([REPORT], status or not REPORT.exists())
