# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens in the guest: its regions and its memory are written and read there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab import VM
from lab.programs import LabError
from lab.vm import wait_until

from . import images
from .model import RUNNING

FILE_SYSTEM = "vda"


class Guest:
    """The guest of a machine; `power` is what that does."""

    vm: VM
    targets: tuple[str, ...]

    def power(self) -> str:
        raise NotImplementedError

    def write(self, wanted: dict[str, dict[int, int]], memory: int) -> None:
        """Let the guest write numbers into regions, durably, and one into its memory."""
        write_in(self.vm, wanted, memory)

    @contextlib.contextmanager
    def busy(self, awake: bool) -> Iterator[None]:
        """Let a guest that is awake write, again and again, what its disks hold already."""
        if not awake:
            yield
            return
        copy = "dd if=$place of=$place bs=64k conv=notrunc oflag=direct status=none"
        loop = f"while [ -e /run/busy ]; do for place in $@; do {copy}; done; done; rm /run/at-it"
        regions = {target: device(target) for target in self.targets}
        regions[FILE_SYSTEM] = "/mnt/vda/regions"
        places = self.vm.run(f"echo {' '.join(regions.values())}; touch /run/busy /run/at-it")
        self.vm.control().start(["sh", "-c", loop, "busy", *places.split()], capture=False)
        try:
            yield
        finally:
            if self.power() == RUNNING:
                self.vm.run("rm /run/busy; while [ -e /run/at-it ]; do sleep 0.01; done")

    def memory(self) -> int:
        """The number in the guest's memory, 0 after a boot."""
        return int(self.vm.run("cat /run/number 2>/dev/null || echo 0"))

    def frozen(self) -> bool:
        return self.vm.frozen()

    def reset(self) -> None:
        """Boot again without a word to the guest; returns when it has come up anew."""
        self.vm.run("touch /run/before")
        self.vm.domain.reset()
        self.vm.disconnect()
        wait_until(self._forgotten, 60, "the guest has booted again")
        self.ready()

    def _forgotten(self) -> bool:
        with contextlib.suppress(LabError):
            return self.vm.run("ls /run/before 2>/dev/null || echo gone").strip() == "gone"
        return False

    def ready(self, *, agent: bool = True) -> None:
        """Return when a guest that runs answers, and its agent unless that is silent."""
        if self.power() != RUNNING:
            return
        self.vm.control().call("guest-ping", timeout=90)
        if agent:
            self.vm.wait_agent(30)


def write_in(vm: VM, wanted: dict[str, dict[int, int]], memory: int) -> None:
    """As `Stage.write`, in the guest of any machine like it."""
    data, commands = b"", [f"echo {memory} >/run/number"]
    for target, regions in wanted.items():
        file = "/mnt/vda/regions" if target == FILE_SYSTEM else device(target)
        for region, number in regions.items():
            place = region if target == FILE_SYSTEM else images.block_of(region)
            copy = f"dd of={file} seek={place} bs={images.REGION} count=1 status=none"
            commands.append(f"{copy} iflag=fullblock oflag=direct conv=notrunc,fsync")
            data += images.filled(target, region, number)
    vm.run(" && ".join(commands), data=data)


def device(target: str) -> str:
    """How the guest calls a disk, found by its serial."""
    return f"/dev/$(grep -lx {target} /sys/block/vd*/serial | cut -d/ -f4)"
