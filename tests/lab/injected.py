# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets functions of the collection raise what nobody expects, for one entry of a task only.

In a process that is about to run a module. Every function and method of ``_host`` is found by
looking; those of ``_flow`` only tell whose turn it is. A call is one of an entry if an outer one,
or it itself, was given something that mentions this entry and no other.

What to do is a JSON object:

* ``entries``: {entry: [texts that mention it]}, and ``victim``, one of them;
* ``log``: a file that gets the names of the calls made for the victim, one a line;
* ``raise``: the function whose call raises, ``number`` which of its calls, ``error`` what.
"""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import libvirt


class Odd(Exception):
    """One that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


UTILS = "ansible_collections.vmkeep.libvirt.plugins.module_utils"
# Raised in the tests by their names.
ERRORS: dict[str, Callable[[], Exception]] = {
    "KeyError": lambda: KeyError("state.state"),
    "ENOSPC": lambda: OSError(28, "No space left on device"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "libvirtError": lambda: libvirt.libvirtError("injected"),
    "PermissionError": lambda: PermissionError(13, "Permission denied", "/nowhere"),
    "MemoryError": MemoryError,
    "JSONDecodeError": lambda: json.JSONDecodeError("Expecting value", "", 0),
    "TypeError": lambda: TypeError("'NoneType' object is not subscriptable"),
    "Odd": Odd,
}


class Injection:
    """What is to be raised, and whose turn it is in each thread."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._entries: dict[str, list[str]] = told["entries"]
        self._victim: str = told["victim"]
        self._log = Path(told["log"]) if "log" in told else None
        self._point = told.get("raise", ""), told.get("number", 1)
        self._error = ERRORS[told.get("error", "KeyError")]
        self._counts: Counter[str] = Counter()
        self._turn = threading.local()

    def wrapped(self, name: str, function: Callable[..., Any], raises: bool) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            outer = getattr(self._turn, "entry", "")
            entry = outer or self._mentioned((args, kwargs))
            self._turn.entry = entry
            try:
                if raises and entry == self._victim:
                    self._reached(name)
                return function(*args, **kwargs)
            finally:
                self._turn.entry = outer

        return call

    def _reached(self, name: str) -> None:
        self._counts[name] += 1
        if self._log:
            with self._log.open("a") as log:
                log.write(f"{name}\n")
        if (name, self._counts[name]) == self._point:
            raise self._error()

    def _mentioned(self, given: object) -> str:
        """The one entry that is mentioned, '' for none or several."""
        text = " ".join(_texts(given))
        found = [
            name for name, words in self._entries.items() if any(word in text for word in words)
        ]
        return found[0] if len(found) == 1 else ""


def _texts(given: object) -> Iterator[str]:
    if isinstance(given, (list, tuple)):
        for each in given:
            yield from _texts(each)
    elif isinstance(given, dict):
        yield from _texts((list(given), list(given.values())))
    elif isinstance(given, libvirt.virDomain):
        yield given.name()
    elif hasattr(given, "dom") and hasattr(given, "vm"):
        yield from _texts((given.dom, given.vm))
    else:
        yield repr(given)


def inject(told: Mapping[str, Any]) -> None:
    """Wrap the collection in this process."""
    injection = Injection(told)
    package = importlib.import_module(UTILS)
    for found in pkgutil.walk_packages(package.__path__, f"{UTILS}."):
        importlib.import_module(found.name)
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{UTILS}.")]
    new: dict[int, Callable[..., Any]] = {}
    for module in modules:
        layer = module.__name__[len(UTILS) + 1 :].partition(".")[0]
        # A call that is one of a process that outlives the run is none of an entry.
        if layer in ("_host", "_flow") and not module.__name__.endswith("freeze_guard"):
            _wrap_module(module, injection, layer == "_host", new)
    for module in modules:
        for name, value in list(vars(module).items()):
            if id(value) in new:
                setattr(module, name, new[id(value)])


def _wrap_module(
    module: types.ModuleType, injection: Injection, raises: bool, new: dict[int, Any]
) -> None:
    short = module.__name__[len(UTILS) + 1 :]
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", "") != module.__name__:
            continue
        if isinstance(value, types.FunctionType) and not hasattr(value, "registry"):
            new[id(value)] = injection.wrapped(f"{short}.{name}", value, raises)
        elif isinstance(value, type):
            for method, function in list(vars(value).items()):
                plain = isinstance(function, types.FunctionType)
                if plain and not method.startswith("__"):
                    label = f"{short}.{name}.{method}"
                    setattr(value, method, injection.wrapped(label, function, raises))
    # Steps are done by what is registered for them.
    for do in [value for value in vars(module).values() if hasattr(value, "registry")]:
        for kind, function in list(do.registry.items()):
            if function.__module__ == module.__name__ and kind is not object:
                label = f"{short}.{function.__name__}"
                do.register(kind, injection.wrapped(label, function, raises))
