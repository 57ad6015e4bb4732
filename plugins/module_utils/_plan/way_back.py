# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proving that there will be a way back to a snapshot before it is taken.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from dataclasses import replace

from .._model.problem import Problem
from .._model.state import VmState
from .._model.step import Plan, TakeSnapshot
from .predict import predict
from .revert import RevertWish, plan_reverted


def with_way_back(plan: Plan, vm: VmState, wish: RevertWish) -> Plan:
    """The plan with that of going back after it, where it takes a snapshot; else as it is.

    Raises Problem where there is no such plan. Whether facts are against it is held later.
    """
    if not any(isinstance(step, TakeSnapshot) for step in plan.steps):
        return plan
    there = predict(vm, plan)
    try:
        return replace(plan, back=plan_reverted(wish, there))
    except Problem as problem:
        raise no_way_back(vm, problem) from problem


def no_way_back(vm: VmState, problem: Problem) -> Problem:
    """What is said of a snapshot that one could not go back to."""
    return type(problem)(
        f"VM {vm.name} could not go back afterwards: {problem.found}",
        wanted="a way back before anything is changed ('prove_way_back')",
        todo=problem.todo,
    )
