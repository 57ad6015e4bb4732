# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree that snapshots form, drawn as virsh draws it."""

from __future__ import annotations

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.snapshot import (
    parse_snapshot,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.tree import (
    descendants,
    tree_text,
)
from builders import snapshot
from hypothesis import given
from hypothesis import strategies as st
from recorded import TREE, recorded


def real_tree():
    current = recorded("tree/current").strip()
    return [parse_snapshot(recorded(f"tree/{name}.xml"), current=name == current) for name in TREE]


def lines(text: str) -> list[str]:
    """Without the spaces that virsh leaves at the ends of lines."""
    return [line.rstrip() for line in text.strip().splitlines()]


def tree(*branches: str):
    """Snapshots by paths such as ``a/b/c``, created in this order."""
    return [
        snapshot(path.split("/")[-1], parent="/".join(path.split("/")[-2:-1]), created=n)
        for n, path in enumerate(branches)
    ]


def test_several_roots_siblings_and_depth_as_virsh_draws_them():
    assert lines(tree_text(real_tree()).replace(" *", "")) == lines(recorded("tree/virsh"))


def test_the_current_one_is_marked():
    marked = [line for line in tree_text(real_tree()).splitlines() if line.endswith(" *")]
    assert marked == ["  |       +- a1y1 *"]


def test_no_snapshot_no_tree():
    assert tree_text([]) == ""


def test_one_snapshot_is_one_line():
    assert tree_text([snapshot("a", current=True)]) == "a *"


def test_siblings_stand_in_the_order_of_their_names_as_virsh_sorts_them():
    text = tree_text(tree("z", "z/m", "z/B"))
    assert lines(text) == ["z", "  |", "  +- B", "  +- m"]
    same_moment = [snapshot(name, created=1) for name in "cab"]
    assert tree_text(same_moment).split() == ["a", "b", "c"]


def test_a_snapshot_whose_parent_is_unknown_is_a_root():
    assert lines(tree_text([snapshot("a", parent="gone")])) == ["a"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a", ["a", "a1", "a2", "a3", "a1x", "a1y", "a3x", "a1y1", "a1y1z"]),
        ("a1", ["a1", "a1x", "a1y", "a1y1", "a1y1z"]),
        ("a1y1z", ["a1y1z"]),
        ("b", ["b", "b1"]),
        ("unknown", ["unknown"]),
    ],
)
def test_descendants_parents_first(name, found):
    assert list(descendants(real_tree(), name)) == found


@given(st.lists(st.integers(-1, 20), max_size=20))
def test_every_snapshot_is_drawn_once_and_below_its_parent(parents):
    names = [f"s{n:02}" for n in range(len(parents))]
    snapshots = [
        snapshot(name, parent=names[above] if 0 <= above < n else "", created=n)
        for n, (name, above) in enumerate(zip(names, parents, strict=True))
    ]
    text = tree_text(snapshots)
    drawn = [line for line in text.splitlines() if "s" in line]
    column = {line.split("+- ")[-1].strip(): line.index("s") for line in drawn}
    assert sorted(column) == names and len(drawn) == len(names)
    for found in snapshots:
        if found.parent:
            assert column[found.name] > column[found.parent]
        above = descendants(snapshots, found.name)
        assert above[0] == found.name and len(set(above)) == len(above)
