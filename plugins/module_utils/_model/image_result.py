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
    file, header = image.file, image.header
    result = {
        "filename": _shown(file.filename),
        "format": image.format,
        "format_source": image.format_source,
        "virtual_size": image.virtual_size,
        "actual_size": file.allocated,
        "backing_filename": _shown(image.backing_filename),
        "backing_format": _shown(image.backing_format),
        "full_backing_filename": _shown(image.full_backing_filename),
        "data_file": _shown(image.data_file),
        "encrypted": image.encrypt is not None,
        "encrypt": _encryption(image.encrypt),
        "snapshots": [_entry(snapshot) for snapshot in image.snapshots],
        "bitmaps": [_entry(bitmap) for bitmap in image.bitmaps],
        "bitmaps_stale": image.bitmaps_stale,
    }
    result.update(_WITHOUT_HEADER if header is None else _features(header))
    return result


_WITHOUT_HEADER: dict[str, Any] = {
    "cluster_size": None,
    "compat": None,
    "compression_type": None,
    "refcount_bits": None,
    "lazy_refcounts": None,
    "extended_l2": None,
    "dirty": False,
    "corrupt": False,
    "data_file_raw": None,
}


# As with headers: a chain's images differ in their names far more than in their features.
@lru_cache(maxsize=64)
def _features(header: Header) -> dict[str, Any]:
    return {name: getattr(header, name) for name in _WITHOUT_HEADER}


def _entry(value: InternalSnapshot | Bitmap) -> dict[str, Any]:
    return {key: _shown(field) for key, field in vars(value).items()}


def _encryption(encrypt: Encryption | None) -> dict[str, Any] | None:
    if encrypt is None:
        return None
    return {**vars(encrypt), "slots": [dict(vars(slot)) for slot in encrypt.slots]}


def _shown(value: object) -> object:
    """A value that survives JSON: bytes that are no UTF-8 are written as escapes."""
    if value is None or value.__class__ is int:
        return value
    if isinstance(value, tuple):
        return list(value)
    text = str(value)
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
