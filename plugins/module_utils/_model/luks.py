# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a LUKS 1 header says, without anything that could help to open it.

Follows the LUKS On-Disk Format Specification 1.2; the words are QEMU's.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import struct

from .image import Encryption, KeySlot, damaged

MAGIC = b"LUKS\xba\xbe"
HEADER_SIZE = 592
_SECTOR = 512
_SLOTS = 8
_SLOT_ENABLED, _SLOT_DISABLED = 0x00AC71F3, 0x0000DEAD
_HEADER = struct.Struct(">6sH32s32s32sII20x32xI40s")
_SLOT = struct.Struct(">II32xII")
# Ciphers whose key length is not a part of their name elsewhere.
_CIPHERS = {
    "aes": (16, 24, 32),
    "cast5": (16,),
    "serpent": (16, 24, 32),
    "twofish": (16, 24, 32),
}


def parse_luks(data: bytes) -> Encryption:
    """Read the header in the first 592 bytes of ``data``; raises Damaged."""
    if len(data) < HEADER_SIZE:
        raise damaged("its LUKS header is cut off", f"{HEADER_SIZE} bytes")
    fields = _HEADER.unpack_from(data)
    magic, version, cipher, mode, digest, payload, key_bytes, iters, uuid = fields
    if magic != MAGIC or version != 1:
        raise damaged("its encryption header is not LUKS", "LUKS version 1")
    # Such as cbc-essiv:sha256: how blocks are chained, then how their first values are made.
    mode, ivgen = (*_text(mode).split("-", 1), "")[:2]
    ivgen, ivgen_hash = (*ivgen.split(":", 1), "")[:2]
    return Encryption(
        format="luks",
        cipher_alg=_cipher(_text(cipher), mode, key_bytes),
        cipher_mode=mode,
        ivgen_alg=ivgen,
        ivgen_hash_alg=ivgen_hash or None,
        hash_alg=_text(digest),
        uuid=_text(uuid),
        payload_offset=payload * _SECTOR,
        master_key_iters=iters,
        slots=tuple(_slot(data, number) for number in range(_SLOTS)),
    )


def _slot(data: bytes, number: int) -> KeySlot:
    state, iters, offset, stripes = _SLOT.unpack_from(data, _HEADER.size + number * _SLOT.size)
    if state not in (_SLOT_ENABLED, _SLOT_DISABLED):
        raise damaged(f"LUKS key slot {number} is neither enabled nor disabled")
    if state == _SLOT_DISABLED:
        return KeySlot(False, offset * _SECTOR)
    return KeySlot(True, offset * _SECTOR, iters, stripes)


def _cipher(name: str, mode: str, key_bytes: int) -> str:
    """QEMU's name of the cipher: XTS splits its key between two ciphers."""
    used = key_bytes // 2 if mode == "xts" else key_bytes
    return f"{name}-{used * 8}" if used in _CIPHERS.get(name, ()) else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("ascii", "backslashreplace")
