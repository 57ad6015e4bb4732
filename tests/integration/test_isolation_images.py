# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever one image or restore point meets, the others of the task are done and returned."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from image_story import qemu_img
from isolation import Case, Injector
from repository_stage import Depot, uuid_of

NAMES = ("alpha", "beta", "gamma")
KEEP_ONE = {"keep_last": 1, "now": "2026-11-30T00:00:00Z"}


def overlays(folder: Path, *, there: bool) -> dict[str, list[str]]:
    """An image for each entry in a folder of its own, with an overlay on it or none."""
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        qemu_img("create", "-q", "-f", "qcow2", folder / name / f"{name}-base.qcow2", "1M")
        if there:
            options = ("-q", "-f", "qcow2", "-F", "qcow2", "-b", f"{name}-base.qcow2")
            qemu_img("create", *options, folder / name / f"{name}.qcow2")
    return {str(folder / name / f"{name}.qcow2"): [f"/{name}/"] for name in NAMES}


def images(module: str, *, there: bool = True, **params: object) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        entries = overlays(folder / "v", there=there)
        given = {"path": list(entries), **params}
        if module != "qcow2_info":
            given["state_dir"] = str(folder / "state")
        return Case(module, given, entries, "images")

    return make


def own_base(folder: Path) -> Case:
    """Overlays are made on one base: it mentions none of the entries."""
    qemu_img("create", "-q", "-f", "qcow2", folder / "base.qcow2", "1M")
    wanted = {"base": str(folder / "base.qcow2"), "base_format": "qcow2", "state": "present"}
    return images("qcow2_overlay", there=False, **wanted)(folder)


def points(module: str, **params: object) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        depot = Depot(folder / "repository")
        for name in NAMES:
            depot.chain(3, name)
        entries = {name: [name, uuid_of(name)] for name in NAMES}
        given = {"vm": list(NAMES), "repository": str(depot.path), **params}
        return Case(module, given, entries, "vms")

    return make


CASES = {
    "info": images("qcow2_info"),
    "snapshot": images("qcow2_snapshot", name="s1"),
    "snapshot of none": images("qcow2_snapshot", name="s1", state="absent"),
    "overlay": own_base,
    "commit": images("qcow2_overlay", state="committed"),
    "removal": images("qcow2_overlay", state="absent"),
    "points": points("vm_backup_info"),
    "verification": points("vm_backup_info", verify=True, now="2026-11-30T00:00:00Z"),
    "pruning": points("vm_backup_prune", **KEEP_ONE),
}


@pytest.mark.parametrize("case", CASES)
def test_whatever_one_entry_meets(case: str, fast: Path) -> None:
    stage = fast / "stage"
    stage.mkdir()
    made = CASES[case](stage)
    shutil.copytree(stage, fast / "kept", symlinks=True)

    def restore() -> None:
        shutil.rmtree(stage)
        shutil.copytree(fast / "kept", stage, symlinks=True)

    Injector(made, fast / "log", restore).try_all(16)
