# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frozen values from plain data, such as journals and records hold, strictly by their types.

Another version of the collection may have written that data, so nothing in it is taken for granted.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any, Callable

from .problem import Conflict
from .version import VERSION

_PLAIN: Mapping[str, type] = {"str": str, "int": int, "bool": bool}


class Unfit(ValueError):
    """Plain data that is not of the type that is wanted."""


def built(kind: Any, data: object) -> Any:
    """A value of a frozen dataclass from a mapping of its fields; lists become tuples.

    Fields are of the types str, int, bool, ``X | None``, ``tuple[...]``, or such a dataclass.
    Raises Unfit for anything else, and for unknown and missing fields.
    """
    if not isinstance(data, Mapping):
        raise Unfit(f"{kind.__name__} is {type(data).__name__}")
    fields = _readers(kind)
    strange = sorted(str(name) for name in data if name not in fields)
    if strange:
        raise Unfit(f"the field {', '.join(strange)} is not known")
    values = {}
    for name, read in fields.items():
        if name in data:
            try:
                values[name] = read(data[name])
            except Unfit as error:
                raise Unfit(f"in {name}: {error}") from error
    try:
        return kind(**values)
    except TypeError as error:
        raise Unfit("some of its fields are missing") from error


def step_from(kinds: Mapping[str, Any], data: object) -> Any:
    """The step of one of these kinds, by their names. Raises Conflict where it is none of them."""
    name = data.get("step") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(name, str) or name not in kinds:
        raise _unknown(f"the step {name!r} is not known")
    try:
        return built(kinds[name], {key: value for key, value in data.items() if key != "step"})
    except Unfit as error:
        raise _unknown(f"the step {name!r} is another one there: {error}") from error


def _unknown(why: str) -> Conflict:
    return Conflict(
        why,
        wanted=f"steps of version {VERSION} of the collection",
        todo="use the version of the collection that wrote it",
    )


@functools.cache
def _readers(kind: Any) -> dict[str, Callable[[object], Any]]:
    """How each field of a dataclass is read; its types are texts, as no module runs them."""
    names = vars(sys.modules[kind.__module__])
    return {
        field.name: _reader(ast.parse(str(field.type), mode="eval").body, names)
        for field in dataclasses.fields(kind)
    }


def _reader(node: ast.expr, names: Mapping[str, Any]) -> Callable[[object], Any]:
    """How a value of an annotated type is read."""
    if isinstance(node, ast.BinOp):  # X | None
        return functools.partial(_optional, _reader(node.left, names))
    if isinstance(node, ast.Subscript):  # tuple[X, ...] or tuple[X, Y]
        inner = node.slice
        items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        endless = isinstance(items[-1], ast.Constant)
        readers = [_reader(item, names) for item in (items[:-1] if endless else items)]
        return functools.partial(_tuple, readers, endless)
    name = ast.unparse(node)
    if name in _PLAIN:
        return functools.partial(_plain, _PLAIN[name])
    return functools.partial(built, names[name])


def _plain(kind: type, value: object) -> object:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Unfit(f"{value!r:.40} is no {kind.__name__}")
    return value


def _optional(read: Callable[[object], Any], value: object) -> Any:
    return None if value is None else read(value)


def _tuple(readers: list[Callable[[object], Any]], endless: bool, value: object) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise Unfit(f"{value!r:.40} is no list")
    if endless:
        return tuple(readers[0](item) for item in value)
    if len(value) != len(readers):
        raise Unfit(f"{len(value)} values, not {len(readers)}")
    return tuple(read(item) for read, item in zip(readers, value))
