# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a guest cannot write during a quiesced snapshot of its disks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lab import Disk, Lab

from .pairs import Comparison, Goal, in_turns, middle
from .programs import BenchmarkError, run_module, run_program
from .report import Part

PULSE = Path(__file__).with_name("pulse")
PAUSE = "0.005"
# What goes on before and after the snapshot is part of what is looked at.
SETTLE = 0.3
PEER = "virsh snapshot-create-as --disk-only --atomic --quiesce"
MODULE = "vm_snapshot"
NAME = "bench"
STAMP = "%Y-%m-%d %H:%M:%S.%f"
# What a guest with a slow disk holds in memory, and how much of it that disk takes in a second.
DIRT, SPEED = 24, 4 << 20
# A pair takes a quarter of a minute.
MOST_DIRTY_PAIRS = 9
# How libvirt's log tells that the agent was asked, that it answered, and with what.
COMMAND = r"\"guest-fsfreeze-(freeze|thaw)(?:-list)?\""
ASKED = re.compile(r"^(.{23}).*Send command '\{\"execute\": *" + COMMAND)
ANSWERED = re.compile(r"^(.{23}).*Line \[(.*)\]")


@dataclass(frozen=True)
class Seen:
    """What one snapshot cost, in milliseconds.

    `gap`: the longest time without a durable write on any disk. `host`: from the agent's answer
    to the freeze until the thaw is sent. `agent`: the rest of the time between asking for the
    freeze and the answer to the thaw.
    """

    gap: float
    host: float
    agent: float


class Guest:
    """A VM whose disks, or some of them, are written to all the time, and the log of its agent."""

    def __init__(
        self, lab: Lab, disks: int, name: str = NAME, written: Sequence[str] = (), memory: int = 160
    ) -> None:
        self.lab = lab
        self._name = name
        self._log = lab.directory / "agent.log"
        self._taken = 0
        self._log_agent()
        self.vm = lab.vm(name, [Disk()] * disks, memory=memory)
        self.vm.write("/run/pulse", PULSE.read_bytes())
        self._files = [f"/mnt/{disk}/pulse" for disk in written or self.vm.disks]
        for file in self._files:
            self.vm.control().start(["sh", "/run/pulse", file, PAUSE], capture=False)
        time.sleep(1)

    def _log_agent(self) -> None:
        """Let the daemon write what it says to the agent, with the time, into a file."""
        socket = self.lab.daemon.socket.with_name("libvirt-admin-sock")
        uri = f"libvirtd:///session?socket={socket}"
        for setting in (("outputs", f"1:file:{self._log}"), ("filters", "1:qemu.qemu_agent")):
            run_program("virt-admin", "-c", uri, f"daemon-log-{setting[0]}", setting[1])

    def params(self, **params: Any) -> dict[str, Any]:
        state = str(self.lab.directory / "state")
        return {"vm": [self._name], "uri": self.lab.uri, "state_dir": state, **params}

    def ours(self, **params: Any) -> Seen:
        """A snapshot by vm_snapshot, and back to where it was."""
        wish = self.params(name=self._next(), quiesce="required", **params)
        return self._seen(lambda: run_module(self.lab.directory, MODULE, wish))

    def peer(self, *more: str) -> Seen:
        """The same by virsh."""
        options = ("--disk-only", "--atomic", "--quiesce", *more)
        begin = ("virsh", "-c", self.lab.uri, "snapshot-create-as", self._name)
        return self._seen(lambda: run_program(*begin, self._next(), *options))

    def ours_of_one(self) -> Seen:
        """A snapshot of the first disk only, by vm_snapshot."""
        return self.ours(disks=[next(iter(self.vm.disks))])

    def peer_of_one(self) -> Seen:
        """The same by virsh."""
        first, *others = self.vm.disks
        left_out = [word for disk in others for word in ("--diskspec", f"{disk},snapshot=no")]
        return self.peer("--diskspec", first, *left_out)

    def quiet(self) -> float:
        """The longest gap, in milliseconds, where there is no snapshot."""
        return self._longest_gap(lambda: time.sleep(0.7))

    def slow_down(self) -> None:
        """Let the first disk be slow, and the guest write out only when it is asked to."""
        slow = next(iter(self.vm.disks))
        words = ("--total-bytes-sec", str(SPEED), "--live")
        run_program("virsh", "-c", self.lab.uri, "blkdeviotune", self._name, slow, *words)
        self.vm.run("cd /proc/sys/vm; echo 90 >dirty_ratio; echo 80 >dirty_background_ratio")
        self.vm.run("echo 60000 >/proc/sys/vm/dirty_writeback_centisecs")

    def soiled(self, take: Callable[[], Seen]) -> Callable[[], Seen]:
        """The same, after the guest has written what the slow disk does not have yet."""
        dirt = f"/mnt/{next(iter(self.vm.disks))}/dirt"

        def act() -> Seen:
            words = f"dd if=/dev/zero of={dirt} bs=1M count={DIRT} conv=notrunc"
            self.vm.run(words, timeout=60)
            return take()

        return act

    def expedite(self) -> None:
        """Let the kernel of the guest end its grace periods early: a freeze waits for several."""
        self.vm.run("echo 1 > /sys/kernel/rcu_expedited")

    def _next(self) -> str:
        self._taken += 1
        return f"point{self._taken}"

    def _seen(self, take: Callable[[], object]) -> Seen:
        start = self._log.stat().st_size
        gap = self._longest_gap(take)
        with self._log.open() as log:
            log.seek(start)
            host, whole = host_part(log.read())
        wish = self.params(name=f"point{self._taken}", state="absent")
        if not run_module(self.lab.directory, MODULE, wish).result["changed"]:
            raise BenchmarkError("there was nothing to remove: no snapshot was taken")
        time.sleep(SETTLE)
        return Seen(gap, host, whole - host)

    def _longest_gap(self, take: Callable[[], object]) -> float:
        """The longest gap of any disk's writer from before the call until after it."""
        sizes = self.vm.run(["stat", "-c", "%s", *self._files]).split()
        time.sleep(SETTLE)
        take()
        time.sleep(SETTLE)
        pairs = zip(self._files, sizes)
        texts = [self.vm.run(["tail", "-c", f"+{int(size) + 1}", file]) for file, size in pairs]
        return max(longest_gap(text) for text in texts)


def longest_gap(text: str) -> float:
    """Milliseconds between the two neighbouring times that are farthest apart."""
    times = [float(line) for line in text.splitlines()[:-1]]
    if len(times) < 10:
        raise BenchmarkError(f"the writer in the guest wrote only {len(times)} records")
    return 1000 * max(later - earlier for earlier, later in zip(times, times[1:]))


def host_part(log: str) -> tuple[float, float]:
    """Milliseconds from the answer to the freeze to the thaw, and from the first to the last."""
    times: dict[str, datetime] = {}
    awaited = ""
    for line in log.splitlines():
        asked, answered = ASKED.match(line), ANSWERED.match(line)
        if asked:
            awaited = asked[2]
            times.setdefault(f"{awaited} asked", datetime.strptime(asked[1], STAMP))
        elif answered and awaited:
            times.setdefault(f"{awaited} answered", datetime.strptime(answered[1], STAMP))
            awaited = ""
    try:
        host = times["thaw asked"] - times["freeze answered"]
        whole = times["thaw answered"] - times["freeze asked"]
    except KeyError as error:
        raise BenchmarkError(f"libvirt's log does not show: {error}") from error
    return host.total_seconds() * 1000, whole.total_seconds() * 1000


def measure(pairs: int, *, quick: bool) -> Part:
    disks = 2 if quick else 4
    with Lab() as lab:
        guest = Guest(lab, disks)
        guest.ours()  # the first of everything is slower
        guest.peer()
        usual = in_turns(pairs, guest.ours, guest.peer)
        quiet = [guest.quiet() for dummy in range(pairs)]
        one = in_turns(pairs, guest.ours_of_one, guest.peer_of_one)
        guest.expedite()
        swift = in_turns(pairs, guest.ours, guest.peer)
        guest.vm.destroy()
        dirty = dirty_pairs(lab, min(pairs, MOST_DIRTY_PAIRS))
    gap = f"longest gap of a writer in the guest, {disks} disks"
    rows = [
        compared(gap, usual, lambda seen: seen.gap),
        compared(
            "of that on the host: freeze answered to thaw sent", usual, lambda seen: seen.host
        ),
        compared("of that in the agent: freezing and thawing", usual, lambda seen: seen.agent),
        compared(f"{gap}, with `rcu_expedited`", swift, lambda seen: seen.gap),
        compared(f"{gap}, a snapshot of one of them", one, lambda seen: seen.gap, Goal(0.6)),
        compared(
            f"longest gap of a writer, {DIRT} MiB to be written out to another disk, a slow one",
            dirty,
            lambda seen: seen.gap,
            Goal(0.15),
        ),
    ]
    floor = f"Without any snapshot the longest gap is {middle(quiet)} ms (the writers' own rhythm)."
    return Part("freeze", rows, [floor])


def dirty_pairs(lab: Lab, pairs: int) -> tuple[list[Seen], list[Seen]]:
    """Snapshots of a guest that holds much in memory for a slow disk, and writes to another."""
    guest = Guest(lab, 2, "dirty", ["vdb"], memory=320)
    guest.slow_down()
    return in_turns(pairs, guest.soiled(guest.ours), guest.soiled(guest.peer))


def compared(
    what: str,
    sides: tuple[Sequence[Seen], Sequence[Seen]],
    value: Callable[[Seen], float],
    goal: Goal | None = None,
) -> Comparison:
    ours, peer = (tuple(value(seen) for seen in side) for side in sides)
    return Comparison(what, ours, peer, PEER, goal)
