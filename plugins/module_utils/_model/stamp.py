# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is recorded of an image that must not be written to any more, and what it tells later.

Of a file the time of its last write tells all, as long as it is the same file. A copy may have
another time, and so has a qcow2 image in which QEMU keeps something else than the guest's data
(dirty bitmaps, a flag that says whether it was closed), or that was told another name of what it
stands on. There its tables tell, and its data: all of it or, of a large image, samples. A device
has no such time, but the kernel counts what is written to it until it goes away.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

SECOND = 1_000_000_000
_FIELDS = 8


@dataclass(frozen=True)
class Stamp:
    """An image at rest: ``size`` in bytes, ``time`` of its last write in ns, 0 for a device.

    ``counted`` is what the kernel has counted for a device, after what tells it from others (''
    for a file); ``tables`` a digest of qcow2's tables and data, '' where that is not known.
    ``loose``: QEMU may write to it though no guest does.

    Of an image that holds an internal snapshot only that and ``backing`` are recorded, since the
    rest of it may be written to: then ``time`` and ``counted`` are empty, and ``tables`` are its.
    """

    image: str
    size: int = 0
    time: int = 0
    inode: int = 0
    counted: str = ""
    tables: str = ""
    backing: str = ""
    loose: bool = False

    @property
    def inside(self) -> bool:
        """Whether this is about an internal snapshot in an image."""
        return not (self.time or self.counted)


@dataclass(frozen=True)
class Seen:
    """What a look at an image tells of one that a snapshot has a stamp of.

    ``written``: whether somebody wrote to it since, None where that is not known. ``then`` and
    ``now`` are the times of the last write in ns, 0 where there is none. ``latest``: there is no
    stamp, and it had been written to at ``then`` at the latest.
    """

    snapshot: str
    image: str
    written: bool | None
    then: int = 0
    now: int = 0
    latest: bool = False


def written(then: Stamp, now: Stamp) -> bool | None:
    """Whether an image was written to between two stamps; None: only its tables could tell.

    Who sets the time of a file back says that it has the content of then, and is believed.
    """
    if then.counted or now.counted:
        return _device_written(then, now)
    if then.time == now.time:
        return then.inode == now.inode and then.size != now.size
    moved = then.inode != now.inode
    if moved and _in_whole_seconds(then, now):
        return False
    other_name = then.backing != now.backing
    # What is older than the point has the content of before, whoever put it there.
    if then.tables and now.time > then.time and (then.loose or now.loose or other_name or moved):
        return None
    return True


def _in_whole_seconds(then: Stamp, now: Stamp) -> bool:
    """Whether it is a copy on a file system, or by a program, that knows these only."""
    return now.time % SECOND == 0 and then.time // SECOND == now.time // SECOND


def tables_differ(then: Stamp, now: Stamp) -> bool | None:
    """What the tables tell of an image; None where that is nothing."""
    return then.tables != now.tables if then.tables and now.tables else None


def _device_written(then: Stamp, now: Stamp) -> bool | None:
    """The first words of ``counted`` tell the device, the last four what was written to it.

    Those are requests and sectors, written and discarded. A request that only makes a device write
    out counts on some devices as well, so the sectors tell.
    """
    before, after = then.counted.split(), now.counted.split()
    if not before or before[:-4] != after[:-4] or then.loose or now.loose:
        return None
    return before[-3::2] != after[-3::2]


def to_note(stamps: Iterable[Stamp]) -> str:
    """Stamps as one word of plain characters, '' for none."""
    return ",".join(_word(stamp) for stamp in stamps)


def _word(stamp: Stamp) -> str:
    fields = (
        quote(stamp.image, safe="/"),
        str(stamp.size),
        str(stamp.time),
        str(stamp.inode),
        quote(stamp.counted),
        stamp.tables,
        quote(stamp.backing, safe="/"),
        "loose" if stamp.loose else "",
    )
    return ":".join(fields)


def from_note(word: str) -> tuple[Stamp, ...]:
    """The inverse of :func:`to_note`; what a later version wrote otherwise is left out."""
    return tuple(stamp for part in word.split(",") for stamp in _stamps(part.split(":")))


def _stamps(fields: list[str]) -> tuple[Stamp, ...]:
    if len(fields) != _FIELDS or not all(field.isdecimal() for field in fields[1:4]):
        return ()
    image, size, time, inode, counted, tables, backing, loose = fields
    numbers = (int(size), int(time), int(inode))
    words = (unquote(counted), tables, unquote(backing))
    return (Stamp(unquote(image), *numbers, *words, loose == "loose"),)
