# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles backup_rotation and restore_drill, by their playbooks, on days whose clock is given."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from backup_days import BLANK, MUTE, Days, days
from lab import VM, Disk
from lab.modules import run_module
from repository_stage import Depot
from role_stage import FAILS, Roles
from ssh_host import needs_ssh, ssh_host
from story import folder

__all__ = ["days"]


def all_files(path: Path) -> set[str]:
    """The images and manifests of a repository."""
    found = (str(file.relative_to(path)) for file in path.rglob("*.*") if file.is_file())
    return {name for name in found if not name.endswith((".lock", "verified.json"))}


@pytest.mark.skipif(shutil.which("rsync") is None, reason="SKIPPED LOUDLY: rsync is not installed")
def test_copies_by_rsync(
    days: Days, roles: Roles, make_vm: Callable[..., VM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole or not at all; what is gone here goes there if asked for; no two mixed up."""
    vm = make_vm("db01", disks=[BLANK], **MUTE)
    source, target = days.repository.path, days.folder / "copy"
    for _day in range(2):
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


@needs_ssh
def test_copies_to_another_host(days: Days, roles: Roles, make_vm: Callable[..., VM]) -> None:
    vm = make_vm("db01", disks=[BLANK], **MUTE)
    days.repository.back_up(vm)
    target = days.folder / "copy"
    with ssh_host(days.folder) as ssh:
        copy = days.variables(copy="rsync", copy_ssh=ssh, copy_target=f"root@127.0.0.1:{target}")
        roles.succeed("backup", "--tags", "backup_rotation_copy", **copy)
        assert all_files(target) == all_files(days.repository.path)
        (target / "vmkeep-repository.json").write_text(json.dumps({"format": 1, "id": "another"}))
        said = roles.refused("backup", "--tags", "backup_rotation_copy", **copy)
        assert "is the copy of another repository" in said
    info = run_module("vm_backup_info", {"repository": str(target), "verify": True})
    assert not info["failed"] and len(info["vms"]["db01"]["restore_points"]) == 1


# The pass with the images goes wrong at its end; manifests come later.
BREAKS_OFF = """\
#!/bin/sh
{rsync} "$@" || exit
case "$*" in *--files-from=*) echo "the line went dead" >&2; exit 12 ;; esac
"""


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
    # one of that name is only taken away if an interrupted drill has left it
    modules = days.repository.modules
    modules.run("vm_restore", vm, repository=usual["repository"], **{"as": "db01-drill"})
    said = roles.refused("restore_drill", checks=[good], **usual)
    assert "There is a VM db01-drill, which is from no drill" in said
    assert vm.lab.connection.lookupByName("db01-drill")
    note = state / "drills" / hashlib.sha256(b"db01-drill").hexdigest()
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()
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


def test_a_restore_point_that_nobody_can_read_spoils_no_other_drill(
    roles: Roles, fast: Path
) -> None:
    depot = Depot(fast / "repository")
    for name in ("one", "two"):
        depot.chain(1, name)
    manifest = depot.file(depot.ids("one")[0], "manifest.json", "one")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    wanted = {"vm": "all", "repository": str(depot.path), "point": "20200101T000000Z"}
    said = roles.refused("restore_drill", **wanted)
    assert "one, two did not come back as wanted" in said


def _looking_changes_no_metric(days: Days, roles: Roles) -> None:
    """What the last run came to stays until something runs again; only a backup makes it good."""
    path = Path(days.files["metrics"])
    before = path.read_bytes()
    usual = {"vm": "one", **days.files, "repository": str(days.repository.path)}
    usual["now"] = days.variables()["now"]
    report = roles.succeed("report", **usual)
    assert report.changed == 0 and "all: " in report.output
    for tag in ("preflight", "report"):
        roles.succeed("backup", "--tags", f"backup_rotation_{tag}", **usual)
    assert path.read_bytes() == before
    roles.succeed("backup", "--tags", "backup_rotation_prune", **usual)
    former, now = before.decode().splitlines(), path.read_text().splitlines()
    run = [line for line in former if "run_" in line or "success" in line]
    assert run and [line for line in now if "run_" in line or "success" in line] == run


def _a_vm_that_is_not_there_fails_alone(days: Days) -> None:
    days.repository.later()
    said = days.refused(vm="nosuch,one", **days.files)
    assert "Failed: nosuch. there is no VM nosuch" in said
    metrics = days.metrics()
    assert metrics["success"] == {"nosuch": 0, "one": 1} and metrics["run_success"] == {"": 0}
    assert metrics["last_good_timestamp_seconds"]["nosuch"] == 0
    text = Path(days.files["report_text"]).read_text()
    assert "nosuch: FAILED" in text and "NO GOOD RESTORE POINT" in text
    assert "one: restore point made" in text

    # a run about others, with which all is well, does not make it forgotten
    days.next(vm="one", **days.files)
    metrics = days.metrics()
    assert metrics["success"] == {"nosuch": 0, "one": 1} and metrics["run_success"] == {"": 0}


def _a_damaged_restore_point_is_found(days: Days) -> None:
    image = sorted(days.repository.path.glob("one.*/*/vda.qcow2"))[0]
    with image.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    said = days.refused(vm="one", **days.files)
    assert "Failed: one." in said and image.parent.name in said
    assert days.metrics()["bad_restore_points"]["one"] > 0
    assert days.metrics()["success"] == {"nosuch": 0, "one": 0}
    assert 'class="wrong"' in Path(days.files["report_html"]).read_text()


def _a_hook_that_fails_ends_it(days: Days, roles: Roles) -> None:
    """Nothing is backed up then, so that no VM is well by what it had before."""
    made = len(list(days.repository.path.glob("one.*/*/manifest.json")))
    good_until = days.metrics()["last_success_timestamp_seconds"]["one"]
    days.repository.later()
    hook = roles.tasks("broken", roles.says("broken"), FAILS)
    good = roles.tasks("good", roles.says("good"))
    said = days.refused(vm="one", before=hook, after=good, **days.files)
    assert "Failed: the run. Break: it is broken" in said, said[-900:]
    assert roles.said() == ["broken", "good"]
    metrics = days.metrics()
    assert metrics["run_success"] == {"": 0} and metrics["success"]["one"] == 0
    assert metrics["last_success_timestamp_seconds"]["one"] == good_until
    assert len(list(days.repository.path.glob("one.*/*/manifest.json"))) == made


def _a_drill_leaves_what_backups_told(days: Days, roles: Roles) -> None:
    """And they leave what it told, in one file of both."""
    path = Path(days.files["metrics"])
    before = path.read_text().splitlines()
    point = {"vm": "one", "repository": str(days.repository.path), "point": "20200101T000000Z"}
    roles.refused("restore_drill", metrics=str(path), **point)
    drilled = [line for line in path.read_text().splitlines() if line not in before]
    assert set(before) <= set(path.read_text().splitlines())
    [success] = [line for line in drilled if line.startswith("vmkeep_drill_success")]
    assert success.endswith(" 0") and 'vm="one"' in success
    days.next(vm="all", **days.files)
    after = path.read_text().splitlines()
    assert set(drilled) <= set(after)
    names = [line.split()[2] for line in after if line.startswith("# TYPE ")]
    assert len(set(names)) == len(names) and {"vmkeep_backup_success", *names} == set(names)
    success = [line for line in after if line.startswith("vmkeep_backup_success")]
    assert sorted(line[-1] for line in success) == ["0", "1"], "one is well again, nosuch is not"


def _a_run_that_cannot_begin_is_no_success(days: Days, roles: Roles) -> None:
    """As where the disk of the repository is not mounted."""
    path, place = Path(days.files["metrics"]), days.repository.path
    path.unlink()
    days.next(vm="one", **days.files)
    before = path.read_text().splitlines()
    assert days.metrics()["run_success"] == {"": 1}
    aside = place.rename(place.with_name("unmounted"))
    usual = {"vm": "one", **days.files, "repository": str(place)}
    for playbook, *options in (("report",), ("backup", "--check")):
        assert "does not exist" in roles.refused(playbook, *options, **usual)
        assert path.read_text().splitlines() == before
    assert f"{place} does not exist" in roles.refused("backup", **usual)
    assert days.metrics()["run_success"] == {"": 0}
    now = path.read_text().splitlines()
    assert [line for line in now if "_run_" not in line] == [
        line for line in before if "_run_" not in line
    ]
    aside.rename(place)
    days.next(vm="one", **days.files)
    assert days.metrics()["run_success"] == {"": 1}


def test_a_vm_that_fails_stops_no_other(
    days: Days, roles: Roles, make_vm: Callable[..., VM]
) -> None:
    """The report and the metrics are written, whatever fails, and the play fails at its end."""
    make_vm("one", disks=[BLANK], **MUTE)
    _a_vm_that_is_not_there_fails_alone(days)
    _a_hook_that_fails_ends_it(days, roles)
    _a_damaged_restore_point_is_found(days)
    _looking_changes_no_metric(days, roles)
    _a_drill_leaves_what_backups_told(days, roles)
    _a_run_that_cannot_begin_is_no_success(days, roles)


@pytest.mark.parametrize("program", ["restic", "borg"])
def test_an_archive_that_is_encrypted(days: Days, roles: Roles, program: str) -> None:
    """The program reads the password itself: it is nowhere in what a run says, or starts."""
    if shutil.which(program) is None:
        pytest.skip(f"SKIPPED LOUDLY: {program} is not installed")
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
