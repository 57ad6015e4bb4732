# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo as a program; ``bin/demo`` has installed what it needs."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from pathlib import Path

from lab import Lab, LabError
from lab.cache import cache_dir

from .screen import Screen
from .story import NAME, PHASES, PlaybookFailed, Story
from .words import shown

TAIL = 40
INTERRUPTED = 130


def main() -> int:
    """Exit status 0 only if every check has passed."""
    parser = argparse.ArgumentParser(prog="bin/demo")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    log = cache_dir() / "demo.log"
    log.write_bytes(b"")
    screen = Screen(PHASES)
    screen.title(
        "vmkeep.libvirt",
        "A virtual machine is snapshotted, inspected and merged back while it goes on writing."
        " At the end every byte that it wrote is read again.",
    )
    try:
        _run(screen, log, keep=options.keep)
    except KeyboardInterrupt:
        screen.heading("Interrupted. The lab was taken down.")
        return INTERRUPTED
    except LabError as error:
        _explain(screen, log, error)
    return _verdict(screen)


def _interrupt(_number: int, _frame: object) -> None:
    """The first interrupt ends the demo; the next ones must not disturb the clearing away."""
    _deaf()
    raise KeyboardInterrupt


def _deaf() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _run(screen: Screen, log: Path, *, keep: bool) -> None:
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab())
        stack.callback(_deaf)
        try:
            Story(lab, screen, log).tell()
        except (PlaybookFailed, LabError) as error:
            _explain(screen, log, error)
        if keep and lab.vms:
            _hand_over(screen, lab)
            lab.keep()
            stack.pop_all()


def _explain(screen: Screen, log: Path, error: Exception) -> None:
    screen.heading("It could not go on")
    screen.failures.append(str(error).splitlines()[0])
    screen.lines(str(error).splitlines()[-TAIL:])
    if isinstance(error, PlaybookFailed):
        lines = log.read_text(errors="replace").splitlines()
        screen.heading(f"The last lines of {shown(log)}")
        screen.lines(lines[-TAIL:])


def _hand_over(screen: Screen, lab: Lab) -> None:
    """How to play with a lab that is left up."""
    tools = shown(Path(sys.executable).parent)
    folder = lab.directory / "ansible"
    screen.heading("The lab is left up; from this directory:")
    screen.lines(
        [
            f"virsh -c {shlex.quote(lab.uri)} list",
            f"export ANSIBLE_CONFIG={folder}/ansible.cfg",
            f"{tools}/ansible-playbook vmkeep.libvirt.snapshot -e vmkeep_name=mine --check --diff",
            f"{tools}/ansible-playbook vmkeep.libvirt.snapshot -e vmkeep_name=mine",
            f"{tools}/ansible-playbook vmkeep.libvirt.inspect",
            f"{tools}/ansible-playbook vmkeep.libvirt.commit",
            f"PYTHONPATH=tests {tools}/python -m lab run {NAME} 'ls -l /mnt/vda'",
            f"PYTHONPATH=tests {tools}/python -m lab down {lab.directory}   # take it away",
        ]
    )


def _verdict(screen: Screen) -> int:
    screen.heading(
        f"{len(screen.failures)} of {screen.good + len(screen.failures)} checks FAILED"
        if screen.failures
        else f"All {screen.good} checks passed."
    )
    screen.lines(screen.failures)
    return 1 if screen.failures else 0


if __name__ == "__main__":
    sys.exit(main())
