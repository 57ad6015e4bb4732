# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roots of other releases come from the mirror of this machine and are named after their recipe."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tools import debian_root
from tools.debian_root import Recipe, translated

TARGETS = """\
Debian http://mirror.example/debian/ bookworm main
Debian http://mirror.example/debian/ bookworm-updates main
Debian http://security.example/debian-security/ bookworm-security main
Debian http://mirror.example/debian/ bookworm contrib
Debian http://mirror.example/debian/ bookworm-backports main
Vendor http://vendor.example/debian/ bookworm main
""".splitlines()


def test_the_mirrors_of_this_machine_serve_the_other_release() -> None:
    assert translated(TARGETS, "bookworm", "trixie") == [
        "deb http://mirror.example/debian/ trixie main",
        "deb http://mirror.example/debian/ trixie-updates main",
        "deb http://security.example/debian-security/ trixie-security main",
    ]


def test_a_machine_without_debian_has_none() -> None:
    assert translated(["Ubuntu http://mirror.example/ubuntu/ noble main"], "noble", "trixie") == []


def test_a_root_is_named_after_everything_in_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("a\n")
    recipe = Recipe("trixie", ("udev", "dbus"), ("true",), tmp_path)
    names = {recipe.name}
    for change in (
        {"suite": "bookworm"},
        {"packages": ("udev",)},
        {"hooks": ("false",)},
        {"files": None},
    ):
        names.add(replace(recipe, **change).name)
    (tmp_path / "etc/hostname").write_text("b\n")
    names.add(recipe.name)
    assert len(names) == 6
    assert replace(recipe, packages=("dbus", "udev")).name == recipe.name


def test_where_none_can_be_made_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "only root" in debian_root.obstacle()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(debian_root, "ALONE", ("sh", "-c", "echo not permitted >&2; exit 1"))
    assert "needs mounts of its own (not permitted)" in debian_root.obstacle()
    monkeypatch.setattr(debian_root, "ALONE", ())
    assert debian_root.obstacle() == ""
