# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs in guests, by the agent."""

from __future__ import annotations

from collections.abc import Callable

from lab import VM, Disk
from story import Modules

SHELL = ["/bin/sh", "-c"]


def test_programs_run_wait_fail_and_take_too_long(
    modules: Modules, make_vm: Callable[..., VM]
) -> None:
    vm = make_vm("db01")
    off = make_vm("off", disks=[Disk(size=1, content="blank")], running=False)

    def run(*command: str, **params: object) -> dict:
        return modules.attempt("vm_guest_exec", vm, command=list(command), **params)

    foreseen = modules.attempt("vm_guest_exec", vm, check=True, command=["touch", "/run/seen"])
    assert foreseen["changed"] and vm.run("ls /run/seen || true").strip() != "/run/seen"
    done = run(*SHELL, 'echo "$1"; echo said >&2', "sh", "it's \u00fc; $HOME")
    assert done["changed"] and not done["failed"]
    entry = done["vms"]["db01"]
    assert (entry["rc"], entry["stdout"], entry["stderr"]) == (0, "it's \u00fc; $HOME\n", "said\n")
    assert done["plan"][0]["step"] == foreseen["plan"][0]["step"] == "run_in_guest"

    failed = run(*SHELL, "echo why >&2; exit 3")
    assert failed["failed"] and failed["vms"]["db01"]["rc"] == 3
    assert "ended with status 3: why. Wanted: status 0" in failed["msg"]
    assert "guest-exec" in run("/no/such/program")["msg"]
    assert "still runs after 1 s" in run("sleep", "20", timeout=1)["msg"]

    waited = modules.run("vm_guest_exec", vm, wait=5)
    assert not waited["changed"] and waited["vms"]["db01"]["rc"] is None
    both = modules.attempt("vm_guest_exec", [off, vm], command=["true"])
    assert both["vms"]["db01"]["rc"] == 0 and "VM off is off" in both["vms"]["off"]["msg"]
    vm.silence_agent()
    assert "does not answer" in modules.attempt("vm_guest_exec", vm)["msg"]
    vm.wake_agent()
    assert modules.run("vm_guest_exec", vm, wait=20)["vms"]["db01"]["waited"] < 20
    assert "names no program" in run()["msg"]
