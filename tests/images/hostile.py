# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images and paths that want to hurt: each with a part of the error that it must get.

A case makes its files in a folder and returns the path to look at. The folder is the only
allowed root, and ``outside`` beside it holds what must not be opened.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import build
from .build import CLUSTER, MIB, Bytes, Fields, place

SECRET = b"root:x:0:0:a secret\n"
FAR = (1 << 64) - CLUSTER
CASES: list[Case] = []


@dataclass(frozen=True)
class Case:
    """``make`` gets the folder and returns a path; ``expected`` is a part of the error."""

    name: str
    make: Callable[[Path], str]
    expected: str
    root: str = ""

    def __str__(self) -> str:
        return self.name


def case(expected: str, root: str = "") -> Callable[[Callable[[Path], str]], None]:
    def add(make: Callable[[Path], str]) -> None:
        CASES.append(Case(make.__name__, make, expected, root))

    return add


def image(name: str, expected: str, content: Bytes | Callable[[], Bytes]) -> None:
    """A case that is one image."""

    def make(folder: Path) -> str:
        built = content if isinstance(content, Bytes) else content()
        return write(folder / "disk.qcow2", built.build())

    CASES.append(Case(name, make, expected))


def overlay(name: str, expected: str, backing: bytes, image_format: bytes = b"raw") -> None:
    """A case that is an image with a backing file name; %s in it is the folder."""

    def make(folder: Path) -> str:
        full = backing.replace(b"%s", os.fsencode(folder))
        return stack(folder / "disk.qcow2", full, image_format)

    CASES.append(Case(name, make, expected))


def external(name: str, expected: str, data_file: bytes) -> None:
    """A case that is an image with an external data file."""
    fields = Fields(incompatible=build.EXTERNAL)
    image(name, expected, Bytes(fields, extensions=[(build.DATA_FILE, data_file)]))


def write(path: Path, content: bytes) -> str:
    """Write a file whose end is a hole if it is empty there, and return its path."""
    with path.open("wb") as file:
        file.write(content.rstrip(b"\0"))
        file.truncate(len(content))
    return str(path)


def stack(path: Path, backing: bytes, image_format: bytes = b"qcow2") -> str:
    extensions = [(build.BACKING_FORMAT, image_format)]
    return write(path, Bytes(extensions=extensions, backing=backing).build())


# --- paths ---


@case("is a FIFO")
def a_fifo(folder: Path) -> str:
    os.mkfifo(folder / "fifo")
    return str(folder / "fifo")


@case("is a socket")
def a_socket(folder: Path) -> str:
    here = os.open(folder, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    return str(folder / "socket")


@case("is a directory")
def a_directory(folder: Path) -> str:
    return str(folder / "..") + f"/{folder.name}"


@case("is a directory")
def a_directory_with_slash(folder: Path) -> str:
    return f"{folder}/"


@case("is a character device", root="/dev")
def a_character_device(_folder: Path) -> str:
    return "/dev/zero"


@case("is a character device", root="/dev")
def a_terminal(_folder: Path) -> str:
    return "/dev/tty"


@case("does not exist")
def nothing(folder: Path) -> str:
    return str(folder / "nothing")


@case("does not exist: a part of it is a file")
def below_a_file(folder: Path) -> str:
    return write(folder / "file", b"") + "/disk"


@case("leads nowhere")
def a_symlink_loop(folder: Path) -> str:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    return str(folder / "a")


@case("does not exist")
def a_dangling_symlink(folder: Path) -> str:
    (folder / "a").symlink_to("nowhere")
    return str(folder / "a")


@case("outside the allowed roots")
def a_symlink_that_leads_outside(folder: Path) -> str:
    (folder / "a").symlink_to("../outside/secret")
    return str(folder / "a")


@case("outside the allowed roots")
def a_directory_symlink_that_leads_outside(folder: Path) -> str:
    (folder / "a").symlink_to("../outside")
    return str(folder / "a" / "secret")


@case("outside the allowed roots")
def a_way_up(folder: Path) -> str:
    return str(folder / ".." / "outside" / "secret")


@case("outside the allowed roots")
def a_sibling_with_the_same_beginning(folder: Path) -> str:
    (folder.parent / (folder.name + "2")).mkdir()
    return write(folder.parent / (folder.name + "2") / "disk", Bytes().build())


@case("outside the allowed roots")
def another_place(_folder: Path) -> str:
    return "/etc/passwd"


@case("is no absolute path")
def a_relative_path(_folder: Path) -> str:
    return "disk.qcow2"


@case("is no absolute path")
def an_option(_folder: Path) -> str:
    return "--image-opts"


@case("is no absolute path")
def a_reference_as_path(_folder: Path) -> str:
    return 'json:{"driver":"file","filename":"/etc/passwd"}'


@case("is no absolute path")
def an_empty_path(_folder: Path) -> str:
    return ""


@case("is no absolute path")
def a_path_with_nul(folder: Path) -> str:
    return f"{folder}/disk\0.qcow2"


@case("File name too long")
def a_name_of_300_characters(folder: Path) -> str:
    return str(folder / ("x" * 300))


@case("File name too long")
def a_path_of_9000_characters(folder: Path) -> str:
    return str(folder) + "/x" * 4500


# --- what an image stands on ---

JSON = b'json:{"driver":"qcow2","file":{"driver":"file","filename":"/etc/passwd"}}'
REFERENCE = "is the reference"
for _name, _reference in {
    "json": JSON,
    "json_without_end": b"json:" + b"{" * 900,
    "nbd_url": b"nbd://192.0.2.1/export",
    "nbd_socket": b"nbd:unix:/run/nbd.sock",
    "https": b"https://192.0.2.1/disk.qcow2",
    "ssh": b"ssh://root@192.0.2.1/disk",
    "rbd": b"rbd:pool/disk:conf=/etc/passwd",
    "file_url": b"file:///etc/passwd",
    "file_reference": b"file:/etc/passwd",
    "host_device": b"host_device:/dev/sda",
    "fat": b"fat:rw:/etc",
    "blkdebug": b"blkdebug::/etc/passwd",
    "unheard_driver": b"unheard:disk.qcow2",
}.items():
    overlay(f"backing_{_name}", REFERENCE, _reference)
    external(f"data_file_{_name}", REFERENCE, _reference)

OUTSIDE = "outside the allowed roots"
overlay("backing_elsewhere", OUTSIDE, b"/etc/passwd")
overlay("backing_way_up", OUTSIDE, b"../outside/secret")
overlay("backing_long_way_up", OUTSIDE, b"x/../../outside/secret")
overlay("backing_proc", OUTSIDE, b"/proc/self/mem")
overlay("backing_device", OUTSIDE, b"/dev/watchdog")
overlay("backing_missing", "does not exist", b"base.raw")
overlay("backing_directory", "is a directory", b".")
overlay("backing_far_too_long", "File name too long", b"x" * 1000)
overlay("backing_itself", "comes back to", b"disk.qcow2", b"qcow2")
overlay("backing_itself_in_other_words", "comes back to", b"%s/.//disk.qcow2", b"qcow2")
overlay("backing_format_unheard", "is said to have the format 'exec'", b"disk.qcow2", b"exec")
overlay("backing_format_of_noise", "is said to have the format", b"disk.qcow2", b"\xff\n\x1b[2J")
external("data_file_elsewhere", OUTSIDE, b"/etc/passwd")
external("data_file_way_up", OUTSIDE, b"../outside/secret")
external("data_file_without_name", "which it does not name", b"")
external("data_file_with_nul", "contains a NUL byte", b"data\0.raw")


@case(OUTSIDE)
def data_file_symlink_that_leads_outside(folder: Path) -> str:
    (folder / "data").symlink_to("../outside/secret")
    fields = Fields(incompatible=build.EXTERNAL)
    extensions = [(build.DATA_FILE, b"data")]
    return write(folder / "disk.qcow2", Bytes(fields, extensions).build())


@case(OUTSIDE)
def backing_symlink_that_leads_outside(folder: Path) -> str:
    (folder / "base").symlink_to("../outside/secret")
    return stack(folder / "disk.qcow2", b"base", b"raw")


@case("is a FIFO")
def backing_fifo(folder: Path) -> str:
    os.mkfifo(folder / "fifo")
    return stack(folder / "disk.qcow2", b"fifo", b"raw")


@case("magic of qcow2")
def backing_of_another_format(folder: Path) -> str:
    write(folder / "base", SECRET * 100)
    return stack(folder / "disk.qcow2", b"base")


@case("comes back to")
def two_that_stand_on_each_other(folder: Path) -> str:
    stack(folder / "a", b"b")
    return stack(folder / "b", b"a")


@case("comes back to")
def a_loop_through_a_symlink(folder: Path) -> str:
    (folder / "a").symlink_to("b")
    return stack(folder / "b", b"a")


@case("comes back to")
def a_loop_through_a_hard_link(folder: Path) -> str:
    path = stack(folder / "b", b"a")
    os.link(path, folder / "a")
    return path


@case("more than 200 images")
def a_chain_of_1000(folder: Path) -> str:
    path = write(folder / "0", Bytes().build())
    for number in range(1, 1000):
        # A hole at the end is enough: nothing is read there.
        name = b"%d" % (number - 1)
        path = stack(folder / str(number), name)
    return path


# --- headers ---

CUT = "is cut off"
image("an_empty_file", "magic", Bytes(length=0))
image("a_bare_magic", "version 0", Bytes(length=4))
image("half_a_header", CUT, Bytes(length=90))
image("no_tables", "the file at 112", Bytes(length=112))
image("version_4", "version 4", Bytes(Fields(version=4)))
image("version_huge", "version 4294967295", Bytes(Fields(version=(1 << 32) - 1)))
for _bits in (0, 8, 22, 63, (1 << 32) - 1):
    image(f"cluster_bits_{_bits}", f"cluster_bits is {_bits}", Bytes(Fields(cluster_bits=_bits)))
image(
    "small_clusters_with_subclusters",
    "cluster_bits is 13",
    Bytes(Fields(cluster_bits=13, incompatible=build.EXTENDED_L2)),
)
image("refcount_order_7", "refcount_order is 7", Bytes(Fields(refcount_order=7)))
image("encryption_3", "encryption method 3", Bytes(Fields(crypt_method=3)))
for _length in (0, 96, 113, CLUSTER + 8, (1 << 32) - 8):
    image(
        f"header_length_{_length}",
        f"header_length is {_length}",
        lambda length=_length: Bytes(parts={100: struct.pack(">I", length)}),
    )
image("unknown_feature", "bit 5 ('no name')", Bytes(Fields(incompatible=1 << 5)))
image("all_features", "bit 63", Bytes(Fields(incompatible=(1 << 64) - 1)))
image("compression_unknown", "compression type 7", Bytes(Fields(incompatible=8, compression=7)))
image("compression_without_bit", "disagree", Bytes(Fields(compression=1)))
image("compression_bit_alone", "disagree", Bytes(Fields(incompatible=8)))
image(
    "an_extension_beyond_the_cluster",
    CUT,
    Bytes(parts={112: build.extension(1, b"", length=(1 << 32) - 1)}),
)
image("the_same_extension_twice", "one too many", Bytes(extensions=[(1, b"a"), (1, b"b")]))
image(
    "a_thousand_extensions",
    "one too many",
    Bytes(extensions=[(number, b"") for number in range(1, 1000)]),
)
image(
    "backing_name_beyond_the_cluster",
    "backing file name",
    Bytes(Fields(backing_offset=CLUSTER - 4, backing_length=8)),
)
image(
    "backing_name_in_the_header",
    "backing file name",
    Bytes(Fields(backing_offset=8, backing_length=8)),
)
image(
    "backing_name_of_1024",
    "backing file name has 1024 bytes",
    Bytes(Fields(backing_offset=512, backing_length=1024)),
)
image(
    "backing_name_of_4_gib",
    "backing file name",
    Bytes(Fields(backing_offset=512, backing_length=(1 << 32) - 1)),
)
image("backing_name_far_away", "backing file name", Bytes(Fields(backing_offset=FAR)))
image("backing_name_with_nul", "NUL", Bytes(backing=b"base\0.qcow2"))

# --- tables ---

image("disk_too_large", "a disk of", Bytes(Fields(size=(1 << 64) - 1)))
image("disk_of_8_eib", "a disk of", Bytes(Fields(size=1 << 63)))
image("l1_too_small", "its L1 table has 1 entries", Bytes(Fields(size=1 << 40)))
image(
    "l1_too_small_for_subclusters",
    "its L1 table has 1 entries",
    Bytes(Fields(size=512 * MIB, incompatible=build.EXTENDED_L2)),
)
image("l1_huge", "4294967295 entries", Bytes(Fields(l1_size=(1 << 32) - 1)))
image("l1_beyond_the_end", "the L1 table ends", Bytes(Fields(l1_size=4 << 20)))
image("l1_far_away", "the L1 table ends", Bytes(Fields(l1_offset=FAR)))
image("l1_inside_a_cluster", "inside a cluster", Bytes(Fields(l1_offset=place("l1") + 8)))
image("l1_on_the_header", "overlaps", Bytes(Fields(l1_offset=0)))
image("l1_on_the_refcounts", "overlaps", Bytes(Fields(l1_offset=place("refcounts"))))
image("refcounts_on_the_header", "overlaps the header", Bytes(Fields(refcount_offset=0)))
image("refcounts_missing", "refcount table has 0", Bytes(Fields(refcount_clusters=0)))
image("refcounts_huge", "refcount table has", Bytes(Fields(refcount_clusters=(1 << 32) - 1)))
image("refcounts_beyond_the_end", "overlaps", Bytes(Fields(refcount_clusters=128)))
image("truncated", "the file at 131072", Bytes(length=2 * CLUSTER))

image("a_billion_snapshots", "internal snapshots", build.with_snapshot(count=(1 << 32) - 1))
image("snapshots_far_away", CUT, build.with_snapshot(snapshot_offset=FAR))
image("snapshots_on_the_header", "snapshot", build.with_snapshot(snapshot_offset=0))
image(
    "snapshots_on_l1",
    "overlaps",
    Bytes(
        Fields(snapshot_count=1, snapshot_offset=place("l1")), parts={place("l1"): build.snapshot()}
    ),
)
image("fewer_snapshots_than_claimed", "entry 1 has no id", build.with_snapshot(count=2))
for _name, _entry in {
    "extra": build.snapshot(extra_length=(1 << 32) - 1),
    "name": build.snapshot(name_length=65535),
    "l1": build.snapshot(l1_size=(1 << 32) - 1),
}.items():
    image(f"snapshot_with_huge_{_name}", "extra data, id, name", build.with_snapshot(_entry))
image("snapshot_l1_on_the_header", "overlaps", build.with_snapshot(build.snapshot(l1_offset=0)))
image("snapshot_l1_far_away", "ends at", build.with_snapshot(build.snapshot(l1_offset=FAR)))


def _cut_snapshot() -> Bytes:
    found = build.with_snapshot(snapshot_offset=place("luks"))
    found.parts = {place("luks"): build.snapshot()}
    found.length = place("luks") + 60
    return found


image("snapshot_cut_off", CUT, _cut_snapshot)

_entry = build.bitmap()
for _name, _expected, _pointer in (
    ("bitmaps_too_many", "65536 bitmaps", build.bitmaps(_entry, 65536)),
    ("bitmaps_none", "directory of 0", build.bitmaps(_entry, 0)),
    ("bitmaps_huge", "directory of 1", build.bitmaps(_entry, size=1 << 40)),
    ("bitmaps_far_away", CUT, build.bitmaps(_entry, offset=FAR)),
    ("bitmaps_on_the_header", "bitmap 0", build.bitmaps(_entry, offset=0)),
    ("bitmaps_longer_than_claimed", "take 32 bytes", build.bitmaps(_entry, size=64)),
    ("bitmaps_more_than_there_are", "directory of 2", build.bitmaps(_entry, 2)),
    ("bitmaps_extension_cut", "bitmaps extension has 8", bytes(8)),
):
    image(_name, _expected, build.with_bitmap(_entry, _pointer))
for _name, _expected, _entry in (
    ("bitmap_without_name", "a name of 0 bytes", build.bitmap(b"")),
    ("bitmap_name_huge", CUT, build.bitmap(name_length=65535)),
    ("bitmap_granularity_200", "granularity 2^200", build.bitmap(granularity=200)),
    ("bitmap_table_huge", "a table of", build.bitmap(entries=(1 << 32) - 1)),
    ("bitmap_type_2", "has type 2", build.bitmap(kind=2)),
    ("bitmap_unknown_flag", "flags 0x82", build.bitmap(flags=0x82)),
    ("bitmap_too_short", "covers 0 bytes", build.bitmap(entries=0)),
    ("bitmap_table_far_away", "ends at", build.bitmap(offset=FAR)),
    ("bitmap_table_on_l1", "overlaps", build.bitmap(offset=place("l1"))),
):
    image(_name, _expected, build.with_bitmap(_entry))

_pointer = struct.pack(">QQ", FAR, 4096)
image("luks_far_away", CUT, build.with_luks(pointer=_pointer))
image("luks_without_pointer", "no pointer", build.with_luks(pointer=b""))
image("luks_of_noise", "is not LUKS", build.with_luks(SECRET * 40))
image("luks_slot_of_noise", "neither enabled", build.with_luks(build.luks_header()[:-48]))
image("luks_on_l1", "is not LUKS", build.with_luks(pointer=struct.pack(">QQ", place("l1"), 4096)))
image(
    "luks_of_exabytes",
    "ends at",
    build.with_luks(pointer=struct.pack(">QQ", place("luks"), 1 << 62)),
)

# As much as the reader is willing to look at, and wrong at the very end.
image(
    "most_snapshots",
    CUT,
    lambda: build.with_snapshot(
        build.snapshot(b"n" * 400, l1_size=0) * 1023, 1024, l1_offset=place("l1")
    ),
)
image(
    "largest_header",
    CUT,
    Bytes(
        parts={
            112: b"".join(build.extension(number, bytes(1000)) for number in range(1, 60))
            + build.extension(60, b"", length=MIB)
        },
    ),
)
