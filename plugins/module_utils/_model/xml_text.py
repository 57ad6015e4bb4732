# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and writing XML so that libvirt and we mean the same.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET


def xml_root(xml: str) -> ET.Element:
    """The document that libvirt has written; in names it leaves a carriage return as it is."""
    return ET.fromstring(xml.replace("\r", "&#13;"))  # noqa: S314 - the daemon's own output


def xml_text(root: ET.Element) -> str:
    """The document. A carriage return, which names may hold, would be read as a line end."""
    return ET.tostring(root, encoding="unicode").replace("\r", "&#13;")


def up_to_disks(xml: str, closing: str) -> str:
    """A document of libvirt's without what follows the disks of its domain: most of the text.

    libvirt writes them before all other devices. ``closing`` are the tags that are open behind
    ``<devices>``.
    """
    end = xml.rfind("</disk>", max(0, xml.find("<devices>")))
    return f"{xml[:end]}</disk></devices>{closing}" if end > xml.find("<devices>") > 0 else xml
