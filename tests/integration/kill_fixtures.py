# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests that kill and disturb runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_stage import Stage
from kill_trials import Killer
from lab import Lab
from story import Modules


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
