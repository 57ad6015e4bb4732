# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezing a guest's file systems, and thawing them whatever happens.

The agent is spoken to by ``virDomainQemuAgentCommand``, the only call that takes a time
limit of its own. Follows https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._model.problem import Problem, TimedOut, Unreachable
from . import freeze_guard
from .agent_answer import freeze_state, nonsense, number, understood
from .connection import AGENT_SILENT, call, call_within, code_of
from .libvirt_dep import libvirt, libvirt_qemu

if TYPE_CHECKING:
    from .libvirt_dep import Domain

STATUS_SECONDS = 5
_THAW_SECONDS = 5
_READY_SECONDS = 20.0


@dataclass
class Freeze:
    """One freeze as it went. Times are of time.monotonic(); ``seconds`` is its allowance.

    ``thawed`` is how many file systems our own thaw found frozen: none if the guard or somebody
    else was first, or if the agent did not tell. ``stuck``: nobody knows that it is thawed.
    """

    seconds: int
    began: float = 0.0
    ended: float = 0.0
    thawed: int = 0
    stuck: bool = False

    def lapsed(self) -> bool:
        """Whether the guard may have thawed the guest by now."""
        return time.monotonic() - self.began >= self.seconds

    @property
    def milliseconds(self) -> int:
        """From before the freeze was asked for until the thaw was confirmed."""
        return round((self.ended - self.began) * 1000)


class Guard:
    """The guard process of this run. It outlives us by as long as a thaw takes.

    It keeps the descriptors ``locks`` open to its end, and with them the locks they hold.
    ``state_dir`` is where the records of freezes are that outlive the run (see hold.py).
    """

    def __init__(self, uri: str, locks: Sequence[int] = (), state_dir: str = "") -> None:
        source = inspect.getsource(freeze_guard)
        self._process = subprocess.Popen(
            [sys.executable, "-c", source, uri, state_dir],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
            pass_fds=tuple(locks),
        )

    def ready(self) -> None:
        """Return when it is connected; Unreachable if it does not get there."""
        output = self._process.stdout
        readable = select.select([output], [], [], _READY_SECONDS)[0] if output else []
        if not readable or not output or b"ready" not in output.read(64):
            raise Unreachable(
                "the process that guards the freeze did not come up",
                wanted="a guard before a guest is frozen",
                todo="see whether the hypervisor is overloaded, or use 'quiesce: never'",
            )

    def arm(self, uuid: str, seconds: float, token: str = "") -> None:
        """From now on this guest is thawed when we die or after ``seconds``.

        With a ``token`` only as long as the record of its freeze carries that.
        """
        self._tell(f"arm {uuid} {seconds} {token}")

    def watch(self, uuid: str, seconds: float) -> None:
        """From now on this paused VM is resumed when we die or after ``seconds``."""
        self._tell(f"watch {uuid} {seconds}")

    def leave(self, uuid: str) -> None:
        """Let the freeze outlive us; it still ends after its seconds."""
        self._tell(f"leave {uuid}")

    def disarm(self, uuid: str) -> None:
        """The guest is thawed, or runs."""
        self._tell(f"disarm {uuid}")

    def _tell(self, line: str) -> None:
        if self._process.stdin:
            self._process.stdin.write(line.encode() + b"\n")

    def close(self) -> None:
        """Let it go: it ends by itself, at once if no guest is armed."""
        if self._process.stdin:
            self._process.stdin.close()
        if self._process.stdout:
            self._process.stdout.close()


def agent(dom: Domain, command: str, seconds: int, **arguments: object) -> Any:
    """Run one guest-agent command; its ``return`` value, which may be anything.

    Raises what libvirt says, and Problem for what is no answer at all.
    """
    request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
    doing = f"VM {dom.name()}: guest agent command {command}"
    try:
        answer = call(doing, libvirt_qemu.qemuAgentCommand, dom, request, seconds, 0)
    except UnicodeDecodeError as error:
        raise nonsense(dom, command, repr(error.object)) from error
    return understood(dom, command, answer, lambda text: json.loads(text)["return"])


def freeze_status(dom: Domain) -> str:
    """'thawed' or 'frozen', or 'silent' if the agent does not answer that."""
    command = "guest-fsfreeze-status"
    try:
        return understood(dom, command, agent(dom, command, STATUS_SECONDS), freeze_state)
    except Problem:
        return "silent"


def freeze_now(dom: Domain, seconds: int, points: Sequence[str] = ()) -> int:
    """Ask for a freeze, of these mount points or of all; how many file systems were frozen.

    TimedOut or Problem with what a person can do where that fails; it may have happened.
    """
    began = time.monotonic()
    try:
        if points:
            command = "guest-fsfreeze-freeze-list"
            return number(agent(dom, command, seconds, mountpoints=list(points)))
        return number(agent(dom, "guest-fsfreeze-freeze", seconds))
    except Unreachable:
        raise
    except (Problem, TypeError, ValueError) as problem:
        over = time.monotonic() - began >= seconds
        raise _not_frozen(dom, seconds, problem, over=over) from problem


def _not_frozen(dom: Domain, seconds: int, problem: Exception, *, over: bool) -> Problem:
    """Why a guest could not be frozen and what to do; ``over`` tells whether its time was over."""
    found = problem.found if isinstance(problem, Problem) else f"a senseless answer ({problem})"
    if over and code_of(problem.__cause__) in AGENT_SILENT:
        return TimedOut(
            f"the guest of VM {dom.name()} was not frozen within {seconds} s: {found}",
            wanted="frozen file systems",
            todo="look what takes so long in the guest, its fsfreeze hook (qemu-ga -F) or what is"
            " to be written out; or allow more time ('freeze_timeout', with vm_freeze 'deadline')",
        )
    return Problem(
        f"the guest of VM {dom.name()} could not be frozen: {found}",
        wanted="frozen file systems",
        todo="look at qemu-guest-agent in the guest, what it says in its log and whether it may"
        " freeze (guest-fsfreeze-freeze); or do without ('quiesce: preferred' or 'never')",
    )


@contextlib.contextmanager
def frozen(dom: Domain, guard: Guard, seconds: int, points: Sequence[str] = ()) -> Iterator[Freeze]:
    """Keep the guest frozen for the body, at most ``seconds``; thaw it in any case.

    Only what is mounted on ``points`` is frozen, all where there are none. Raises what the agent
    says where the freeze fails. A freeze that was not answered may have happened, so it is thawed
    like one that was.
    """
    uuid = dom.UUIDString()
    # Our clock starts before the guard's, so that it never thaws what we still call frozen.
    freeze = Freeze(seconds, began=time.monotonic())
    guard.arm(uuid, seconds)
    try:
        if freeze_now(dom, seconds, points) == 0:
            raise Problem(
                f"the agent of VM {dom.name()} froze no file system"
                + (f" of those on {', '.join(points)}" if points else ""),
                wanted="at least one mounted file system to freeze",
                todo="mount the disks in the guest, or use 'quiesce: never'",
            )
        yield freeze
    finally:
        thawed = thaw(dom)
        freeze.ended = time.monotonic()
        freeze.stuck = thawed is None
        if thawed is not None:
            freeze.thawed = thawed
            guard.disarm(uuid)


@contextlib.contextmanager
def paused(dom: Domain, guard: Guard, seconds: float) -> Iterator[None]:
    """Pause a VM that runs for the body; it runs again whatever happens.

    ``guard``, which has to be ready, resumes it when we die or after ``seconds``.
    """
    uuid, doing = dom.UUIDString(), f"VM {dom.name()}: pausing it for a moment"
    guard.watch(uuid, seconds)
    try:
        call_within(seconds, doing, dom.suspend)
        yield
    finally:
        with contextlib.suppress(Problem):
            state, reason = call(doing, dom.state)
            if state == libvirt.VIR_DOMAIN_PAUSED and reason in freeze_guard.RESUMABLE:
                call(doing, dom.resume)
            guard.disarm(uuid)


def thaw(dom: Domain) -> int | None:
    """Thaw the guest; how many file systems that thawed.

    None if the agent could not be heard, or calls the guest frozen still, in which case the guard
    goes on trying.
    """
    deadline = time.monotonic() + _THAW_SECONDS
    while time.monotonic() < deadline:
        try:
            thawed = number(agent(dom, "guest-fsfreeze-thaw", _THAW_SECONDS))
            if freeze_status(dom) != "frozen":
                return thawed
        except Unreachable:
            return None
        except (Problem, TypeError, ValueError):
            pass
        time.sleep(0.05)
    return None
