# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest agent that does otherwise than it says, in the words of a shell.

It answers what keeps a session going, and the three commands about a freeze as it is told to.
"""

from __future__ import annotations

from lab import VM

_PLACE = "/run/org.qemu.guest_agent.0"
_AGENT = r"""
exec 3<>"$1"
frozen=thawed
say() { printf '{"return": %s}\n' "$1" >&3; }
fail() { printf '{"error": {"class": "GenericError", "desc": "%s"}}\n' "$1" >&3; }
really() { for point in /mnt/*; do fsfreeze "$1" "$point" 2>/dev/null; done; }
count() { ls /mnt | wc -l; }
FREEZE() { frozen=frozen; really --freeze; say "$(count)"; }
THAW() { frozen=thawed; really --unfreeze; say "$(count)"; }
STATUS() { say "\"$frozen\""; }
@LIE@
while :; do
    while read -r line <&3; do
        id=$(printf '%s' "$line" | sed -n 's/.*"id": *\([0-9]*\).*/\1/p')
        case "$line" in
        *guest-sync-delimited*) printf '\377' >&3; say "$id" ;;
        *guest-sync*) say "$id" ;;
        *guest-ping*) say '{}' ;;
        *guest-fsfreeze-status*) STATUS ;;
        *guest-fsfreeze-freeze*) FREEZE ;;
        *guest-fsfreeze-thaw*) THAW ;;
        *) printf '{"error": {"class": "CommandNotFound", "desc": "unknown"}}\n' >&3 ;;
        esac
    done
    sleep 0.1
done
"""
ALWAYS_FROZEN = "always calls itself frozen"
# What the shell is to do otherwise, by the name of the lie.
_LIES = {
    "freezes nothing": 'FREEZE() { frozen=frozen; say "$(count)"; }',
    "denies that it froze": "STATUS() { say '\"thawed\"'; }",
    "calls a freeze an error": "FREEZE() { frozen=frozen; really --freeze; fail 'not frozen'; }",
    "counts nonsense": "FREEZE() { frozen=frozen; really --freeze; say '\"many\"'; }",
    "tells nonsense": "STATUS() { say '{\"frozen\": []}'; }",
    ALWAYS_FROZEN: "STATUS() { say '\"frozen\"'; }",
    "thaws and calls it an error": "THAW() { frozen=thawed; really --unfreeze; fail no; }",
}
STUCK = "does not thaw"
_STUCK = 'THAW() { say "$(count)"; }'
# What qemu-ga is not to allow.
_BLOCKED = {
    "may not freeze": "guest-fsfreeze-freeze",
    "may not thaw": "guest-fsfreeze-thaw",
    "may not tell": "guest-fsfreeze-status",
    "may not thaw nor say so": "guest-info,guest-fsfreeze-thaw",
}
LIARS = (*_LIES, *_BLOCKED)


def let_lie(vm: VM, how: str) -> None:
    """Start such an agent in place of the one that libvirt speaks to."""
    if how in _BLOCKED:
        vm.restart_agent("-b", _BLOCKED[how])
        return
    script = _AGENT.replace("@LIE@", _STUCK if how == STUCK else _LIES[how])
    vm.run(f"cat >{_PLACE}/lie", data=script.encode())
    name = vm.run("grep -l org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name").split("/")[-2]
    start = f"sh {_PLACE}/lie /dev/{name} </dev/null >/dev/null 2>&1 & echo $! >{_PLACE}/pid"
    # The device is free only when the one before has really gone.
    wait = "while [ -e /proc/$old/exe ]; do sleep 0.01; done"
    vm.run(f"old=$(cat {_PLACE}/pid); kill -9 $old; {wait}; {start}")
    vm.wait_agent()
