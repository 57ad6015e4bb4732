# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests that kill and disturb runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kill_stage import Stage
from kill_trials import Killer, spread
from lab import Lab
from story import Modules

SAMPLE = 3
Chooser = Callable[..., list[dict]]


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "tests marked kills do all their kills, not a sample"
    parser.addoption("--every-kill", action="store_true", help=text)


@pytest.fixture
def some(request: pytest.FixtureRequest) -> Chooser:
    """Which of its kills a test does: some on the way, all with --every-kill.

    Always the same ones, so that what fails fails again. Called with the settings of all kills and
    perhaps with how many to do.
    """
    every = request.config.getoption("--every-kill")
    return lambda settings, count=SAMPLE: settings if every else spread(settings, count)


@pytest.fixture(scope="module")
def stage(lab_session: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Machines that the tests of a module share."""
    stage = Stage(lab_session, tmp_path_factory.mktemp("stage"))
    yield stage
    stage.close()


@pytest.fixture
def killer(stage: Stage, tmp_path: Path) -> Iterator[Killer]:
    """Runs tasks.

    Tests that share machines share their locks too: the guard of an earlier test may still watch.
    """
    modules = Modules(stage.lab, stage.state_dir)
    killer = Killer(modules, tmp_path)
    yield killer
    for path in killer.journals():
        path.unlink()
