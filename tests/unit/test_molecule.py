# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part molecule runs or says why it does not, and its scenario fits what the role installs."""

from __future__ import annotations

import os

import pytest
import yaml
from nested import image
from tools import molecule
from tools.common import ROOT, Tally


def test_without_root_it_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert molecule.run_molecule([]) == Tally(skipped=1)
    assert "only root" in capsys.readouterr().out


def test_the_image_lacks_exactly_one_package_that_the_role_installs() -> None:
    variables = yaml.safe_load((ROOT / "roles/hypervisor/vars/main.yml").read_text())
    needed = {
        *variables["hypervisor_packages_of_families"]["Debian"][:-1],
        *variables["hypervisor_lvm_packages_of_families"]["Debian"],
        variables["hypervisor_qemu_of_debian"]["x86_64"],
    }
    assert needed - set(image.PACKAGES) == {image.LEFT_OUT}
