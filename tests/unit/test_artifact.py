# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``ansible-galaxy collection build`` packs is what git has, however full the caches are."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest
from tools.common import ROOT, TOOLS, files_of_the_checkout, tool_environment

GENERATED = {"MANIFEST.json", "FILES.json"}
NOT_PACKED = {"galaxy.yml", ".gitignore", ".ci/run"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all files in a fresh artifact, and of folders that hold none."""
    target = tmp_path_factory.mktemp("artifact")
    argv = [f"{TOOLS}/ansible-galaxy", "collection", "build", "--output-path", str(target)]
    subprocess.run(argv, cwd=ROOT, env=tool_environment(), check=True, capture_output=True)
    with tarfile.open(next(target.glob("*.tar.gz"))) as archive:
        names = {member.name.rstrip("/") for member in archive.getmembers()}
    return names - {str(folder) for name in names for folder in Path(name).parents}


def test_it_holds_all_files_of_the_checkout_and_no_other(packed: set[str]) -> None:
    empty_here = {
        path for path in packed if (ROOT / path).is_dir() and not any(ROOT.glob(f"{path}/*"))
    }
    assert packed - empty_here - GENERATED == set(files_of_the_checkout()) - NOT_PACKED


def test_it_holds_what_users_need(packed: set[str]) -> None:
    assert {"LICENSE", "README.md", "CHANGELOG.md", "meta/runtime.yml"} <= packed
