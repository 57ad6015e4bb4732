# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring VMs as options of a task and as results.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from ._answer import Answer
from ._flow.look import each
from ._flow.outcome import Outcome
from ._host.observe import Host, name_of
from ._host.repository import IDENTITY, folders, identity
from ._host.stocks import find_stocks
from ._model.fault import as_problem
from ._model.names import (
    check_directory,
    check_known_name,
    check_vm_name,
    file_part,
)
from ._model.problem import BadInput, NotFound, Problem
from ._model.restore import ABSENT, RestoreWish, clone_uuid
from ._model.state import VmState
from ._model.step import shown
from ._model.stock import LATEST, Stock
from ._plan.picture import picture
from ._repository import repository_of, without_identity
from ._task_vms import host_for

_WORKERS = 4
_LONGEST_NAME = 200
_OPTIONS = ("start", "instant", "force", "networks", "delete_replaced")


def restore_operation(params: Mapping[str, Any]) -> RestoreOperation:
    """What the module vm_restore is to do. Raises BadInput."""
    check_directory(params["directory"])
    if params["as"] is not None:
        check_vm_name(params["as"])
        _check_new_name(params["as"])
        if len(set(params["vm"])) > 1:
            raise BadInput(
                f"{len(set(params['vm']))} VMs are to be restored as {params['as']}",
                wanted="one VM where 'as' is set",
                todo="use one task for each VM",
            )
    if params["disks"] is not None and not params["disks"]:
        raise BadInput(
            "the option 'disks' is an empty list", wanted="targets of disks", todo="leave it out"
        )
    return RestoreOperation(dict(params))


def _check_new_name(name: str) -> None:
    """A name that files can be called after, and that is no UUID: tasks name VMs by that, too."""
    with contextlib.suppress(ValueError):
        UUID(name)
        raise BadInput(f"'as' is {name}, a UUID", wanted="a name", todo="choose another one")
    if len(file_part(name)) > _LONGEST_NAME:
        raise BadInput(
            f"'as' is too long: {name[:40]}...",
            wanted=f"at most {_LONGEST_NAME} characters as a part of a file name",
            todo="choose a shorter one",
        )


@dataclass(frozen=True)
class _One:
    """One VM of the task: what is wanted, and what becomes of it."""

    wish: RestoreWish | None = None
    outcome: Outcome = field(default_factory=Outcome)


@dataclass(frozen=True)
class RestoreOperation:
    """Restores all VMs of a task."""

    params: Mapping[str, Any]

    def carry_out(self, params: Mapping[str, Any], module: str, *, check: bool) -> Answer:
        """Do it; with ``check`` only say what would be done.

        A problem of one VM stands in the answer; Problem is raised for those that concern all.
        """
        host = host_for(params, module)
        repository = repository_of(params)
        known = identity(repository)
        if not known and not folders(repository):
            raise NotFound(
                f"{repository} is no repository of restore points: it has no {IDENTITY}",
                wanted="the directory that vm_backup was given",
                todo="correct the option 'repository'",
            )
        stocks = find_stocks(repository, list(dict.fromkeys(params["vm"])))
        ones: dict[str, _One] = {}
        for given, stock in stocks.items():
            key = _key(given, stock)
            if key in ones and not _same(ones[key], stock):
                key = given  # two VMs that have had one name
            ones.setdefault(key, _prepared(host, known, params, stock))
        done = each(
            ones, lambda one: _carried_out(host, one, check=check), Outcome.failed, _WORKERS
        )
        answer = _answer({key: replace(one, outcome=done[key]) for key, one in ones.items()})
        if not known:
            answer.notes.append(without_identity(repository))
        return answer


def _key(given: str, stock: Stock | Problem) -> str:
    """The name by which the repository knows the VM."""
    return stock.points[-1].vm if isinstance(stock, Stock) and stock.points else given


def _same(one: _One, stock: Stock | Problem) -> bool:
    directory = one.wish.stock.directory if one.wish else ""
    return isinstance(stock, Stock) and stock.directory == directory


def _prepared(
    host: Host, repository: str, params: Mapping[str, Any], stock: Stock | Problem
) -> _One:
    if isinstance(stock, Problem):
        return _One(outcome=Outcome(problem=stock))
    try:
        return _One(wish=_wish(host, repository, params, stock))
    except Exception as error:
        what = f"the restore points in {stock.directory}"
        return _One(outcome=Outcome.failed(as_problem(error, what)))


def _wish(host: Host, repository: str, params: Mapping[str, Any], stock: Stock) -> RestoreWish:
    disks = tuple(dict.fromkeys(params["disks"] or ()))
    point = stock.chosen(params["point"], disks)
    if params["point"] == LATEST:
        stock.check_clear(but_older_than=point.id)
    clone = params["as"] is not None
    uuid = clone_uuid(repository, params["as"]) if clone else point.uuid
    name = params["as"] if clone else name_of(host, uuid) or check_known_name(point.vm)
    return RestoreWish(
        stock=stock,
        repository=repository,
        point=point,
        asked=params["point"],
        name=name,
        uuid=uuid,
        clone=clone,
        disks=disks,
        directory=check_directory(params["directory"]),
        **{option: params[option] for option in _OPTIONS},
    )


def _carried_out(host: Host, one: _One, *, check: bool) -> Outcome:
    if one.wish is None:
        return one.outcome
    # What changes VMs is loaded by the first that is not as wanted.
    from ._flow.restoring import foresee, restore

    foreseen = foresee(host, one.wish)
    return restore(host, one.wish) if foreseen.to_do and not check else foreseen


def _answer(ones: Mapping[str, _One]) -> Answer:
    answer = Answer()
    for key, one in ones.items():
        with answer.entry(key):
            _add(answer, key, one)
    return answer


def _add(answer: Answer, key: str, one: _One) -> None:
    outcome, wish = one.outcome, one.wish
    name = wish.name if wish else key
    answer.plan.extend(shown(name, step) for step in outcome.steps)
    answer.notes.extend(outcome.notes)
    if outcome.steps and outcome.before and outcome.after:
        answer.before.append(_picture(outcome.before))
        answer.after.append(_picture(outcome.after))
    if outcome.problem:
        answer.fail(key, outcome.problem)
    elif wish and outcome.after:
        answer.vms[key] = _result(wish, outcome.after, outcome.report)


def _picture(vm: VmState) -> str:
    return f"VM {vm.name}\n  not defined\n" if vm.status == ABSENT else picture(vm)


def _result(wish: RestoreWish, vm: VmState, report: Mapping[str, Any]) -> dict[str, Any]:
    point, below = wish.point, os.path.join(wish.stock.directory, "")
    return {
        "restored": {
            "point": point.id,
            "time": point.time,
            "consistency": point.consistency,
            "vm": vm.name,
            "uuid": vm.uuid,
            "disks": {disk.target: _disk(wish, vm, disk.target, disk.file) for disk in wish.wanted},
            "replaced": report.get("replaced", []),
            "instant": any(p.startswith(below) for disk in vm.disks for p in disk.files[1:]),
            "seconds": report.get("seconds", 0),
        },
        "state": vm.status,
    }


def _disk(wish: RestoreWish, vm: VmState, target: str, stored: str) -> dict[str, Any]:
    disk = vm.disk(target)
    return {
        "file": disk.disk.path if disk else "",
        "from": os.path.join(wish.stock.directory, wish.point.id, stored),
        "bytes": disk.chain[0].actual_size if disk and disk.chain else 0,
    }
