# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hypervisor on the command line: `PYTHONPATH=tests python -m nested --help`."""

from __future__ import annotations

import argparse
import sys

from lab.programs import LabError
from tools.debian_root import RootError

from nested.image import SUITES
from nested.machine import MachineError, describe, down, up


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nested", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "boot a hypervisor, print how to reach it, leave it up"),
        ("down", "end it, whoever started it"),
    ):
        command = commands.add_parser(name, help=text)
        if name == "up":
            command.add_argument("--suite", choices=SUITES, default=SUITES[-1])
    return parser


def main() -> int:
    options = _parser().parse_args()
    try:
        if options.command == "up":
            print(describe(up(options.suite)))
        else:
            down()
    except (LabError, MachineError, RootError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
