# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one module as Ansible does, and kills itself (SIGKILL) at a named point.

Started as a program in place of `lab/module_runner.py`, or imported by `lab/fork_server.py` into a
process that has been forked for a run; never by a test. The module is not changed: functions of the
collection, of libvirt and of the operating system are wrapped from outside, by name. Each call of
one of them is two points, ``before WHAT`` and ``after WHAT``, the n-th of one name with ``#n``.

What to do comes in the environment variable VMKEEP_HARNESS as JSON:

* ``log`` (the only one that must be there): file that gets a line of JSON for each point: its
  name, the seconds since the start, and whether the call may change something outside of this
  process (an effect);
* ``kill``: name of the point to die at; ``during`` in place of ``before`` dies ``delay`` seconds
  after the call has begun;
* ``kill_effect``: die before the n-th effect, whichever it is; ``kill_call``: before the n-th of
  those that libvirt, the guest agent or QEMU has;
* ``guard_too``: kill the freeze guard first;
* ``hold``: {point: seconds} to sleep at a point; calls that only read are points if named here;
* ``raise_after``: label of a call that raises a libvirt error after it has done its work, once;
  with ``lose_snapshot`` the metadata of the snapshot just taken is deleted first;
* ``slow``: QEMU copies only so many bytes per second once a backup has begun;
* ``mutate``: faults to build in, so that tests can prove that they would see them:
  ``no_guard`` (the guest is never put into the guard's care) and ``no_recovery`` (the journal
  of a dead run is not looked at);
* ``names``: {uuid: name of the VM} for readable labels.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import libvirt
import libvirt_qemu
from ansible.module_utils import basic

STARTED = time.monotonic()
SETTINGS: dict[str, Any] = json.loads(os.environ.get("VMKEEP_HARNESS", "{}"))
NAMES: dict[str, str] = SETTINGS.get("names", {})
FLOW = "ansible_collections.vmkeep.libvirt.plugins.module_utils"
# Methods of libvirt that change nothing; every other one is an effect, also one not yet used.
READING = (
    "ID", "OSType", "UUID", "XMLDesc", "agentSetResponseTimeout", "backupGet", "blockInfo",
    "blockJobInfo", "blockStats", "c_pointer", "checkpointLookup", "close", "connect",
    "controlInfo", "domain", "fsInfo", "get", "guestInfo", "has", "info", "is", "job", "list",
    "lookup", "memoryPeek", "memoryStats", "name", "num", "ref", "register", "setKeepAlive",
    "snapshotCurrent", "snapshotList", "snapshotLookup", "snapshotNum", "state", "unregister",
)  # fmt: skip
# Programs that are started by others, and are worth a name.
SHOWN = ("qemu-img", "btrfs", "lvs", "lvcreate", "lvremove", "lvrename", "lvconvert", "lvchange")
CALLS = ("libvirt ", "agent ", "quit ")  # how their labels begin
AGENT_CHANGES = ("guest-fsfreeze-freeze", "guest-fsfreeze-freeze-list", "guest-fsfreeze-thaw")

_counts: collections.Counter[str] = collections.Counter()
_lock = threading.RLock()
_log = os.fdopen(os.open(SETTINGS["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), "w", buffering=1)
_faults = [SETTINGS["raise_after"]] if "raise_after" in SETTINGS else []
_guards: list[subprocess.Popen[bytes]] = []


def die() -> None:
    """End as if somebody had pulled the plug of this process."""
    if SETTINGS.get("guard_too"):
        for guard in _guards:
            guard.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def reached(moment: str, label: str, effect: bool) -> str:
    """Pass a point: log it, sleep or die if told so. Returns its full name."""
    with _lock:
        _counts[f"{moment} {label}"] += 1
        count = _counts[f"{moment} {label}"]
        numbered = label if count == 1 else f"{label} #{count}"
        point = f"{moment} {numbered}"
        seconds = time.monotonic() - STARTED
        entry = {"point": point, "seconds": seconds, "effect": effect}
        _log.write(json.dumps(entry) + "\n")
        _counts["effects"] += effect and moment == "before"
        _counts["calls"] += effect and moment == "before" and label.startswith(CALLS)
        if SETTINGS.get("kill") == point or any(
            _counts[f"{which}s"] == SETTINGS.get(f"kill_{which}") for which in ("effect", "call")
        ):
            die()
    if moment == "before" and SETTINGS.get("kill") == f"during {numbered}":
        timer = threading.Timer(SETTINGS.get("delay", 0.01), die)
        timer.daemon = True
        timer.start()
    time.sleep(SETTINGS.get("hold", {}).get(point, 0))
    return numbered


def wrap(owner: Any, name: str, label: Callable[..., str | None], *, effect: bool = False) -> None:
    """Make each call of `owner.name` two points; `label` gets its arguments, None for no point."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        text = label(*args, **kwargs)
        if text is None:
            return original(*args, **kwargs)
        text = reached("before", text, effect)
        try:
            result = original(*args, **kwargs)
            spoil(text, args)
            return result
        finally:
            reached("after", text.partition(" #")[0], effect)

    setattr(owner, name, wrapped)


def spoil(label: str, args: tuple[Any, ...]) -> None:
    """Raise the fault that was asked for."""
    if label not in _faults:
        return
    _faults.remove(label)
    if SETTINGS.get("lose_snapshot"):
        flag = libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY
        args[0].snapshotCurrent(0).delete(flag)
    # As libvirt does it when the work is done and what comes after it fails.
    libvirt.virDomain.blockCommit(args[0], "no-such-disk", None, None, 0, 0)


def short(path: Any) -> str:
    return os.path.basename(str(path))


def take_label(works: Any, *_rest: Any) -> str:
    return f"take {' '.join(work.vm.name for work in works)}"


def step_label(step: Any, *_rest: Any) -> str:
    what = getattr(step, "target", "") or getattr(step, "name", "")
    return " ".join(filter(None, ("step", step.step, what, short(getattr(step, "file", "")))))


def prune_label(_work: Any, step: Any) -> str:
    return f"step {step.step} {short(getattr(step, 'point', '') or step.path)}"


def process_label(_self: Any, args: Any, **_kwargs: Any) -> str:
    if isinstance(args, (list, tuple)) and "-c" in args:
        return "start guard"
    words = [short(word) for word in args if not str(word).startswith("-")]
    return "start " + next(
        (" ".join(words[n : n + 2]) for n, word in enumerate(words) if word in SHOWN), words[0]
    )


def libvirt_label(kind: str, method: str) -> Callable[..., str]:
    def label(self: Any, *args: Any, **_kwargs: Any) -> str:
        name = self.name() if kind == "virDomain" else ""
        if kind == "virDomainSnapshot":
            name = f"{self.getDomain().name()} {self.getName()}"
        target = args[0] if method.startswith("block") and args else ""
        return " ".join(filter(None, ("libvirt", method, name, target)))

    return label


def agent_label(dom: Any, request: str, *_rest: Any) -> str | None:
    command = json.loads(request)["execute"]
    return f"agent {command} {dom.name()}" if command in AGENT_CHANGES else None


def monitor_label(dom: Any, request: str, *_rest: Any) -> str | None:
    """Of what is asked of QEMU only this changes anything."""
    return f"quit {dom.name()}" if json.loads(request)["execute"] == "quit" else None


def open_label(path: Any, flags: int, *_rest: Any, **_options: Any) -> str | None:
    if not flags & os.O_CREAT:
        return None
    if str(path).endswith(".new"):
        return f"create {vm_of(path)}"
    return f"create {short(path)}" if flags & os.O_EXCL else None


def vm_of(path: Any) -> str:
    """A file of the state directory by the name of its VM."""
    name = short(path)
    for uuid, vm in NAMES.items():
        name = name.replace(uuid, vm)
    return name


def wrap_libvirt() -> None:
    held = " ".join(SETTINGS.get("hold", {}))
    for kind in ("virConnect", "virDomain", "virDomainSnapshot", "virDomainCheckpoint"):
        owner = getattr(libvirt, kind)
        for method, found in list(vars(owner).items()):
            reads = method.startswith(READING)
            wanted = not reads or f"libvirt {method} " in held
            if not callable(found) or method.startswith("_") or not wanted:
                continue
            wrap(owner, method, libvirt_label(kind, method), effect=not reads)
    wrap(libvirt_qemu, "qemuAgentCommand", agent_label, effect=True)
    wrap(libvirt_qemu, "qemuMonitorCommand", monitor_label, effect=True)
    if "slow" in SETTINGS:
        libvirt.virDomain.backupBegin = slowed(libvirt.virDomain.backupBegin)


def slowed(begin: Callable[..., Any]) -> Callable[..., Any]:
    """backupBegin, with a limit for the jobs before it returns."""

    def wrapped(dom: Any, *args: Any) -> Any:
        result = begin(dom, *args)
        jobs = json.loads(monitor(dom, "query-jobs"))["return"]
        for job in jobs:
            monitor(dom, "block-job-set-speed", device=job["id"], speed=SETTINGS["slow"])
        reached("after", "slowing down" if jobs else "coming too late", False)
        return result

    return wrapped


def monitor(dom: Any, command: str, **arguments: Any) -> str:
    request = {"execute": command, **({"arguments": arguments} if arguments else {})}
    return libvirt_qemu.qemuMonitorCommand(dom, json.dumps(request), 0)


def wrap_system() -> None:
    wrap(os, "open", open_label, effect=True)
    wrap(os, "unlink", lambda path, **_options: f"unlink {vm_of(path)}", effect=True)
    wrap(os, "replace", lambda _old, new: f"replace {vm_of(new)}", effect=True)
    wrap(os, "rename", lambda _old, new: f"rename {short(new)}", effect=True)
    wrap(os, "rmdir", lambda path: f"rmdir {short(path)}", effect=True)
    wrap(os, "link", lambda _old, new, **_options: f"link {short(new)}", effect=True)
    wrap(subprocess.Popen, "__init__", process_label, effect=True)


def wrap_collection() -> None:
    """The steps and stages of our own code: names for what lies between the effects."""
    from importlib import import_module

    names = ["apply", "blockjob", "freeze", "image_apply", "journal", "qemu_img", "snapshots"]
    host = {name: import_module(f"{FLOW}._host.{name}") for name in names}
    wrap(host["apply"], "do", step_label)
    wrap(host["image_apply"], "_do", step_label)
    wrap(import_module(f"{FLOW}._host.stock_apply"), "prune_step", prune_label)
    wrap(host["apply"], "take", take_label)
    wrap(import_module(f"{FLOW}._flow.group"), "take", take_label)
    wrap(host["snapshots"], "_create", lambda taking, *_rest: f"snapshot of {taking.vm.name}")
    for name in ("_start", "_pivot", "_prove"):
        wrap(
            host["blockjob"], name, lambda _dom, step, *_rest, n=name: f"job {n[1:]} {step.target}"
        )
    guard = host["freeze"].Guard
    for name, effect in (("arm", True), ("disarm", False), ("leave", True)):
        wrap(guard, name, functools.partial(_guard_label, name), effect=effect)
    journal = host["journal"].Journal
    wrap(journal, "write", lambda self: f"journal write {vm_of(self._path)}")
    wrap(journal, "done", lambda self, n: f"journal done {n} {vm_of(self._path)}")
    wrap(journal, "mark", _mark_label)
    wrap(journal, "close", lambda self: f"journal close {vm_of(self._path)}")
    for name, found in list(vars(host["qemu_img"]).items()):
        ours = getattr(found, "__module__", "").endswith("qemu_img")
        if ours and callable(found) and not isinstance(found, type) and not name.startswith("_"):
            wrap(host["qemu_img"], name, functools.partial(_image_label, name), effect=True)
    _mutate(host)
    _remember_guards()


def _mark_label(self: Any, note: str) -> str:
    # Which start of the VM a note is about changes from run to run.
    return f"journal mark {note.partition(' in ')[0]} {vm_of(self._path)}"


def _guard_label(name: str, _self: Any, uuid: str, *_rest: Any) -> str:
    return f"{name} guard for {NAMES.get(uuid, uuid)}"


def _image_label(name: str, path: Any, *_rest: Any, **_options: Any) -> str:
    return f"qemu_img {name} {short(path)}"


def _mutate(host: dict[str, Any]) -> None:
    if "no_guard" in SETTINGS.get("mutate", ()):
        host["freeze"].Guard.arm = lambda _self, _uuid, _seconds, _token="": None
    if "no_recovery" in SETTINGS.get("mutate", ()):
        import_observe = sys.modules[f"{FLOW}._host.observe"]
        import_observe.read_journal = lambda _state_dir, _uuid: None


def _remember_guards() -> None:
    original = subprocess.Popen.__init__

    @functools.wraps(original)
    def remember(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        original(self, args, *rest, **options)
        if process_label(self, args) == "start guard":
            _guards.append(self)

    subprocess.Popen.__init__ = remember  # type: ignore[method-assign]


def build_in() -> None:
    """Make the points, in this process."""
    wrap_libvirt()
    wrap_system()
    wrap_collection()


def main() -> None:
    basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
    basic._ANSIBLE_PROFILE = "legacy"
    name = f"ansible_collections.vmkeep.libvirt.plugins.modules.{sys.argv[1]}"
    sys.argv = [name]
    import ansible_collections.vmkeep.libvirt.plugins.module_utils._operation  # noqa: F401

    build_in()
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
