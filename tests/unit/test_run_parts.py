# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""bin/test chooses its parts, counts honestly and ends with the line that others read."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_parts
from integration.long_tests import KEPT, MEASURED, left_out, measured
from run_parts import Part
from tools import lint
from tools.common import Tally, tally_of_junit
from tools.seconds import is_there

REPORT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"><failure/></testcase><testcase name="c"><error/></testcase>
<testcase name="d"><skipped message="no KVM"/></testcase>
<testcase name="e"><skipped>No tests applicable.</skipped></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    return path


def test_a_report_is_counted(report: Path) -> None:
    assert tally_of_junit([report], 1) == Tally(passed=1, failed=2, skipped=1)


def test_a_crash_without_a_report_is_a_failure(tmp_path: Path) -> None:
    assert tally_of_junit([tmp_path / "missing.xml"], 2) == Tally(failed=1)


def test_all_but_what_takes_long_runs_by_default_the_quick_ones_first() -> None:
    chosen, options = run_parts.split(["-k", "unit"])
    usual = ["lint", "unit", "sanity", "histories", "histories-trixie"]
    usual += ["integration", "integration-trixie", "molecule"]
    assert [part.name for part in chosen] == usual
    assert options == ["-k", "unit"]


def test_of_what_takes_long_the_quickest_stays_that_the_readme_names() -> None:
    kept = min(KEPT)
    seconds = {"a.py::f[1]": 90, "a.py::f[2]": 70, "b.py::g": 9, "c.py::h": 1, kept: 100}
    assert left_out(seconds, {"a.py::f"}) == {"a.py::f[1]", "b.py::g"}
    assert left_out(seconds, {}) == {"a.py::f[1]", "a.py::f[2]", "b.py::g"}


def test_what_is_written_down_of_tests_is_of_tests_that_are_there() -> None:
    written = measured(MEASURED.read_text()).keys() | KEPT
    assert [test for test in written if not is_there(test)] == []


def test_named_parts_come_before_the_options() -> None:
    chosen, options = run_parts.split(["unit", "kills", "-x"])
    assert [part.name for part in chosen] == ["unit", "kills"]
    assert options == ["-x"]


def parts(*tallies: Tally) -> tuple[Part, ...]:
    return tuple(Part(str(n), lambda _options, t=tally: t) for n, tally in enumerate(tallies))


@pytest.mark.parametrize(
    ("options", "status", "closing"),
    [([], 1, "5 passed, 1 failed, 2 skipped"), (["--exitfirst"], 1, "2 passed, 1 failed")],
)
def test_a_failed_part_stops_the_run_only_if_asked(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    closing: str,
) -> None:
    monkeypatch.setattr(run_parts, "PARTS", parts(Tally(2, 1), Tally(3, 0, 2)))
    assert run_parts.main(options) == status
    assert capsys.readouterr().out.splitlines()[-1] == closing


def test_a_run_without_any_test_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_parts, "PARTS", parts(Tally()))
    assert run_parts.main([]) == 1


def test_a_good_run_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_parts, "PARTS", parts(Tally(1)))
    assert run_parts.main([]) == 0


@pytest.mark.parametrize(
    ("script", "good"),
    [("exit 0", True), ("exit 3", False), ("echo 'WARNING: no changelog'", False)],
)
def test_a_check_fails_by_status_or_complaint(script: str, good: bool) -> None:
    check = lint.Check("example", ["sh", "-c", script], complaint=lint.IMPORTER_COMPLAINT)
    assert lint.run_check(check) == (Tally(passed=1) if good else Tally(failed=1))


def test_scripts_are_found_by_their_first_line() -> None:
    found = lint.scripts_by_language()
    assert "bin/test" in found["sh"]
    assert not any(name.endswith(".py") for name in found["python"])
