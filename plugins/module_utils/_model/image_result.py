# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image as modules return it.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from .image import Bitmap, Encryption, Header, Image, InternalSnapshot


def to_result(image: Image) -> dict[str, Any]:
    """An image as modules return it: the keys of ``qemu-img info --output=json`` in snake case.

    What stands under ``format-specific`` there is on the first level here, ``dirty-flag`` is
    ``dirty`` and ``backing-filename-format`` is ``backing_format``. Every key is always there.
    """
    file = image.file
    result = _template(image.header).copy()
    result["filename"] = _text(file.filename)
    result["format"] = image.format
    result["format_source"] = image.format_source
    result["virtual_size"] = image.virtual_size
    result["actual_size"] = file.allocated
    if image.backing_filename:
        result["backing_filename"] = _text(image.backing_filename)
        result["backing_format"] = _shown(image.backing_format)
        result["full_backing_filename"] = _shown(image.full_backing_filename)
    if image.data_file:
        result["data_file"] = _text(image.data_file)
    if image.encrypt:
        result["encrypted"] = True
        result["encrypt"] = _encryption(image.encrypt)
    result["snapshots"] = [_entry(snapshot) for snapshot in image.snapshots]
    result["bitmaps"] = [_entry(bitmap) for bitmap in image.bitmaps]
    result["bitmaps_stale"] = image.bitmaps_stale
    return result


# As with headers: a chain's images differ in their names far more than in their features.
@lru_cache(maxsize=64)
def _template(header: Header | None) -> dict[str, Any]:
    """All keys, with what the header alone decides."""
    result = dict.fromkeys(_KEYS)
    result.update(encrypted=False, dirty=False, corrupt=False)
    if header is not None:
        result.update({name: getattr(header, name) for name in _OF_THE_HEADER})
    return result


_OF_THE_HEADER = (
    "cluster_size",
    "compat",
    "compression_type",
    "refcount_bits",
    "lazy_refcounts",
    "extended_l2",
    "dirty",
    "corrupt",
    "data_file_raw",
)
_KEYS = (
    "filename",
    "format",
    "format_source",
    "virtual_size",
    "actual_size",
    "backing_filename",
    "backing_format",
    "full_backing_filename",
    "data_file",
    "encrypted",
    "encrypt",
    "snapshots",
    "bitmaps",
    "bitmaps_stale",
    *_OF_THE_HEADER,
)


def _entry(value: InternalSnapshot | Bitmap) -> dict[str, Any]:
    return {key: _shown(field) for key, field in vars(value).items()}


def _encryption(encrypt: Encryption) -> dict[str, Any]:
    return {**vars(encrypt), "slots": [dict(vars(slot)) for slot in encrypt.slots]}


def _shown(value: object) -> object:
    """A value that survives JSON."""
    if value is None or value.__class__ is int:
        return value
    if isinstance(value, tuple):
        return list(value)
    return _text(str(value))


def _text(value: str) -> str:
    """Text that survives JSON: bytes that are no UTF-8 are written as escapes."""
    if value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
