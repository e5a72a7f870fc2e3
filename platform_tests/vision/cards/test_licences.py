"""Licences: what YAML may give, what counts as known, how the Hub spells it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from platform_assets.vision.cards.licences import Licence, StatedLicence, hub_fields, missing, spdx

STATED = TypeAdapter(StatedLicence)


@pytest.mark.parametrize(
    ("said", "licence"),
    [
        ("MIT", Licence(id="MIT")),
        (None, Licence()),
        ("  ", Licence()),
        ({"id": "MIT", "source": " LICENSE ", "approved_by": ""}, Licence(id="MIT", source="LICENSE")),
        (Licence(id="MIT"), Licence(id="MIT")),
    ],
)
def test_stated_licence__as_yaml_gives_it(said: object, licence: Licence) -> None:
    assert STATED.validate_python(said) == licence


@pytest.mark.parametrize(("said", "problem"), [({"ident": "MIT"}, "Extra inputs"), (3, "dictionary or instance")])
def test_stated_licence__anything_else_is_refused(said: object, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        STATED.validate_python(said)


def test_stated_licence__the_schema_allows_a_text_and_nothing() -> None:
    """The graph checks YAML against the JSON schema first: `licence: MIT` must pass there too."""

    class Spec(BaseModel):
        licence: StatedLicence = Licence()

    kinds = Spec.model_json_schema()["properties"]["licence"]["anyOf"]
    assert [kind.get("type", "model") for kind in kinds] == ["string", "model", "null"]


@pytest.mark.parametrize(
    "known", ["MIT", "cc-by-4.0", "mit or (Apache-2.0 and BSD-3-Clause)", "GPL-2.0-or-later", "ODbL-1.0"]
)
def test_missing__ids_on_the_spdx_list_are_known_by_themselves(known: str) -> None:
    assert missing(Licence(id=known)) == []


@pytest.mark.parametrize("custom", ["LicenseRef-Birds", "our own terms", "MIT OR LicenseRef-Birds", "CC BY 4.0", "MTI"])
def test_missing__other_names_need_source_and_approval(custom: str) -> None:
    def fields(licence: Licence) -> list[str]:
        return [said.split(":")[0] for said in missing(licence)]

    assert fields(Licence(id=custom)) == ["source", "approved_by"]
    assert fields(Licence(id=custom, source="contract 7")) == ["approved_by"]
    assert fields(Licence(id=custom, approved_by="J. Doe")) == ["source"]
    assert fields(Licence(id=custom, source="contract 7", approved_by="J. Doe")) == []


@pytest.mark.parametrize("nothing", [None, "unknown", "NOASSERTION", "None", "other", "TBD"])
def test_missing__a_placeholder_is_no_licence_whoever_approved_it(nothing: str | None) -> None:
    assert [said[:3] for said in missing(Licence(id=nothing, source="x", approved_by="y"))] == ["id:"]


def test_missing__names_the_value_and_the_cure() -> None:
    assert missing(Licence(id="MTI", source="README")) == [
        "approved_by: 'MTI' is not on the SPDX list; name who read it and approved the use"
    ]


WORDS = st.lists(st.sampled_from(["MIT", "and", "OR", "WITH", "licenseref-x", "+", "(", ")", "GPL-2.0"])).map(" ".join)


@settings(max_examples=60)
@given(st.text() | WORDS)
def test_spdx__any_text_has_a_spelling_or_none(text: str) -> None:
    spelled = spdx(text)
    assert spelled is None or spdx(spelled) == spelled


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ({"id": "CC-BY-NC-SA-4.0"}, {"license": "cc-by-nc-sa-4.0"}),
        ({"id": "ODbL-1.0"}, {"license": "odbl"}),
        ({"id": "AGPL-3.0-only"}, {"license": "agpl-3.0"}),
        ({"id": "GPL-3.0+"}, {"license": "gpl-3.0"}),
        ({"id": "OpenRAIL++"}, {"license": "openrail++"}),
        ({"id": "CC-BY-1.0"}, {"license": "other", "license_name": "CC-BY-1.0"}),
        ({"id": "our own terms", "source": "contract 7"}, {"license": "other", "license_name": "our own terms"}),
        ({"id": "NOASSERTION"}, {"license": "unknown"}),
        ({}, {"license": "unknown"}),
    ],
)
def test_hub_fields__as_the_hub_spells_them(said: dict[str, str], fields: dict[str, str]) -> None:
    assert hub_fields(Licence(**said)) == fields


def test_described__one_clause() -> None:
    assert Licence(id="mit", source="LICENSE", approved_by="J. Doe").described() == (
        "MIT, stated in LICENSE, approved by J. Doe"
    )
    assert Licence(id="our own terms").described() == "our own terms"
    assert Licence().described() is None
