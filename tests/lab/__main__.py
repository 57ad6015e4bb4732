# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab on the command line: `PYTHONPATH=tests python -m lab --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .core import Lab
from .ownership import labs, lock_of_dead, owner, processes, sweep
from .programs import LabError


def up(options: argparse.Namespace) -> None:
    """Start a lab with one virtual machine and leave it up."""
    lab = Lab()
    with lab:
        vm = lab.vm(options.name, disks=options.disks)
        print(f"{vm.name} runs in {lab.directory}. Reach it by\n  virsh -c '{lab.uri}' list --all")
        lab.keep()


def down(options: argparse.Namespace) -> None:
    """Take down the labs that were left up (or only those named), and dead ones."""
    for lab in sweep(kept=options.directory or True):
        print(f"took down {lab}")


def sweep_dead(_options: argparse.Namespace) -> None:
    """Take down what killed runs have left; nothing that is in use or was left up."""
    for lab in sweep():
        print(f"took down {lab}")


def status(_options: argparse.Namespace) -> None:
    """List labs: their directory, whether anybody uses them, and their processes."""
    for lab in labs():
        with lock_of_dead(lab) as dead:
            kept = "left up" if (lab / "kept").exists() else "its owner is dead"
            state = kept if dead else f"in use by process {owner(lab)}"
        print(f"{lab}: {state}")
        for pid, name in sorted(processes(lab).items()):
            print(f"  {pid} {name}")


def run(options: argparse.Namespace) -> None:
    """Run a shell command in a guest of a lab that was left up."""
    for directory in labs():
        if (directory / "v" / options.name).is_dir() and (directory / "kept").exists():
            lab = Lab(kept=directory)
            try:
                sys.stdout.write(lab.vms[options.name].run(options.command))
            finally:
                lab.keep()
            return
    raise LabError(f"No lab that was left up has a virtual machine {options.name}.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, function in (("up", up), ("down", down), ("sweep", sweep_dead), ("status", status)):
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(function=function)
        if function is up:
            command.add_argument("--name", default="demo", help="of the virtual machine")
            command.add_argument("--disks", type=int, default=2, help="how many disks")
        if function is down:
            command.add_argument("directory", nargs="*", type=Path)
    command = commands.add_parser("run", help=run.__doc__)
    command.set_defaults(function=run)
    command.add_argument("name")
    command.add_argument("command")
    return parser


def main() -> int:
    options = _parser().parse_args()
    try:
        options.function(options)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
