# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Good images of every kind, made by qemu-img itself."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import build
from .luks import HEADERS

SECRET = ["--object", "secret,id=key,data=not-a-real-secret"]
LUKS_LENGTH = 2068480


@dataclass(frozen=True)
class Sample:
    """``make`` makes the image at the given path; ``others`` are formats known by name only."""

    name: str
    make: Callable[[Path], None]
    others: bool = False

    def __str__(self) -> str:
        return self.name


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def qemu_io(path: Path, *commands: str, image_format: str = "qcow2") -> None:
    options = [option for command in commands for option in ("-c", command)]
    command = ["qemu-io", "-f", image_format, *options, str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def created(*options: str, size: str = "64M") -> Callable[[Path], None]:
    """An image as ``qemu-img create -o`` makes it."""
    secret = SECRET if any("key-secret" in option for option in options) else []
    listed = ["-o", ",".join(options)] if options else []

    def make(path: Path) -> None:
        qemu_img("create", "-q", "-f", "qcow2", *secret, *listed, path, size)

    return make


def changed(*steps: Callable[[Path], None], first: str = "") -> Callable[[Path], None]:
    """An image that something is done to after it was created."""

    def make(path: Path) -> None:
        created(*filter(None, [first]))(path)
        for step in steps:
            step(path)

    return make


def written(*commands: str) -> Callable[[Path], None]:
    return lambda path: qemu_io(path, *(commands or ("write -P 7 1M 3M",)))


def with_snapshot(name: str) -> Callable[[Path], None]:
    return lambda path: qemu_img("snapshot", "-q", "-c", name, path)


def with_bitmap(name: str, *options: str) -> Callable[[Path], None]:
    return lambda path: qemu_img("bitmap", "--add", *options, path, name)


def killed(*commands: str) -> Callable[[Path], None]:
    """Leave the image as a QEMU that is killed leaves it: dirty, its bitmaps in use."""

    def kill(path: Path) -> None:
        options = [option for command in commands for option in ("-c", command)]
        command = ["qemu-io", "-f", "qcow2", *options, "-c", "sigraise 9", str(path)]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)

    return kill


def patched(offset: int, content: bytes) -> Callable[[Path], None]:
    """Change bytes of the header, as a program other than QEMU might."""

    def patch(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    return patch


def on(backing: str, image_format: str, *options: str) -> Callable[[Path], None]:
    """An overlay; in ``backing``, ``%s`` is the directory and ``%d`` its name."""

    def make(path: Path) -> None:
        name = backing.replace("%s", str(path.parent)).replace("%d", path.parent.name)
        listed = ["-o", ",".join(options)] if options else []
        base = ["-b", name, "-F", image_format]
        qemu_img("create", "-q", "-u", "-f", "qcow2", *base, *listed, path, "64M")

    return make


def external(*options: str) -> Callable[[Path], None]:
    """An image whose data is in a file beside it."""

    def make(path: Path) -> None:
        created(f"data_file={path}.data", *options)(path)

    return make


def luks(head: bytes) -> Callable[[Path], None]:
    """An image that is encrypted as a recorded header says."""
    image = build.with_luks(head, struct.pack(">QQ", build.place("luks"), LUKS_LENGTH))
    image.length = build.place("luks") + -(-LUKS_LENGTH // build.CLUSTER) * build.CLUSTER

    def make(path: Path) -> None:
        path.write_bytes(image.build())

    return make


def raw(size: int, content: bytes = b"") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)
        os.truncate(path, size)

    return make


def converted(image_format: str, *options: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        listed = ["-o", ",".join(options)] if options else []
        qemu_img("create", "-q", "-f", image_format, *listed, path, "64M")

    return make


BITMAPS_IN_HEADER = 88
SAMPLES = [
    Sample("v3", created()),
    Sample("v2", created("compat=0.10")),
    Sample("v2_written", changed(written(), first="compat=0.10")),
    Sample("v2_snapshot", changed(with_snapshot("old"), first="compat=0.10")),
    *(
        Sample(f"cluster_{size}", created(f"cluster_size={size}"))
        for size in ("512", "4k", "64k", "256k", "2M")
    ),
    *(Sample(f"refcount_{bits}", created(f"refcount_bits={bits}")) for bits in (1, 8, 64)),
    *(
        Sample(f"preallocation_{kind}", created(f"preallocation={kind}"))
        for kind in ("metadata", "falloc", "full")
    ),
    Sample("size_0", created(size="0")),
    Sample("size_1000", created(size="1000")),
    Sample("size_16_tib", created(size="16T")),
    Sample("size_of_small_clusters", created("cluster_size=512", size="100M")),
    Sample("lazy", created("lazy_refcounts=on")),
    Sample("dirty", changed(killed("write 0 64k"), first="lazy_refcounts=on")),
    Sample("corrupt", changed(patched(72, bytes([0, 0, 0, 0, 0, 0, 0, 2])))),
    Sample("extended_l2", created("extended_l2=on", "cluster_size=128k")),
    Sample("extended_l2_written", changed(written(), first="extended_l2=on")),
    Sample("zstd", created("compression_type=zstd")),
    Sample(
        "everything",
        created("extended_l2=on", "compression_type=zstd", "lazy_refcounts=on", "cluster_size=1M"),
    ),
    Sample("aes", created("encrypt.format=aes", "encrypt.key-secret=key")),
    *(Sample(f"luks_{name}", luks(head)) for name, head in HEADERS.items()),
    Sample("data_file", external()),
    Sample("data_file_raw", external("data_file_raw=on")),
    Sample("snapshot", changed(written(), with_snapshot("one"))),
    Sample(
        "snapshots_of_one_name",
        changed(
            with_snapshot("daily"), written(), with_snapshot("daily"), with_snapshot("ünïcode")
        ),
    ),
    Sample(
        "snapshot_then_resized",
        changed(with_snapshot("small"), lambda path: qemu_img("resize", "-q", path, "128M")),
    ),
    Sample("many_snapshots", changed(*(with_snapshot(f"s{number}") for number in range(12)))),
    Sample("bitmap", changed(with_bitmap("daily"))),
    Sample(
        "bitmaps",
        changed(
            with_bitmap("a"),
            with_bitmap("b", "--disable"),
            with_bitmap("c", "-g", "32k"),
            with_bitmap("n" * 1023),
        ),
    ),
    Sample("bitmap_in_use", changed(with_bitmap("a"), killed("write 0 64k"))),
    Sample("bitmaps_stale", changed(with_bitmap("a"), patched(BITMAPS_IN_HEADER, bytes(8)))),
    Sample("bitmap_and_snapshot", changed(with_bitmap("a"), written(), with_snapshot("s"))),
    Sample("overlay", on("v3", "qcow2")),
    Sample("overlay_absolute", on("%s/v3", "qcow2")),
    Sample("overlay_up", on("../%d/snapshot", "qcow2")),
    Sample("overlay_on_raw", on("raw", "raw")),
    Sample("overlay_on_overlay", on("./overlay_on_raw", "qcow2", "cluster_size=4k")),
    Sample("overlay_v2", on("overlay_absolute", "qcow2", "compat=0.10")),
    Sample("overlay_small_clusters", on("bitmaps", "qcow2", "cluster_size=512")),
    Sample("overlay_big_clusters", on("overlay_v2", "qcow2", "cluster_size=2M", "extended_l2=on")),
    Sample("overlay_on_data_file", on("data_file_raw", "qcow2")),
    Sample("raw", raw(1 << 20)),
    Sample("raw_odd", raw(1000, b"x" * 1000)),
    Sample("raw_empty", raw(0)),
    Sample("raw_boot_sector", raw(1 << 20, bytes(510) + b"\x55\xaa")),
    Sample("luks_alone", raw(LUKS_LENGTH + (8 << 20), HEADERS["default"])),
    *(
        Sample(name, converted(name), others=True)
        for name in ("qcow", "qed", "vdi", "vhdx", "vmdk", "vpc", "parallels")
    ),
    Sample("vpc_fixed", converted("vpc", "subformat=fixed", "force_size=on")),
    Sample("vmdk_stream", converted("vmdk", "subformat=streamOptimized"), others=True),
]


def make_all(directory: Path) -> None:
    for sample in SAMPLES:
        sample.make(directory / sample.name)
