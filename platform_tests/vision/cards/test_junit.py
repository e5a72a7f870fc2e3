"""JUnit XML: parsed by the standard library, its counts those of its cases, whatever the texts hold."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.vision.cards.junit import junit_xml
from platform_assets.vision.cards.report_facts import Outcome

OUTCOMES = st.lists(
    st.builds(
        Outcome,
        name=st.text(),
        passed=st.sampled_from([True, False, None]),
        said=st.text(),
        seconds=st.floats(0, 1e6, allow_nan=False),
    ),
    max_size=6,
)


@settings(max_examples=40)
@given(st.text(), st.dictionaries(st.text(), OUTCOMES, max_size=3))
def test_junit__every_outcome_is_a_case_and_the_counts_are_theirs(name: str, suites: dict[str, list[Outcome]]) -> None:
    root = ET.fromstring(junit_xml(name, suites).encode())
    assert root.tag == "testsuites"
    assert [suite.tag for suite in root] == ["testsuite"] * len(suites)
    for suite, outcomes in zip(root, suites.values(), strict=True):
        cases = suite.findall("testcase")
        assert len(cases) == len(outcomes) == int(suite.attrib["tests"])
        for case, outcome in zip(cases, outcomes, strict=True):
            assert (case.find("failure") is not None) == (outcome.passed is False)
            assert (case.find("skipped") is not None) == (outcome.passed is None)
        for kind, tag in (("failures", "failure"), ("skipped", "skipped"), ("errors", "error")):
            assert int(suite.attrib[kind]) == len(suite.findall(f"testcase/{tag}"))
    for kind in ("tests", "failures", "skipped", "errors"):
        assert int(root.attrib[kind]) == sum(int(suite.attrib[kind]) for suite in root)


def test_junit__as_ci_systems_read_it() -> None:
    suites = {
        "trials": [Outcome(name="cnn__s0", passed=True, said="test top1 0.8", seconds=12.5)],
        "gate": [Outcome(name="verdict", passed=False, said="below <0.9> & refused\x00")],
        "checks": [Outcome(name="exports.parity", passed=None)],
    }
    text = junit_xml("photos/first", suites)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="photos/first" tests="3"')
    root = ET.fromstring(text.encode())
    case = root.find("testsuite[@name='gate']/testcase")
    assert case is not None
    assert case.attrib == {"classname": "photos/first/gate", "name": "verdict", "time": "0.000"}
    failure = case.find("failure")
    assert failure is not None
    assert failure.attrib["message"] == failure.text == "below <0.9> & refused�"
    assert root.find("testsuite/testcase[@time='12.500']/system-out").text == "test top1 0.8"  # type: ignore[union-attr]
    assert root.find("testsuite/testcase/skipped").attrib == {"message": "not evaluated"}  # type: ignore[union-attr]
