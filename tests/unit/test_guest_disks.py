# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which mount points lie on which disks, and where that is in doubt."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.guest_disks import points_on
from hypothesis import given
from hypothesis import strategies as st


def pci(bus: int, slot: int = 0, function: int = 0) -> str:
    return (
        f"<address type='pci' domain='0x0000' bus='{bus:#04x}' slot='{slot:#04x}'"
        f" function='{function:#x}'/>"
    )


def port(index: int, bus: int, slot: int, function: int = 0, model: str = "pcie-root-port") -> str:
    place = pci(bus, slot, function)
    return f"<controller type='pci' index='{index}' model='{model}'>{place}</controller>"


ROOT = "<controller type='pci' index='0' model='pcie-root'/>"
PORTS = ROOT + port(1, 0, 2, 0) + port(2, 0, 2, 1) + port(3, 0, 3)
SATA = f"<controller type='sata' index='0'>{pci(0, 0x1F, 2)}</controller>"


def on_pci(target: str, bus: int, serial: str = "") -> str:
    given = f"<serial>{serial}</serial>" if serial else ""
    return f"<disk><target dev='{target}' bus='virtio'/>{given}{pci(bus)}</disk>"


def on_sata(target: str, unit: int) -> str:
    place = f"<address type='drive' controller='0' bus='0' target='0' unit='{unit}'/>"
    return f"<disk><target dev='{target}' bus='sata'/>{place}</disk>"


def domain(*disks: str, controllers: str = PORTS + SATA) -> str:
    return f"<domain><devices>{''.join(disks)}{controllers}</devices></domain>"


DISKS = (on_pci("vda", 1, "one"), on_pci("vdb", 2), on_pci("vdc", 3), on_sata("sda", 1))


def place(bus: int, kind: str = "virtio", unit: int = 0, **more: object) -> dict[str, Any]:
    where = {"domain": 0, "bus": bus, "slot": 0, "function": 0}
    if kind == "sata":
        where = {"domain": 0, "bus": 0, "slot": 0x1F, "function": 2}
    return {"bus-type": kind, "bus": 0, "target": 0, "unit": unit, "pci-controller": where, **more}


def system(point: str, *places: dict[str, Any], kind: str = "ext4") -> dict[str, Any]:
    return {"name": point, "mountpoint": point, "type": kind, "disk": list(places)}


HOME = [
    system("/", place(1)),
    system("/srv", place(2), place(3), kind="xfs"),
    system("/boot", place(1), kind="vfat"),
    system("/data", place(0, "sata", 1)),
]


@pytest.mark.parametrize(
    ("targets", "points"),
    [
        (("vda",), ("/", "/boot")),
        (("vdb",), ("/srv",)),
        (("vdc", "sda"), ("/data", "/srv")),
        (("vdd",), ()),
    ],
)
def test_what_lies_on_disks(targets: tuple[str, ...], points: tuple[str, ...]) -> None:
    """A file system on several disks is on each of them."""
    assert points_on(domain(*DISKS), HOME, targets) == points


@pytest.mark.parametrize(
    "another",
    [
        system("/loop"),  # the agent tells no disk of a file that is mounted
        system("/tank", place(2), kind="btrfs"),  # may be on more disks than it tells
        system("/usb", place(7)),
        system("/sata", place(0, "sata", 5)),
        system("/other", place(0, "sata", 1) | {"bus-type": "scsi"}),
        system("/raid", place(1), place(9)),
        system("/", place(2)),  # one lies over the other
        system("/other", place(1, serial="two")),
        {"mountpoint": "/x"},
        None,
        7,
    ],
)
def test_one_in_doubt_is_enough(another: Any) -> None:
    assert points_on(domain(*DISKS), [*HOME, another], ("vda",)) is None


def test_a_serial_number_that_agrees() -> None:
    told = [system("/", place(1, serial="one"))]
    assert points_on(domain(*DISKS), told, ("vda",)) == ("/",)


@pytest.mark.parametrize(
    "controllers",
    [
        ROOT + port(1, 0, 3) + port(2, 0, 2) + port(3, 0, 4),  # the firmware finds the second first
        ROOT + port(1, 0, 2) + port(2, 0, 3) + port(3, 1, 0),  # and what is behind a bus before
        PORTS + port(4, 0, 5, model="pcie-expander-bus"),
        ROOT + port(2, 0, 2) + port(3, 0, 3),
    ],
)
def test_buses_that_the_guest_may_number_otherwise(controllers: str) -> None:
    assert points_on(domain(*DISKS, controllers=controllers), HOME[:2], ("vda",)) is None


def test_disks_whose_targets_an_agent_does_not_tell() -> None:
    """It tells target 0 of each, so two with one unit cannot be told apart by it."""
    controller = f"<controller type='scsi' index='0'>{pci(0, 9)}</controller>"

    def on_scsi(name: str, target: int, unit: int) -> str:
        place = f"<address type='drive' controller='0' bus='0' target='{target}' unit='{unit}'/>"
        return f"<disk><target dev='{name}' bus='scsi'/>{place}</disk>"

    where = {"domain": 0, "bus": 0, "slot": 9, "function": 0}

    def told(*units: int) -> list[dict[str, Any]]:
        places = [place(0, "scsi", unit, **{"pci-controller": where}) for unit in units]
        return [system("/", place(1)), *map(system, ("/srv", "/home"), places)]

    def machine(*disks: str) -> str:
        return domain(DISKS[0], *disks, controllers=PORTS + controller)

    usual = machine(on_scsi("sda", 0, 0), on_scsi("sdb", 0, 1))
    assert points_on(usual, told(0, 1), ("sda",)) == ("/srv",)
    alike = machine(on_scsi("sda", 0, 0), on_scsi("sdb", 1, 0))
    assert points_on(alike, told(0, 0), ("vda", "sdb")) is None
    assert points_on(alike, told(0), ("vda",)) is None


def test_namespaces_that_an_agent_does_not_tell() -> None:
    """What lies on the second of a controller seems to lie on the first."""
    controller = f"<controller type='nvme' index='0'>{pci(0, 9)}</controller>"
    disks = [
        f"<disk><target dev='{name}' bus='nvme'/>"
        f"<address type='drive' controller='0' bus='0' target='0' unit='{unit}'/></disk>"
        for unit, name in enumerate(("nvme0n1", "nvme0n2"))
    ]
    where = {"domain": 0, "bus": 0, "slot": 9, "function": 0}
    told = [system("/", place(0, "nvme", 0, **{"pci-controller": where}))]
    xml = domain(*disks, controllers=PORTS + controller)
    assert points_on(xml, told, ("nvme0n1",)) is None


def test_a_machine_without_bridges() -> None:
    disk = f"<disk><target dev='vda' bus='virtio'/>{pci(0, 4)}</disk>"
    where = {"domain": 0, "bus": 0, "slot": 4, "function": 0}
    told = [system("/", place(0, **{"pci-controller": where}))]
    xml = domain(disk, controllers="<controller type='pci' index='0' model='pci-root'/>")
    assert points_on(xml, told, ("vda",)) == ("/",)


ENDLESS = {"domain": float("inf"), "bus": 0, "slot": 4, "function": 0}


@pytest.mark.parametrize(
    "answer",
    [None, [], {}, "x", 5, [[]], [{"mountpoint": "/", "type": "ext4"}],
     [system("/", place(0, **{"pci-controller": ENDLESS}))]],
)  # fmt: skip
def test_a_guest_may_answer_anything(answer: Any) -> None:
    assert points_on(domain(*DISKS), answer, ("vda",)) is None


KEYS = st.sampled_from(["mountpoint", "type", "disk", "bus-type", "pci-controller", "unit"])
NONSENSE = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(NONSENSE)
def test_nothing_that_it_answers_is_raised(answer: Any) -> None:
    found = points_on(domain(*DISKS), answer, ("vda",))
    assert found is None or isinstance(found, tuple)
