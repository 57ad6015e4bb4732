# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes down how long the tests on real guests took when they were last run here.

``PYTHONPATH=tests .venv/bin/python -m tools.seconds`` after ``bin/test integration long``. A test
that was not run keeps its figure; one that is gone loses it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from integration.long_tests import MEASURED, SECONDS, function, measured
from tools.common import CACHE, ROOT


def main() -> None:
    """Keep those that take long; how long the others take is nobody's business."""
    known = measured(MEASURED.read_text()) | dict(_reported())
    long = {test: took for test, took in known.items() if took > SECONDS and is_there(test)}
    MEASURED.write_text("".join(f"{long[test]:.1f} {test}\n" for test in sorted(long)))


def _reported() -> Iterator[tuple[str, float]]:
    for part in ("integration", "long"):
        report = CACHE / "results" / f"{part}.xml"
        for case in ET.parse(report).iter("testcase") if report.exists() else ():
            file = case.get("classname", "").rpartition(".")[2]
            yield f"{file}.py::{case.get('name')}", float(case.get("time", 0))


def is_there(test: str) -> bool:
    """Whether there is such a function in such a file."""
    file, name = function(test).split("::")
    path = ROOT / "tests" / "integration" / file
    return path.exists() and f"\ndef {name}(" in path.read_text()


if __name__ == "__main__":
    main()
