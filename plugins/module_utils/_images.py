# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at many images: what C(qcow2_info) does.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from ._answer import error_entry
from ._host import qemu_img
from ._host.image_file import Wish, read, walk
from ._host.image_opener import ImageOpener, own_directories
from ._model.fault import as_problem
from ._model.image import Image
from ._model.image_result import to_result
from ._model.reference import full_name, shown

# Formats whose check follows no reference that our own reader has not seen.
_CHECKED = "qcow2"


def look_at_images(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The result of C(qcow2_info) for its options, and what went wrong, one text per image."""
    with ExitStack() as stack:
        openers = _Openers(stack, params["allowed_roots"])
        entries = [_entry(openers, path, params) for path in params["path"]]
    return {"images": entries}, [entry["error"] for entry in entries if entry["error"]]


class _Openers:
    """One opener for all images, or one for each directory if no roots are given."""

    def __init__(self, stack: ExitStack, roots: Iterable[str] | None) -> None:
        self._stack = stack
        self._roots = None if roots is None else tuple(roots)
        self._known: dict[tuple[str, ...], ImageOpener] = {}

    def opener(self, path: str) -> ImageOpener:
        roots = own_directories(path) if self._roots is None else self._roots
        if roots not in self._known:
            self._known[roots] = self._stack.enter_context(ImageOpener(roots))
        return self._known[roots]


def _entry(openers: _Openers, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """One image with its chain; ``error`` says why the chain ends too early, if it does."""
    chain: list[dict[str, Any]] = []
    problem = None
    try:
        wish = Wish(path, params["format"])
        opener = openers.opener(path)
        images = walk(opener, wish) if params["backing_chain"] else [read(opener, wish)]
        for image in images:
            chain.append(to_result(image))
            if params["check"]:
                chain[-1]["check"] = _check(image, params["check_timeout"])
    except Exception as error:
        problem = as_problem(error, f"image {shown(path)}")
    return {"path": path, "depth": len(chain), "chain": chain, **error_entry(problem)}


def _check(image: Image, timeout: int) -> dict[str, Any]:
    if image.format != _CHECKED or image.encrypted:
        return {"result": "unsupported"}
    data_file = full_name(image.filename, image.data_file) if image.data_file else None
    return qemu_img.check(image.filename, image.format, data_file=data_file, timeout=timeout)
