# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator may call snapshots and VMs: what is accepted is safe, all else is refused."""

from __future__ import annotations

import posixpath
import re
import subprocess
import xml.etree.ElementTree as ET
from urllib.parse import unquote

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.names import (
    check_description,
    check_known_name,
    check_path,
    check_snapshot_name,
    check_vm_name,
    file_part,
    in_shell,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import BadInput
from hypothesis import example, given
from hypothesis import strategies as st

PLAIN = "abzAZ059_"
INNER = PLAIN + ".:@+-"
anything = st.text() | st.text(alphabet=INNER + "/\n %<&\x00é", max_size=140)


def safe_in_a_file_name(part: str) -> bool:
    """One component that no program takes for an option, a hidden file or a way out."""
    return (
        posixpath.basename(f"/folder/{part}") == part
        and part not in ("", ".", "..")
        and part[0] not in "-."
        and re.fullmatch(r"[!-~]+", part) is not None
    )


def survives_xml(text: str) -> bool:
    node = ET.Element("name")
    node.text = text
    try:
        return (ET.fromstring(ET.tostring(node, encoding="unicode")).text or "") == text
    except (ET.ParseError, UnicodeEncodeError):
        return False


def accepted(check, name: str) -> bool:
    try:
        assert check(name) == name
    except BadInput:
        return False
    return True


@given(anything)
@example("a" * 127)
@example("a\n")
@example("ä")
@example("٣")  # a digit, but not one of ours
def test_an_accepted_snapshot_name_is_safe_and_no_other_is_accepted(name):
    allowed = re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9_.:@+-]{0,126}", name, re.ASCII) is not None
    assert accepted(check_snapshot_name, name) == allowed
    if allowed:
        assert safe_in_a_file_name(name) and survives_xml(name)


@pytest.mark.parametrize("name", ["before-update", "2026-01-31T12:00+01:00", "_", "a@b", "a" * 127])
def test_usual_snapshot_names(name):
    assert check_snapshot_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "-a", ".a", "+a", "a b", "a/b", "../a", "a\n", "a\x00", "<a>", "a&b", "ä", "a" * 128],
)
def test_what_a_snapshot_cannot_be_called(name):
    with pytest.raises(BadInput) as error:
        check_snapshot_name(name)
    assert "1 to 127 letters" in str(error.value)
    assert "choose another name" in error.value.todo


def test_a_long_name_is_shortened_in_the_message():
    with pytest.raises(BadInput) as error:
        check_snapshot_name("x" * 300)
    assert "(300 characters)" in error.value.found and len(error.value.found) < 130


@given(anything)
@example("a" * 255)
@example("é" * 127)
@example("\udcff")
@example("a\u200bb")
def test_an_accepted_vm_name_is_safe_as_a_part_of_a_file_name(name):
    if not accepted(check_vm_name, name):
        return
    part = file_part(name)
    assert safe_in_a_file_name(part)
    assert unquote(part) == name
    assert survives_xml(name)


@pytest.mark.parametrize(
    "name",
    ["db01", "x", "web server", "Prüfstand", "a" * 255, "é" * 127, "5762cac2-e406-495a-b4e9"],
)
def test_usual_vm_names(name):
    assert check_vm_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "-a", ".a", "a/b", "a\n", "a\x7f", "\udcff", "a" * 256, "é" * 128, "a\u202eb"],
)
def test_what_a_vm_cannot_be_called(name):
    with pytest.raises(BadInput) as error:
        check_vm_name(name)
    assert "virsh list --all" in error.value.todo


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
@example("-x")
@example("..")
def test_whatever_others_call_a_vm_is_safe_as_a_part_of_a_file_name(name):
    assert safe_in_a_file_name(file_part(name)) and unquote(file_part(name)) == name


@pytest.mark.parametrize(
    "name", ["db01", "my vm", "it's", "a\nb'c", "$(id)", "ä\u202e\t", "--help", 'a"b']
)
def test_a_name_in_an_advice_is_one_word_on_one_line(name):
    assert "\n" not in in_shell(name)
    echoed = subprocess.run(
        ["bash", "-c", f"printf %s {in_shell(name)}"], check=True, capture_output=True
    )
    assert name.startswith("--") or echoed.stdout.decode() == name


@pytest.mark.parametrize("name", ["-x", ".hid", "a\tb", "a\u202eb", "it's <&>"])
def test_what_libvirt_has_called_a_vm_can_be_restored(name):
    assert check_known_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb", "a\x00"])
def test_what_no_vm_was_ever_called(name):
    with pytest.raises(BadInput):
        check_known_name(name)


def test_plain_characters_stay_readable_in_file_names():
    assert file_part("db_01.test:a@b+c=d,e-f") == "db_01.test:a@b+c=d,e-f"
    assert file_part("a b%/ä") == "a%20b%25%2F%C3%A4"


@given(anything | st.text(alphabet="a\r\n\t \x00\x1b\ufffe\ud800"))
def test_a_description_that_is_accepted_comes_back_out_of_xml(text):
    try:
        kept = check_description(text)
    except BadInput:
        assert not survives_xml(text.replace("\r", ""))
        return
    assert survives_xml(kept)
    assert kept.split("\n") == re.split("\r\n|\r|\n", text)


def test_line_ends_are_made_alike():
    assert check_description("a\r\nb\rc\nd\te") == "a\nb\nc\nd\te"


@pytest.mark.parametrize("text", ["a\x00", "\x1b[1m", "a\ud800", "\ufffe"])
def test_what_a_description_cannot_hold(text):
    with pytest.raises(BadInput, match="control character"):
        check_description(text)


@given(anything.map(lambda text: f"/{text}"))
def test_a_path_that_is_accepted_is_one_line_and_comes_back_out_of_xml(path):
    node = ET.Element("source", file=path)
    try:
        assert check_path(path, "the file") == path
    except BadInput:
        assert not path.isprintable() or not path.isascii()
        return
    assert "\n" not in path and "\x00" not in path
    assert ET.fromstring(ET.tostring(node, encoding="unicode")).get("file") == path


@pytest.mark.parametrize("path", ["", "a", "./a", "/a\n", "/a\x00", "/\udcff", "/a\x85"])
def test_what_is_no_path_for_a_new_file(path):
    with pytest.raises(BadInput) as error:
        check_path(path, "the overlay of disk vda")
    assert error.value.found.startswith("the overlay of disk vda is ")
