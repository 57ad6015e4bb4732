# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab does what the other tests rely on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from lab import VM, Disk, Lab, LabError, RecordsDamaged, accel, modules, wait_until
from lab.cache import REPOSITORY
from lab.image import GuestImage
from lab.kernel import pick_kernel
from lab.modules import ModuleCrashed, run_module, start_module
from lab.ownership import processes, sweep
from lab.programs import HostPrograms
from lab.records import Record, missing, parse_records

MakeVM = Callable[..., VM]
TESTS = REPOSITORY / "tests"
NOBODY = 65534


def virsh(lab: Lab, *words: str) -> str:
    return lab.programs.run("virsh", "--connect", lab.uri, *words)


# -- guest and agent ---------------------------------------------------------------------------


def test_mounts_files_and_commands_of_a_guest(vm: VM) -> None:
    assert vm.mounts() == ["/mnt/vda", "/mnt/vdb"]
    content = os.urandom(5_000_000)
    vm.write("/mnt/vdb/file", content)
    assert vm.sha256("/mnt/vdb/file") == hashlib.sha256(content).hexdigest()
    vm.write("/mnt/vda/small", b"\0\xff\n")
    assert vm.read("/mnt/vda/small") == b"\0\xff\n"
    with pytest.raises(LabError, match="ended with 3"):
        vm.run("exit 3")
    with pytest.raises(LabError, match="still runs"):
        vm.run("sleep 5", timeout=0.2)


def test_a_freeze_by_another_client_is_seen(vm: VM, lab_session: Lab) -> None:
    vm.start_writer()
    virsh(lab_session, "domfsfreeze", vm.name)
    assert vm.frozen()
    assert vm.stalled(0.3) == ["/mnt/vda", "/mnt/vdb"]
    virsh(lab_session, "domfsthaw", vm.name)
    assert not vm.frozen()
    assert vm.stalled() == []
    # The writer goes on a moment after the thaw.
    wait_until(lambda: min(vm.longest_gap().values()) > 300, 10, "the gap is in the records")


def test_a_guest_outlives_its_daemon(vm: VM, lab_session: Lab) -> None:
    vm.start_writer()
    pid = vm.qemu_pid()
    lab_session.daemon.kill()
    known = vm.acknowledged()
    wait_until(lambda: vm.acknowledged() != known, 5, "the writer goes on without the daemon")
    assert vm.run("echo here") == "here\n"
    lab_session.daemon.start()
    lab_session.daemon.restart()
    vm.wait_agent()
    assert vm.active() and vm.qemu_pid() == pid


def test_the_writer_goes_on_after_a_loss_of_power(vm: VM) -> None:
    vm.start_writer()
    vm.destroy()
    vm.start()
    assert vm.lost_records() == []
    vm.start_writer()
    vm.stop_writer()
    vm.stop_writer()
    records = vm.writer_records()
    assert len({record.boot for record in records["vda"]}) == 2
    # The power may have gone between a write and its acknowledgement.
    extra = {disk: len(records[disk]) - len(known) for disk, known in vm.acknowledged().items()}
    assert set(extra) == {"vda", "vdb"} and set(extra.values()) <= {0, 1}


def test_an_agent_is_silenced_and_woken(vm: VM) -> None:
    vm.domain.agentSetResponseTimeout(1)
    vm.silence_agent()
    assert not vm.agent_answers()
    vm.wake_agent()
    vm.wait_agent(10)
    vm.shutdown()


def test_lost_record_is_noticed(make_vm: MakeVM) -> None:
    """The proof itself: an older copy of the disk lacks what was acknowledged since."""
    vm = make_vm("db01", disks=[Disk(format="raw")])
    vm.start_writer()
    vm.stop_writer()
    assert vm.lost_records() == []
    before = vm.acknowledged()
    vm.run("sync")
    older = Path(vm.disks["vda"].path).read_bytes()
    vm.start_writer()
    vm.destroy()
    Path(vm.disks["vda"].path).write_bytes(older)
    vm.start()
    assert vm.lost_records() != []
    assert vm.lost_records(before) == []


def test_silent_agent(make_vm: MakeVM) -> None:
    """libvirt waits for an answer that never comes; the lab's own commands work."""
    vm = make_vm("db01", agent="silent")
    vm.domain.agentSetResponseTimeout(1)
    with pytest.raises(libvirt.libvirtError) as caught:
        vm.agent("guest-ping", timeout=1)
    assert caught.value.get_error_code() == libvirt.VIR_ERR_AGENT_UNRESPONSIVE
    state = vm.xml().find("devices/channel/target[@name='org.qemu.guest_agent.0']")
    assert state is not None and state.get("state") == "connected"
    assert vm.run("echo here") == "here\n"
    with pytest.raises(LabError, match="no agent"):
        vm.wake_agent()


def test_no_agent_no_disks(make_vm: MakeVM) -> None:
    vm = make_vm("db01", disks=0, agent=False)
    assert vm.mounts() == []
    with pytest.raises(libvirt.libvirtError) as caught:
        vm.agent("guest-ping", timeout=1)
    assert caught.value.get_error_code() == libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED


# -- disks and states --------------------------------------------------------------------------


def test_kinds_of_disks(make_vm: MakeVM, lab_session: Lab) -> None:
    disks = [
        Disk(layers=3),
        Disk(format="raw"),
        Disk(content="blank", size=1),
        Disk(target="vdf", readonly=True),
        Disk(device="cdrom", size=1),
    ]
    vm = make_vm("db01", disks)
    assert list(vm.disks) == ["vda", "vdb", "vdc", "vdf", "sda"]
    assert vm.mounts() == ["/mnt/vda", "/mnt/vdb", "/mnt/vdf"]
    question = ("info", "-U", "--output=json", "--backing-chain", "--", vm.disks["vda"].path)
    chain = json.loads(lab_session.programs.run("qemu-img", *question))
    assert [image["format"] for image in chain] == ["qcow2"] * 3
    with pytest.raises(LabError, match="Read-only"):
        vm.run("touch /mnt/vdf/file")
    assert vm.source("vdb") == vm.source("vdb", inactive=True) == vm.disks["vdb"].path
    with pytest.raises(LabError, match="no disk vdx"):
        vm.source("vdx")


def test_states(make_vm: MakeVM) -> None:
    off = make_vm("off", running=False)
    assert not off.active() and off.domain.isPersistent()
    paused = make_vm("paused", paused=True)
    assert paused.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    transient = make_vm("transient", transient=True, wait=False)
    assert transient.active() and not transient.domain.isPersistent()


def test_failed_start_leaves_nothing(make_vm: MakeVM, lab_session: Lab) -> None:
    with pytest.raises(libvirt.libvirtError):
        make_vm("db01", [Disk(path="/nowhere/image.qcow2")])
    assert lab_session.connection.listAllDomains() == [] and lab_session.vms == {}
    make_vm("db01", running=False)


def test_many(lab_session: Lab) -> None:
    vms = lab_session.many(3)
    assert [vm.name for vm in vms] == ["many00", "many01", "many02"]
    assert {vm.domain.state()[0] for vm in vms} == {libvirt.VIR_DOMAIN_PAUSED}
    for vm in vms:
        lab_session.remove(vm)
    assert lab_session.connection.listAllDomains() == []


# -- records -----------------------------------------------------------------------------------


def line(number: int, disk: str = "vda") -> bytes:
    record = Record(number, 1_700_000_000_000_000 + number, "0badcafe", disk)
    text = f"{number:012} {record.time} {record.boot} {disk} {record.check():08x}\n"
    return text.encode()


@pytest.mark.parametrize(
    "data",
    [line(1) + line(3), line(2) + line(1), line(1).replace(b"1", b"2", 1), b"\0" * 9 + b"\n"],
    ids=["gap", "order", "changed", "zeros"],
)
def test_damaged_records(data: bytes) -> None:
    with pytest.raises(RecordsDamaged):
        parse_records(data, "vda")


def test_sound_records() -> None:
    records = parse_records(line(1) + line(2) + line(3)[:-1], "vda")
    assert [record.number for record in records] == [1, 2]
    known = {"vda": {("0badcafe", 2), ("0badcafe", 3)}}
    assert missing(known, {"vda": records}) == ["vda: record 3 of boot 0badcafe"]
    with pytest.raises(RecordsDamaged):
        parse_records(line(1, "vdb"), "vda")


# -- modules -----------------------------------------------------------------------------------

MODULE = """
import subprocess, time
from ansible.module_utils.basic import AnsibleModule
from ..module_utils.answer import ANSWER

def main():
    spec = {"sleep": {"type": "int", "default": 0}, "how": {"type": "str", "default": "exit"}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    if module.params["how"] == "crash":
        raise ValueError("crashed")
    if module.params["how"] == "clinging":
        subprocess.Popen(["sleep", "2"])
    if module.params["how"] == "guard":
        subprocess.Popen(["sleep", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(module.params["sleep"])
    if module.params["how"] == "fail":
        module.fail_json(msg="failed")
    module.exit_json(changed=True, answer=ANSWER, check=module.check_mode)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def collections(tmp_path: Path) -> Path:
    plugins = tmp_path / "ansible_collections/vmkeep/libvirt/plugins"
    for folder, name, text in (
        ("modules", "hello.py", MODULE),
        ("module_utils", "answer.py", "ANSWER = 'é'"),
    ):
        (plugins / folder).mkdir(parents=True)
        (plugins / folder / name).write_text(text)
    return tmp_path


def test_run_module(collections: Path) -> None:
    result = run_module("hello", {}, check=True, collections=collections)
    assert (result["failed"], result["changed"], result["check"]) == (False, True, True)
    assert result["answer"] == "é"
    result = run_module("hello", {"how": "fail"}, collections=collections)
    assert (result["failed"], result["msg"]) == (True, "failed")
    assert run_module("hello", {"unknown": 1}, collections=collections)["failed"]
    with pytest.raises(ModuleCrashed, match="ValueError: crashed"):
        run_module("hello", {"how": "crash"}, collections=collections)
    with pytest.raises(LabError, match="still running after"):
        run_module("hello", {"sleep": 9}, timeout=0.5, collections=collections)


def test_module_leaves_a_process(collections: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that outlives the module must not keep its output open."""
    monkeypatch.setattr(modules, "LINGER", 0.5)
    result = run_module("hello", {"how": "guard"}, collections=collections)
    assert result["changed"]
    with pytest.raises(LabError, match="holds its output open"):
        run_module("hello", {"how": "clinging"}, collections=collections)


def test_kill_module(collections: Path) -> None:
    with start_module("hello", {"sleep": 9}, collections=collections) as module:
        assert module.poll() is None
        module.kill()
        assert module.poll() == -signal.SIGKILL
        with pytest.raises(ModuleCrashed):
            module.result()


# -- nothing stays -----------------------------------------------------------------------------

OWNER = """
import sys, time
from lab import Lab
lab = Lab()
lab.vm("left", disks=1, wait=False)
print(lab.directory, flush=True)
time.sleep(600)
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """Labs that a test sweeps are made here, so that a fault never reaches anybody else's."""
    folder = Path(tempfile.mkdtemp(prefix="vl-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    sweep(folder, kept=True)
    shutil.rmtree(folder)


def environment(base: Path, tests: Path = TESTS) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tests), "VMKEEP_LAB_BASE": str(base)}


def start_owner(
    base: Path, *python: str, tests: Path = TESTS
) -> tuple[subprocess.Popen[str], Path]:
    """A process with a lab of its own, and the lab's directory."""
    process = subprocess.Popen(
        [*(python or (sys.executable,)), "-c", OWNER],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(base, tests),
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_sweep_after_kill(base: Path) -> None:
    """A killed owner's lab goes; a live one, and a foreign process in it, stay."""
    process, directory = start_owner(base)
    try:
        assert sorted(processes(directory).values()) == ["libvirtd", "qemu-system-x86_64"]
        assert sweep(base) == []
        foreign = subprocess.Popen(["sleep", "60"], cwd=directory)
        named = subprocess.Popen(
            ["tail", "-f", f"{directory}/libvirtd.conf"], stdout=subprocess.DEVNULL
        )
    finally:
        process.kill()
        process.wait()
    try:
        assert sweep(base) == [directory]
        assert not directory.exists()
        assert processes(directory) == {}
        time.sleep(0.1)
        assert foreign.poll() is None and named.poll() is None
    finally:
        for other in (foreign, named):
            other.kill()
            other.wait()


@pytest.mark.parametrize("kind", ["name", "no lock", "symlink", "file"])
def test_sweep_leaves_what_is_no_lab(kind: str, base: Path) -> None:
    path = base / ("vmk-my-notes" if kind == "name" else "vmk-abcdefgh")
    folder = base / "folder" if kind == "symlink" else path
    if kind == "file":
        path.touch()
    else:
        folder.mkdir()
        (folder / ("notes" if kind == "no lock" else "lock")).touch()
    if kind == "symlink":
        path.symlink_to(folder)
    assert sweep(base, kept=True) == []
    assert path.exists()


def test_command_line(base: Path, tmp_path: Path) -> None:
    """up, status, run, sweep (which leaves it alone) and down."""

    def call(*words: str) -> str:
        command = [sys.executable, "-m", "lab", *words]
        options = {"env": environment(base), "cwd": tmp_path, "text": True}
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout

    text = call("up", "--name", "demo")
    directory = Path(text.split(" runs in ")[1].split(". ")[0])
    assert call("status").startswith(f"{directory}: left up\n")
    assert call("sweep") == ""
    assert call("run", "demo", "ls /mnt /mnt/vda").split() == [
        *("/mnt:", "vda", "vdb"),
        *("/mnt/vda:", "lost+found"),
    ]
    assert call("down", "/tmp/another") == ""
    assert call("down") == f"took down {directory}\n"
    assert not directory.exists()
    assert call("status") == ""


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A copy of the lab that everybody can read, in a directory of the user nobody."""
    home = Path(tempfile.mkdtemp(prefix="vmkeep-nobody-", dir="/tmp"))
    shutil.copytree(TESTS / "lab", home / "tests/lab")
    cache = home / ".cache/lab"
    cache.mkdir(parents=True)
    version, kernel = pick_kernel()
    # Ubuntu lets only root read it; bin/setup makes such a copy too.
    shutil.copyfile(kernel, cache / f"vmlinuz-{version}")
    for path in (home, home / "tests", cache):
        os.chown(path, NOBODY, NOBODY)
    yield home
    shutil.rmtree(home)


@pytest.mark.skipif(
    os.geteuid() != 0,
    reason="SKIPPED LOUDLY: only root can give up being root; the other tests run without it",
)
def test_without_root(elsewhere: Path, base: Path) -> None:
    """Root's tests also start a lab as an ordinary user, with a checkout of that user."""
    drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    drop += ("env", f"HOME={elsewhere}", "/usr/bin/python3")
    tests = elsewhere / "tests"
    process, directory = start_owner(base, *drop, tests=tests)
    try:
        assert directory.stat().st_uid == NOBODY
        assert sorted(processes(directory).values()) == ["libvirtd", "qemu-system-x86_64"]
        owners = {os.stat(f"/proc/{pid}").st_uid for pid in processes(directory)}
        assert owners == {NOBODY}
    finally:
        process.kill()
        process.wait()
        assert sweep(base, kept=True) == []  # another user's
        command = [*drop, "-m", "lab", "sweep"]
        subprocess.run(command, env=environment(base, tests), check=True, capture_output=True)
    assert not directory.exists()


# -- KVM or emulation --------------------------------------------------------------------------


class FakeQemu(HostPrograms):
    """A QEMU that behaves as its script says; $1 is the path of the console file."""

    def __init__(self, folder: Path, script: str) -> None:
        self.count = folder / "count"
        self.path = folder / "qemu"
        last = "for word; do case $word in file:*) console=${word#file:};; esac; done"
        self.path.write_text(f"#!/bin/sh\necho x >>{self.count}\n{last}\n{script}\n")
        self.path.chmod(0o755)

    def find(self, name: str) -> str:  # noqa: ARG002 - it is the answer to every name
        return str(self.path)

    def boots(self) -> int:
        return len(self.count.read_text().split())


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('echo "lab: ready after 1 s" >"$console"; exec sleep 60', "kvm"),
        ('echo "Probing EDD" >"$console"; exec sleep 60', "qemu"),
        ("exit 1", "qemu"),
    ],
    ids=["boots", "hangs", "aborts"],
)
def test_kvm_is_believed_only_when_it_boots(
    script: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "KVM", str(tmp_path))
    monkeypatch.setattr(accel, "LIMIT", 1.0)
    monkeypatch.setattr(accel, "cache_dir", lambda: tmp_path)
    programs = FakeQemu(tmp_path, script)
    image = GuestImage("/kernel", "/initrd")
    start = time.monotonic()
    assert accel.accelerator(programs, image) == expected
    assert time.monotonic() - start < 3
    assert accel.accelerator(programs, image) == expected
    assert programs.boots() == 1  # the answer is kept
    assert accel.accelerator(programs, GuestImage("/other", "/initrd")) == expected
    assert programs.boots() == 2


def test_no_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "KVM", str(tmp_path / "missing"))
    assert accel.accelerator(HostPrograms(), GuestImage("/kernel", "/initrd")) == "qemu"
