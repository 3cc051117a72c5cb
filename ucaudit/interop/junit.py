"""Checks as JUnit XML, which every CI system shows."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from ucaudit.core.errors import UcauditError
from ucaudit.evidence.verify import Verification


def junit_xml(suite: str, result: Verification) -> bytes:
    """One test case a check: failures with their message, what was not checked as skipped.

    Args:
        suite: the suite's name.
        result: a verification with its checks.

    Returns:
        UTF-8 XML.
    """
    return _xml(_suite(suite, result))


def junit_error(suite: str, code: str, message: str) -> bytes:
    """A suite that came to no verdict: one case with an ``<error>``, which no CI system shows as green.

    Args:
        suite: the suite's name.
        code: the error's stable slug.
        message: what happened.

    Returns:
        UTF-8 XML.
    """
    return _xml(_error(suite, code, message))


def junit_suites(suites: Sequence[tuple[str, Verification | UcauditError]]) -> bytes:
    """Several suites in one file, in the order given.

    Args:
        suites: name and checks, or name and the error for which there are none.

    Returns:
        UTF-8 XML.
    """
    parts = [
        _error(name, found.code, str(found)) if isinstance(found, UcauditError) else _suite(name, found)
        for name, found in suites
    ]
    totals = {
        count: str(sum(int(part.get(count, "0")) for part in parts))
        for count in ("tests", "failures", "errors", "skipped")
    }
    root = ET.Element("testsuites", {"name": "ucaudit gate", **totals})
    root.extend(parts)
    return _xml(root)


def _suite(suite: str, result: Verification) -> ET.Element:
    skipped = sum(check.status == "not-checked" for check in result.checks)
    root = ET.Element(
        "testsuite",
        name=_legal(suite),
        tests=str(len(result.checks)),
        failures=str(len(result.failures)),
        errors="0",
        skipped=str(skipped),
    )
    for check in result.checks:
        case = ET.SubElement(root, "testcase", classname=f"ucaudit.{check.slug}", name=_legal(check.what))
        if check.status == "fail":
            failure = ET.SubElement(case, "failure", type=check.reason or check.slug, message=_legal(check.detail))
            hint = [check.error.hint] if check.error and check.error.hint else []
            failure.text = _legal("\n".join([*hint, *check.items]))
        elif check.status == "not-checked":
            ET.SubElement(case, "skipped", message=_legal(check.detail))
        else:
            ET.SubElement(case, "system-out").text = _legal(check.detail)
    return root


def _error(suite: str, code: str, message: str) -> ET.Element:
    root = ET.Element("testsuite", name=_legal(suite), tests="1", failures="0", errors="1", skipped="0")
    case = ET.SubElement(root, "testcase", classname="ucaudit.gate", name="the gate came to a verdict")
    ET.SubElement(case, "error", type=code, message=_legal(message))
    return root


def _xml(root: ET.Element) -> bytes:
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _legal(text: str) -> str:
    """Without the characters that XML 1.0 forbids."""
    return "".join(
        c if c in "\t\n" or 0x20 <= ord(c) < 0xD800 or 0xE000 <= ord(c) < 0xFFFE else "\ufffd" for c in text
    )
