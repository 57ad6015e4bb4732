# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests that need real virtual machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_story import Images
from kill_fixtures import killer, pytest_addoption, some, stage
from lab import Lab
from lab.fixtures import lab_session, make_vm, vm
from long_tests import pytest_collection_modifyitems
from repository_stage import fast
from role_stage import Roles
from storage_stage import storage, stored_vm
from story import Modules

__all__ = [
    "fast",
    "images",
    "killer",
    "lab_session",
    "make_vm",
    "modules",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "roles",
    "some",
    "stage",
    "storage",
    "stored_vm",
    "vm",
]


@pytest.fixture
def modules(lab_session: Lab, tmp_path: Path) -> Modules:
    """The modules against the lab of this run."""
    return Modules(lab_session, tmp_path / "state")


@pytest.fixture
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """The modules for images, on a host without libvirt."""
    return Images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def roles(lab_session: Lab, tmp_path: Path) -> Roles:
    """The playbooks that are made of roles."""
    return Roles(lab_session, tmp_path)
