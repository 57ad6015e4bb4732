# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part that runs on Debian 13 counts what ran there, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import debian_root, trixie
from tools.common import ROOT, Tally

REPORT = '<testsuites><testsuite><testcase name="a"/></testsuite></testsuites>'


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Stands for a root user and for bin/trixie, which fails before it runs any test."""
    commands: list[list[str]] = []
    monkeypatch.setattr(debian_root, "obstacle", lambda: "")
    monkeypatch.setattr(trixie, "REPORT", tmp_path / "integration.xml")
    monkeypatch.setattr(trixie, "run", lambda argv: commands.append(argv) or 1)
    return commands


def test_the_same_part_runs_there_with_the_same_options(ran: list[list[str]]) -> None:
    trixie.run_integration(["-k", "snapshot", "-x"])
    ((*command, _whole, option, name, last),) = ran
    assert command == ["bin/trixie", "bin/test", "integration", "-k"]
    assert [option, name, last] == ["-k", "snapshot", "-x"]


def test_what_is_selected_is_there_and_what_the_readme_names_is_selected() -> None:
    folder = ROOT / "tests" / "integration"
    assert all((folder / f"test_{name}.py").is_file() for name in trixie.WHOLE)
    named = trixie.named_in_the_readme()
    assert len(named) > 40
    for file, test in [*named, *((f"test_{name}.py", test) for name, test in trixie.CHOSEN)]:
        assert f"\ndef {test.partition('[')[0]}(" in (folder / file).read_text()
        assert f"({file} and {test.partition('[')[0]}" in trixie.selection()
    assert "and test_whatever_one_vm_meets and take)" in trixie.selection()


@pytest.mark.usefixtures("ran")
def test_what_an_earlier_run_has_reported_does_not_count() -> None:
    trixie.REPORT.write_text(REPORT)
    assert trixie.run_integration([]) == Tally(failed=1)


@pytest.mark.usefixtures("ran")
def test_a_run_without_a_report_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trixie, "run", lambda _argv: 0)
    assert trixie.run_integration([]) == Tally(failed=1)


@pytest.mark.usefixtures("ran")
def test_its_own_report_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trixie, "run", lambda _argv: not trixie.REPORT.write_text(REPORT))
    assert trixie.run_integration([]) == Tally(passed=1)


def test_where_it_cannot_run_it_is_skipped_aloud(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(debian_root, "obstacle", lambda: "no root")
    assert trixie.run_integration([]) == Tally(skipped=1) and ran == []
    assert "SKIPPED LOUDLY: no root" in capsys.readouterr().out
