# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles backup_rotation and restore_drill, by their playbooks, on days whose clock is given."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backup_story import Repository, disks_of, paused, sha256
from lab import VM, Disk
from lab.modules import run_module
from lab.playbooks import PlaybookRun
from role_stage import FAILS, Roles, results
from story import Modules, folder

BLANK = Disk(content="blank", size=16)
MUTE = {"agent": False, "running": False}


class Days:
    """Runs of backup.yml, a day after another, that write all files in ``folder``."""

    def __init__(self, roles: Roles, modules: Modules, **usual: Any) -> None:
        self.roles = roles
        self.folder = roles.folder
        self.repository = Repository(roles.folder / "backup", modules)
        self.usual = {"quiesce": "never", **usual}
        self.files = {
            "metrics": str(self.folder / "vmkeep.prom"),
            "report_text": str(self.folder / "report.txt"),
            "report_html": str(self.folder / "report.html"),
        }

    def variables(self, **more: Any) -> dict[str, Any]:
        return {**self.repository.params(), **self.usual, **more}

    def next(self, *options: str, **more: Any) -> PlaybookRun:
        self.repository.later()
        return self.roles.succeed("backup", *options, **self.variables(**more))

    def refused(self, **more: Any) -> str:
        return self.roles.refused("backup", **self.variables(**more))

    def metrics(self) -> dict[str, dict[str, float]]:
        """metric -> VM -> value; every line has to be as Prometheus reads it."""
        found: dict[str, dict[str, float]] = {}
        for line in (self.folder / "vmkeep.prom").read_text().splitlines():
            if not re.fullmatch(r"# (HELP|TYPE) vmkeep_\w+ .+", line):
                shape = r'vmkeep_(?:backup|drill)_(\w+)\{(?:vm="(.*?)",)?repository="(.*?)"\} (\S+)'
                read = re.fullmatch(shape, line)
                assert read, line
                found.setdefault(read[1], {})[read[2] or ""] = float(read[4])
        return found


@pytest.fixture
def days(roles: Roles, modules: Modules) -> Days:
    return Days(roles, modules)


def all_files(path: Path) -> set[str]:
    """The images and manifests of a repository."""
    found = (str(file.relative_to(path)) for file in path.rglob("*.*") if file.is_file())
    return {name for name in found if not name.endswith((".lock", "verified.json"))}


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
        with paused(vm):
            run = days.next(**more)
            point = days.repository.ids(vm)[-1]
            contents[point] = disks_of(vm)
        made = results(run, "vm_backup")[-1]["vms"]
        assert made["db01"]["restore_point"]["id"] == made["app01"]["restore_point"]["id"] == point
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
    assert {bar.get("class") for bar in bars[0]} == {"full", "incremental"}


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_copies_by_rsync(
    days: Days, roles: Roles, make_vm: Callable[..., VM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole or not at all; what is gone here goes there if asked for; no two mixed up."""
    vm = make_vm("db01", disks=[BLANK], **MUTE)
    source, target = days.repository.path, days.folder / "copy"
    for _ in range(2):
        days.repository.back_up(vm)
    (debris := days.repository.folder(vm) / "20261224T000000Z").mkdir()
    (debris / "vda.qcow2").write_bytes(b"half of it")
    whole = all_files(source) - {str((debris / "vda.qcow2").relative_to(source))}
    copy = days.variables(copy="rsync", copy_target=str(target))
    only = ("--tags", "backup_rotation_copy")

    broken = days.folder / "bin" / "rsync"
    broken.parent.mkdir()
    broken.write_text(BREAKS_OFF.format(rsync=shutil.which("rsync")))
    broken.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(broken.parent), prepend=":")
        said = roles.refused("backup", *only, **copy, **days.files)
    assert "Failed: the run. Copy all but the manifests: the line went dead" in said
    assert days.metrics()["run_success"] == {"": 0}
    assert list(target.rglob("*.qcow2")) and not list(target.rglob("manifest.json"))

    assert roles.succeed("backup", *only, **copy).changed > 0
    assert all_files(target) == whole and list(target.rglob("*.lock")) == []
    info = run_module("vm_backup_info", {"repository": str(target), "verify": True})
    assert not info["failed"] and len(info["vms"]["db01"]["restore_points"]) == 2

    days.repository.back_up(vm, type="full")
    gone = days.repository.ids(vm)[0]
    keep = {"repository": str(source), "keep_last": 1}
    assert gone in str(run_module("vm_backup_prune", keep)["plan"])
    roles.succeed("backup", *only, **copy, copy_delete=True)
    assert all_files(target) == all_files(source)
    assert len(list(target.rglob("manifest.json"))) == len(days.repository.ids(vm))

    (target / "vmkeep-repository.json").write_text(json.dumps({"format": 1, "id": "another"}))
    assert "is the copy of another repository" in roles.refused("backup", *only, **copy)


# The pass with the images goes wrong at its end; manifests come later.
BREAKS_OFF = """\
#!/bin/sh
{rsync} "$@" || exit
case "$*" in *--files-from=*) echo "the line went dead" >&2; exit 12 ;; esac
"""


def _restored(
    roles: Roles, days: Days, vm: VM, point: str, name: str, content: dict[str, str]
) -> None:
    """A restore by playbook under another name has the content of the paused disk of that day."""
    repository = str(days.repository.path)
    run = roles.succeed("restore", vm="db01", repository=repository, point=point, **{"as": name})
    restored = run.result("vm_restore")["vms"]["db01"]["restored"]
    assert restored["point"] == point and f"{name}: is as it was at" in run.output
    found = {target: sha256(disk["file"], "qcow2") for target, disk in restored["disks"].items()}
    assert found == content
    usual = {"uri": vm.lab.uri, "state_dir": str(vm.lab.directory / "state")}
    assert run_module("vm_discard", {"vm": [name], **usual})["changed"]


def test_drills(days: Days, roles: Roles, make_vm: Callable[..., VM]) -> None:
    """One that passes, from images of its own; one that fails, from the repository itself."""
    vm = make_vm("db01")
    vm.write("/mnt/vda/day6", b"day 6")
    days.repository.back_up(vm, quiesce="never")
    state = days.folder / "state"
    before = sorted(path.name for path in folder(vm).glob("*.qcow2"))
    mounted = "for n in 1 2 3 4 5 6 7 8 9; do grep -q 'day 6' /mnt/vda/day6 && exit; sleep 1; done"
    good = {"name": "the last day is there", "command": ["/bin/sh", "-c", f"{mounted}; exit 1"]}
    bad = {"command": ["/bin/false"], "vm": ["db01"]}
    elsewhere = {"command": ["/no/such/program"], "vm": ["app01"]}
    usual = {
        "vm": "db01",
        "repository": str(days.repository.path),
        "metrics": days.files["metrics"],
        "state_dir": str(state),
    }
    run = roles.succeed("restore_drill", checks=[good, elsewhere], **usual)
    assert "good: the last day is there" in run.output and "s after the beginning" in run.output
    metrics = days.metrics()
    assert metrics["success"] == {"db01": 1}
    assert 0 < metrics["recovery_seconds"]["db01"] <= metrics["checked_seconds"]["db01"]
    assert roles.succeed("restore_drill", "--check", checks=[good], **usual).changed == 1

    said = roles.refused("restore_drill", checks=[good, bad], instant=True, **usual)
    assert "FAILED: /bin/false" in said and "db01 did not come back as wanted" in said
    assert days.metrics()["success"] == {"db01": 0}
    assert sorted(dom.name() for dom in vm.lab.connection.listAllDomains()) == ["db01"]
    assert sorted(path.name for path in folder(vm).glob("*.qcow2")) == before
    assert not list((state / "drills").iterdir())


def test_a_vm_that_fails_stops_no_other(
    days: Days, roles: Roles, make_vm: Callable[..., VM]
) -> None:
    """The report and the metrics are written, whatever fails, and the play fails at its end."""
    make_vm("one", disks=[BLANK], **MUTE)
    days.repository.later()
    said = days.refused(vm="nosuch,one", **days.files)
    assert "Failed: nosuch. there is no VM nosuch" in said
    metrics = days.metrics()
    assert metrics["success"] == {"nosuch": 0, "one": 1} and metrics["run_success"] == {"": 0}
    assert metrics["last_good_timestamp_seconds"]["nosuch"] == 0
    text = Path(days.files["report_text"]).read_text()
    assert "nosuch: FAILED" in text and "NO GOOD RESTORE POINT" in text
    assert "one: restore point made" in text

    # a damaged restore point is found by the next run, which says so and goes on
    image = next(days.repository.path.glob("one.*/*/vda.qcow2"))
    with image.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    said = days.refused(vm="one", **days.files)
    assert "Failed: one." in said and image.parent.name in said
    assert days.metrics()["bad_restore_points"] == {"one": 1}
    assert 'class="wrong"' in Path(days.files["report_html"]).read_text()

    # a hook that fails ends it before anything is backed up
    days.repository.later()
    hook = roles.tasks("broken", roles.says("broken"), FAILS)
    good = roles.tasks("good", roles.says("good"))
    said = days.refused(vm="one", before=hook, after=good, **days.files)
    assert "Failed: the run. Break: it is broken" in said, said[-900:]
    assert roles.said() == ["broken", "good"]
    assert days.metrics()["run_success"] == {"": 0}
    assert len(list(days.repository.path.glob("one.*/*/manifest.json"))) == 1
    report = days.roles.succeed(
        "report", vm="one", repository=str(days.repository.path), now=days.variables()["now"]
    )
    assert report.changed == 0 and "all: 1 restore point" in report.output


@pytest.mark.parametrize("program", ["restic", "borg"])
def test_an_archive_that_is_encrypted(days: Days, roles: Roles, program: str) -> None:
    """The program reads the password itself: it is nowhere in what a run says, or starts."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    point = days.repository.path / "db01.x" / "20261101T000000Z"
    point.mkdir(parents=True)
    for file in (point / "manifest.json", point / "vda.qcow2", point.parent / "writer.lock"):
        file.write_text(file.name)
    password, target = roles.folder / "a word's file", str(roles.folder / "archive")
    password.write_text("only-the-program-knows\n")
    environment = {
        **roles.controller.environment(),
        "RESTIC_PASSWORD_FILE": str(password),
        "BORG_PASSCOMMAND": f"cat {shlex.quote(str(password))}",
        "HOME": str(roles.folder),
    }

    def run(*words: str) -> str:
        done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
        return done.stdout

    begin = ["-r", target, "init"] if program == "restic" else ["init", "-e", "repokey", target]
    run(program, *begin)
    play = roles.folder / "archive.yml"
    play.write_text(ARCHIVE.format(program=program, target=target, password=password, days=days))
    done = roles.controller.play(str(play), {}, "-vvv")
    assert done.status == 0, done.output
    assert "only-the-program-knows" not in done.output
    if program == "restic":
        held = run("restic", "-r", target, "ls", "latest")
    else:
        name = run("borg", "list", "--short", target).strip()
        held = run("borg", "list", "--short", f"{target}::{name}")
    assert "20261101T000000Z/vda.qcow2" in held and "20261101T000000Z/manifest.json" in held
    assert "writer.lock" not in held


ARCHIVE = """\
- hosts: hypervisors
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: vmkeep.libvirt.backup_rotation
        tasks_from: copy.yml
      vars:
        backup_rotation_repository: {days.repository.path}
        backup_rotation_copy: {program}
        backup_rotation_copy_target: {target}
        backup_rotation_copy_password_file: "{password}"
        backup_rotation_copy_environment: {{HOME: "{days.folder}"}}
        backup_rotation_program: {{stdout: ""}}
"""


def test_what_is_refused(days: Days, roles: Roles, make_vm: Callable[..., VM]) -> None:
    make_vm("one", disks=[Disk(content="blank", size=1)], **MUTE)
    for playbook, variables, message in (
        ("backup", {"vm": ["one"], "exclude": ["o*"]}, "No VM of lab is chosen, which has one"),
        (
            "backup",
            {"vm": "one", "metrics": "/tmp/metrics"},
            "Wanted: an absolute path that ends in .prom",
        ),
        ("backup", {"repository": "/nowhere"}, "/nowhere does not exist. Wanted: a directory"),
        ("restore_drill", {"vm": ""}, "Say which VMs"),
    ):
        assert message in roles.refused(playbook, **days.variables(**variables)), variables
    assert list(days.repository.path.iterdir()) == []
