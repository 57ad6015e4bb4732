# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""bin/bench runs, with every part in its smallest size. No figure is held against anything here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("part", ["freeze", "commit", "info", "fleet", "backup", "restore"])
def test_a_part_runs(part: str, tmp_path: Path) -> None:
    measured, page = tmp_path / "measured.json", tmp_path / "page.md"
    words = ["bin/bench", part, "--quick", "--pairs", "1", "--json", measured, "--page", page]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = json.loads(measured.read_text())["parts"]
    assert found["part"] == part
    for row in found["rows"]:
        assert len(row["ours"]) == len(row["peer"]) == 1
        assert min(*row["ours"], *row["peer"]) > 0
        assert row["what"] in page.read_text()
    if part == "fleet":
        assert "started by a no-change run over 3 VMs: 0 " in page.read_text()


def test_too_few_pairs_are_refused() -> None:
    words = ["bin/bench", "info", "--pairs", "2"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "fewer than 7 pairs say nothing" in done.stderr
