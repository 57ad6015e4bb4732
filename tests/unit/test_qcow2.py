# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The qcow2 reader: what it reads, what it refuses, and that it always answers."""

from __future__ import annotations

import json
import struct

import pytest
import yaml
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.formats import (
    parse_image,
    probe,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image import File, Image
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.image_result import to_result
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Damaged,
    Problem,
    Unsupported,
)
from ansible_collections.vmkeep.libvirt.plugins.modules import qcow2_info
from hypothesis import given, settings
from hypothesis import strategies as st
from images import build
from images.build import CLUSTER, MIB, Bytes, Fields, place

NAME = "/images/disk.qcow2"
# 64 KiB of header (after a first look), two tables of 1 MiB, a LUKS header.
MOST_BYTES = 4096 + (64 << 10) + (2 << 20) + 592
MOST_READS = 5


class Content:
    """Bytes as the content of a file that counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[int] = []

    def __call__(self, offset: int, length: int) -> bytes:
        assert 0 <= offset < 1 << 63, "an offset that no kernel takes"
        assert length >= 0
        self.reads.append(length)
        return self.data[offset : offset + length]


def parse(image: Bytes | bytes, image_format: str | None = "qcow2", **options: bool) -> Image:
    data = image if isinstance(image, bytes) else image.build()
    file = File(NAME, NAME, len(data), 4096, (1, 2))
    return parse_image(Content(data), file, image_format, "given", **options)


def test_a_plain_image() -> None:
    image = parse(Bytes())
    assert (image.format, image.format_source) == ("qcow2", "given")
    assert (image.filename, image.actual_size, image.identity) == (NAME, 4096, (1, 2))
    assert (image.virtual_size, image.cluster_size, image.compat) == (64 * MIB, CLUSTER, "1.1")
    assert (image.backing_filename, image.full_backing_filename) == (None, None)
    assert not (image.dirty or image.corrupt or image.encrypted or image.bitmaps_stale)
    assert (image.snapshots, image.bitmaps, image.data_file) == ((), (), None)


def test_all_at_once() -> None:
    image = parse(build.rich())
    assert image.backing_filename == "base.qcow2"
    assert image.full_backing_filename == "/images/base.qcow2"
    assert image.backing_format == "qcow2"
    assert image.data_file == "data.raw"
    assert image.dirty
    assert image.encrypted
    assert [snapshot.name for snapshot in image.snapshots] == ["before-update"]
    assert [(b.name, b.auto, b.inconsistent) for b in image.bitmaps] == [
        ("daily", True, False),
        ("weekly", False, True),
    ]


def test_the_result_has_the_words_of_qemu_img() -> None:
    result = to_result(parse(build.rich()))
    assert json.loads(json.dumps(result)) == result
    assert result["snapshots"] == [
        {
            "id": "1",
            "name": "before-update",
            "vm_state_size": 7,
            "date_sec": 1000,
            "date_nsec": 5,
            "vm_clock_sec": 2,
            "vm_clock_nsec": 500_000_000,
            "icount": None,
            "disk_size": 64 * MIB,
        }
    ]
    assert result["bitmaps"][0] == {"name": "daily", "granularity": 65536, "flags": ["auto"]}
    assert result["encrypt"]["cipher_alg"] == "aes-256"
    assert result["encrypt"]["slots"][0] == {
        "active": True,
        "key_offset": 4096,
        "iters": 37449,
        "stripes": 4000,
    }
    assert (result["compression_type"], result["lazy_refcounts"]) == ("zstd", True)
    assert result["data_file_raw"]


def test_every_image_has_the_same_keys() -> None:
    assert to_result(parse(bytes(512), "raw")).keys() == to_result(parse(build.rich())).keys()


def test_the_documentation_names_every_key() -> None:
    described = yaml.safe_load(qcow2_info.RETURN)["images"]["contains"]["chain"]["contains"]
    result = to_result(parse(build.rich()))
    assert described.keys() == {*result, "check"}
    assert described["encrypt"]["contains"].keys() == result["encrypt"].keys()
    for name in ("snapshots", "bitmaps"):
        assert described[name]["contains"].keys() == result[name][0].keys()


def test_names_that_are_no_utf8_survive_json() -> None:
    image = Bytes(extensions=[(build.BACKING_FORMAT, b"\xfe")], backing=b"/images/b\xffse\n.qcow2")
    result = to_result(parse(image))
    assert json.loads(json.dumps(result)) == result
    assert result["backing_filename"] == "/images/b\\xffse\n.qcow2"
    assert parse(image).backing_filename == "/images/b\udcffse\n.qcow2"


def test_version_2() -> None:
    image = parse(Bytes(Fields(version=2), backing=b"base.raw"))
    assert (image.compat, image.backing_filename) == ("0.10", "base.raw")
    assert to_result(image)["refcount_bits"] == 16


def test_a_size_of_no_whole_sectors_is_rounded_as_qemu_does() -> None:
    assert parse(Bytes(Fields(size=1000))).virtual_size == 1024
    assert parse(bytes(1000), "raw").virtual_size == 1024


def test_a_disk_of_no_size_needs_no_l1_table() -> None:
    assert parse(Bytes(Fields(size=0, l1_size=0, l1_offset=0))).virtual_size == 0


def test_tables_can_be_left_out() -> None:
    image = parse(build.rich(), tables=False)
    assert (image.snapshots, image.bitmaps) == ((), ())
    assert image.backing_filename == "base.qcow2"


def test_bitmaps_that_another_program_made_stale_are_not_listed() -> None:
    image = build.with_bitmap()
    image.fields.autoclear = 0
    assert parse(image).bitmaps == ()
    assert parse(image).bitmaps_stale


def test_old_snapshots_have_less_extra_data() -> None:
    (snapshot,) = parse(build.with_snapshot(build.snapshot(extra=b""))).snapshots
    assert (snapshot.vm_state_size, snapshot.disk_size, snapshot.icount) == (0, 64 * MIB, None)
    extra = struct.pack(">QQQQ", 1 << 40, MIB, 12, 99)
    (snapshot,) = parse(build.with_snapshot(build.snapshot(extra=extra))).snapshots
    assert (snapshot.vm_state_size, snapshot.disk_size, snapshot.icount) == (1 << 40, MIB, 12)


def test_snapshots_of_the_same_name_are_told_apart_by_id() -> None:
    entries = build.snapshot() + build.snapshot(identifier=b"2", l1_offset=place("bitmap"))
    image = parse(build.with_snapshot(entries, count=2))
    assert [(s.id, s.name) for s in image.snapshots] == [
        ("1", "before-update"),
        ("2", "before-update"),
    ]


@pytest.mark.parametrize(
    ("cipher", "mode", "key_bytes", "expected"),
    [
        (b"aes", b"cbc-essiv:sha256", 16, ("aes-128", "cbc", "essiv", "sha256")),
        (b"serpent", b"xts-plain64", 64, ("serpent-256", "xts", "plain64", None)),
        (b"cast5", b"ecb", 16, ("cast5-128", "ecb", "", None)),
        (b"unheard", b"xts-plain", 32, ("unheard", "xts", "plain", None)),
    ],
)
def test_ciphers_have_the_names_of_qemu(
    cipher: bytes, mode: bytes, key_bytes: int, expected: tuple[str | None, ...]
) -> None:
    encrypt = parse(build.with_luks(build.luks_header(cipher, mode, key_bytes))).encrypt
    assert encrypt is not None
    found = (encrypt.cipher_alg, encrypt.cipher_mode, encrypt.ivgen_alg, encrypt.ivgen_hash_alg)
    assert found == expected


def test_old_encryption() -> None:
    encrypt = parse(Bytes(Fields(crypt_method=1))).encrypt
    assert encrypt is not None
    assert encrypt.format == "aes"


def test_luks_without_qcow2() -> None:
    image = parse(build.luks_header() + bytes(4040 * 512 - 592 + MIB), None)
    assert (image.format, image.virtual_size, image.encrypted) == ("luks", MIB, True)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"QFI\xfb\0\0\0\1", "qcow"),
        (b"QFI\xfb\0\0\0\3", "qcow2"),
        (b"KDMV", "vmdk"),
        (b"# Disk DescriptorFile\n", "vmdk"),
        (b"QED\0", "qed"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vpc"),
        (b"LUKS\xba\xbe", "luks"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "vdi"),
        (bytes(32769) + b"CD001", "iso"),
        (b"WithoutFreeSpace", "parallels"),
        (b"", "raw"),
        (b"QFI", "raw"),
    ],
)
def test_formats_are_known_by_their_magic(start: bytes, expected: str) -> None:
    assert probe(Content(start)) == expected


def test_a_raw_disk_is_never_taken_for_what_its_guest_wrote_into_it() -> None:
    image = parse(build.rich(), "raw")
    assert (image.format, image.backing_filename, image.data_file) == ("raw", None, None)
    assert image.virtual_size == len(build.rich().build())


@pytest.mark.parametrize("image_format", ["file", "host_device"])
def test_old_names_for_a_raw_base(image_format: str) -> None:
    assert parse(bytes(512), image_format).format == "raw"


def test_unknown_features_are_named() -> None:
    image = build.rich()
    image.fields.incompatible |= 1 << 17 | 1 << 63
    with pytest.raises(Unsupported) as caught:
        parse(image)
    assert "bit 17 ('from the future'), bit 63 ('no name')" in str(caught.value)


def test_an_error_names_the_file_and_what_to_do() -> None:
    with pytest.raises(Damaged) as caught:
        parse(Bytes(Fields(cluster_bits=8)))
    assert str(caught.value).startswith("'/images/disk.qcow2': cluster_bits is 8. Wanted: 9 to 21.")
    assert "To do: do not start a VM with this image" in str(caught.value)


@pytest.mark.parametrize("cluster_bits", [9, 12, 16, 21])
def test_every_cluster_size(cluster_bits: int) -> None:
    size = 1 << cluster_bits
    fields = Fields(cluster_bits=cluster_bits, size=512, l1_offset=2 * size, refcount_offset=size)
    image = Bytes(fields, backing=b"b" * 200, length=4 * size)
    assert parse(image).cluster_size == size
    assert parse(image).backing_filename == "b" * 200


def test_extensions_behind_the_first_look_are_seen() -> None:
    """A data file behind 4 KiB of padding is a data file."""
    image = Bytes(
        Fields(incompatible=build.EXTERNAL),
        extensions=[(1, bytes(8000)), (build.DATA_FILE, b"/etc/shadow")],
    )
    assert parse(image).data_file == "/etc/shadow"


def answer(data: bytes, image_format: str | None) -> Content:
    """Parse ``data``: a result or a Problem, and little to read."""
    content = Content(data)
    try:
        image = parse_image(content, File(NAME, NAME, len(data), 0, (1, 2)), image_format, "given")
        json.dumps(to_result(image))
    except Problem as problem:
        assert NAME in str(problem)
    assert sum(content.reads) <= MOST_BYTES
    assert len(content.reads) <= MOST_READS
    return content


WORDS = st.sampled_from([0, 1, 2, 3, 7, 255, CLUSTER, CLUSTER - 1, 1 << 31, (1 << 32) - 1])
LONGS = st.one_of(
    WORDS,
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([place(name) for name in build.PLACES]),
    st.sampled_from([1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1]),
)
RICH = build.rich().build()


@given(data=st.binary(max_size=300))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    answer(data, None)
    answer(b"QFI\xfb\0\0\0\3" + data, None)


@settings(max_examples=300)
@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "version": st.sampled_from([2, 3]),
            "backing_offset": LONGS,
            "backing_length": WORDS,
            "cluster_bits": st.one_of(st.integers(0, 40), WORDS),
            "size": LONGS,
            "crypt_method": st.integers(0, 3),
            "l1_size": WORDS,
            "l1_offset": LONGS,
            "refcount_offset": LONGS,
            "refcount_clusters": WORDS,
            "snapshot_count": WORDS,
            "snapshot_offset": LONGS,
            "incompatible": LONGS,
            "compatible": LONGS,
            "autoclear": LONGS,
            "refcount_order": WORDS,
            "header_length": st.sampled_from([0, 72, 104, 112, 120, 4096, CLUSTER, 1 << 31]),
            "compression": st.integers(0, 255),
        },
    )
)
def test_any_header_gets_an_answer(fields: dict[str, int]) -> None:
    image = build.rich()
    for name, value in fields.items():
        setattr(image.fields, name, value)
    header = build.header(image.fields)
    answer(header + RICH[len(header) :], "qcow2")


@settings(max_examples=300)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(["header", "snapshots", "bitmaps", "luks"]),
            st.integers(0, 900),
            st.one_of(LONGS.map(lambda number: number.to_bytes(8, "big")), st.binary(max_size=9)),
        ),
        min_size=1,
        max_size=4,
    ),
    length=st.one_of(st.just(len(RICH)), st.integers(0, len(RICH))),
)
def test_any_damage_gets_an_answer(changes: list[tuple[str, int, bytes]], length: int) -> None:
    data = bytearray(RICH)
    for name, offset, patch in changes:
        start = place(name) + offset
        data[start : start + len(patch)] = patch
    answer(bytes(data[:length]), "qcow2")


@given(entry=st.binary(min_size=24, max_size=200), count=st.integers(1, 5))
def test_any_table_gets_an_answer(entry: bytes, count: int) -> None:
    answer(build.with_snapshot(entry, count=count).build(), "qcow2")
    pointer = build.bitmaps(build.padded(entry), count)
    answer(build.with_bitmap(build.padded(entry), pointer).build(), "qcow2")


def test_a_file_that_ends_with_its_last_snapshot() -> None:
    """QEMU pads entries only where another one follows."""
    entry = build.snapshot(b"x" * 3)
    image = Bytes(
        Fields(snapshot_count=2, snapshot_offset=place("luks")),
        parts={place("luks"): entry + build.snapshot(b"y" * 3, identifier=b"2", l1_size=0)},
    )
    image.length = place("luks") + 2 * len(entry) - 4
    assert [snapshot.name for snapshot in parse(image).snapshots] == ["xxx", "yyy"]
    image.length -= 1
    with pytest.raises(Damaged, match="entry 1 is cut off"):
        parse(image)


def test_so_many_snapshots_and_no_more() -> None:
    entry = build.snapshot(b"x", l1_size=0)
    assert len(parse(build.with_snapshot(entry * 1024, count=1024)).snapshots) == 1024
    with pytest.raises(Unsupported, match="1025 internal snapshots"):
        parse(build.with_snapshot(entry * 1025, count=1025))
