# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A week of days by a given clock: increments, prune, verify, restores, proved by content."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backup_days import BLANK, MUTE, Days, days
from backup_story import disks_of, paused, sha256
from lab import VM, Disk
from lab.modules import run_module
from lab.playbooks import PlaybookRun
from role_stage import Roles, results

__all__ = ["days"]


def test_a_week_of_days(days: Days, roles: Roles, make_vm: Callable[..., VM]) -> None:
    """Increments, prune and verify, then restores, all proved by content."""
    vm = make_vm("db01", disks=[Disk(), BLANK])
    other = make_vm("app01", disks=[BLANK], **MUTE)
    days.usual.update(keep_daily=3, keep_weekly=2)
    contents: dict[str, dict[str, str]] = {}
    kinds = []
    for day in range(7):
        vm.write(f"/mnt/vda/day{day}", f"day {day} ".encode() * 10_000)
        vm.run(f"yes {day} | head -c 65536 | dd of=/dev/vdb bs=64k seek={day} conv=fsync; sync")
        more: dict[str, Any] = {"verify": day % 3 == 2}
        if day == 3:
            hooks = {when: roles.tasks(when, roles.says(when)) for when in ("before", "after")}
            more.update(hooks)
        if day == 6:
            more.update(days.files, verify=True)
        foreseen = days.foresee(**more) if day in (0, 6) else None
        with paused(vm):
            run = days.next(**more)
            point = days.repository.ids(vm)[-1]
            contents[point] = disks_of(vm)
        made = results(run, "vm_backup")[-1]["vms"]
        assert made["db01"]["restore_point"]["id"] == made["app01"]["restore_point"]["id"] == point
        if foreseen:
            _check_foreseen(foreseen, run)
        kinds.append(made["db01"]["restore_point"]["type"])
    assert kinds == ["full", *["incremental"] * 6]
    assert roles.said() == ["before", "after"]
    # 3 to 9 November: three days, and the newest of the week before, which is one of them
    kept = sorted(contents)[-3:]
    assert days.repository.ids(vm) == days.repository.ids(other) == kept
    for point in kept:
        days.repository.check(vm, point)
        assert days.repository.content(vm, point) == contents[point]
    assert days.repository.manifest(vm, kept[0])["type"] == "full"

    _check_reports(days, kept)
    for point, name in ((kept[0], "first"), (kept[1], "middle")):
        _restored(roles, days, vm, point, name, contents[point])


def _check_foreseen(foreseen: PlaybookRun, run: PlaybookRun) -> None:
    """Check mode told which restore points are made, and which go once they are there."""
    for module, step in (("vm_backup", "back_up"), ("vm_backup_prune", "remove_point")):
        plans = [
            [entry for result in results(each, module) for entry in result.get("plan", [])]
            for each in (foreseen, run)
        ]
        told, done = ([entry for entry in plan if entry["step"] == step] for plan in plans)
        assert told == done
    said = {each.output.count("removed: 20") for each in (foreseen, run)}
    assert len(said) == 1


def _check_reports(days: Days, kept: list[str]) -> None:
    metrics = days.metrics()
    assert metrics["success"] == {"db01": 1, "app01": 1} and metrics["run_success"] == {"": 1}
    assert metrics["restore_points"] == {"db01": 3, "app01": 3}
    now = days.repository.now.timestamp()
    assert metrics["last_good_timestamp_seconds"]["db01"] == now
    assert metrics["last_good_age_seconds"]["db01"] == 0
    assert metrics["last_verified_timestamp_seconds"] == {"db01": now, "app01": now}
    assert metrics["depth"]["db01"] == 3 and metrics["bytes"]["db01"] > 60_000
    assert not list(days.folder.glob("*.new"))
    text = Path(days.files["report_text"]).read_text()
    assert f"newest: {kept[-1]}, 0 min old, 3 images to read, read in full at" in text
    assert f"removed: {days.repository.now:%Y%m}06T030000Z, no rule keeps it" in text
    page = Path(days.files["report_html"]).read_text()
    assert not re.search(r"(src|href)=|@import|url\(", page), "it needs something else"
    charts = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    bars = [chart.findall("{http://www.w3.org/2000/svg}rect") for chart in charts]
    assert [len(found) for found in bars] == [3, 3]
    assert {each.get("class") for each in bars[0]} == {"full", "incremental"}


def _restored(
    roles: Roles, days: Days, vm: VM, point: str, name: str, content: dict[str, str]
) -> None:
    """A restore by playbook under another name has the content of the paused disk of that day."""
    repository = str(days.repository.path)
    run = roles.succeed("restore", vm="db01", repository=repository, point=point, **{"as": name})
    restored = run.result("vm_restore")["vms"]["db01"]["restored"]
    assert restored["point"] == point and f"{name}: is as it was at" in run.output
    for target, disk in restored["disks"].items():
        assert f"make {disk['file']} for {target} from {repository}/" in run.output
    found = {target: sha256(disk["file"], "qcow2") for target, disk in restored["disks"].items()}
    assert found == content
    usual = {"uri": vm.lab.uri, "state_dir": str(vm.lab.directory / "state")}
    assert run_module("vm_discard", {"vm": [name], **usual})["changed"]
