"""Outcomes as JUnit XML, which CI systems show beside a change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from platform_assets.vision.cards.report_facts import Outcome

# What XML 1.0 allows; a class name or an error may hold anything.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(name: str, suites: Mapping[str, Sequence[Outcome]]) -> str:
    """One test suite for each entry, one test case for each outcome: failed ones fail, those not evaluated are skipped.

    Format: the attributes and their order as pytest writes them, read by Jenkins, GitLab and GitHub's actions
    (https://github.com/testmoapp/junitxml).
    """
    root = ET.Element("testsuites", {"name": _clean(name)})
    every = [outcome for outcomes in suites.values() for outcome in outcomes]
    root.attrib |= _counts(every)
    for suite, outcomes in suites.items():
        element = ET.SubElement(root, "testsuite", {"name": _clean(suite), **_counts(outcomes)})
        for outcome in outcomes:
            element.append(_case(f"{name}/{suite}", outcome))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _case(classname: str, outcome: Outcome) -> ET.Element:
    said = _clean(outcome.said)
    named = {"classname": _clean(classname), "name": _clean(outcome.name), "time": f"{outcome.seconds:.3f}"}
    case = ET.Element("testcase", named)
    if outcome.passed is None:
        ET.SubElement(case, "skipped", {"message": said or "not evaluated"})
    elif not outcome.passed:
        ET.SubElement(case, "failure", {"message": said or "does not hold", "type": "failed"}).text = said
    elif said:
        ET.SubElement(case, "system-out").text = said
    return case


def _counts(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {
        "tests": str(len(outcomes)),
        "failures": str(sum(outcome.passed is False for outcome in outcomes)),
        "errors": "0",
        "skipped": str(sum(outcome.passed is None for outcome in outcomes)),
        "time": f"{sum(outcome.seconds for outcome in outcomes):.3f}",
    }


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
