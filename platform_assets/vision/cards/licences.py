"""What is known of a dataset's licence: its id, where that is stated, who approved it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

_PLACEHOLDERS = frozenset(
    {
        "noassertion",
        "none",
        "not stated",
        "null",
        "n/a",
        "other",
        "tba",
        "tbd",
        "todo",
        "unknown",
        "unlicensed",
        "?",
        "-",
    }
)
"""Ids that name no licence: SPDX's own NONE and NOASSERTION, the Hub's `unknown` and `other`, and what people write."""

# The identifiers that the Hub lists for its cards; those of its families stand below.
_HUB_LIST = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
    pddl lgpl-lr deepfloyd-if-license llama2 gemma
"""
_HUB_IDS = frozenset(_HUB_LIST.split())
_HUB_NAMES_OF_SPDX = {
    **{"odbl-1.0": "odbl", "odc-by-1.0": "odc-by", "pddl-1.0": "pddl", "c-uda-1.0": "c-uda", "lgpllr": "lgpl-lr"},
    **{"gfdl-1.1": "gfdl", "gfdl-1.2": "gfdl", "gfdl-1.3": "gfdl"},
}


class Licence(BaseModel):
    """The licence of data or of a model. A plain text in YAML is its `id`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str | None = Field(
        None, description="SPDX id or expression (CC-BY-4.0), `LicenseRef-...`, or a name of its own"
    )
    source: str | None = Field(None, description="where it is stated: a page, a file, a contract")
    approved_by: str | None = Field(None, description="who read it and approved the use of the data under it")

    @field_validator("id", "source", "approved_by")
    @classmethod
    def _blank_is_not_stated(cls, text: str | None) -> str | None:
        return (text.strip() or None) if text else None

    def described(self) -> str | None:
        """All that is stated, as one clause for people; None when nothing is."""
        name = None if self.id is None else spdx(self.id) or self.id
        said = [
            name,
            self.source and f"stated in {self.source}",
            self.approved_by and f"approved by {self.approved_by}",
        ]
        return ", ".join(filter(None, said)) or None


def _from_text(value: object) -> object:
    if value is None:
        return Licence()
    return Licence(id=value) if isinstance(value, str) else value


StatedLicence = Annotated[Licence, BeforeValidator(_from_text, json_schema_input_type=str | Licence | None)]
"""A Licence as YAML gives it: nothing, a text, or id, source and approved_by."""


def spdx(text: str) -> str | None:
    """An SPDX licence expression in SPDX's own spelling (`mit or apache-2.0` is `MIT OR Apache-2.0`), else None."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return None


def missing(licence: Licence) -> list[str]:
    """What someone has to state before the licence counts as known, as `field: reason and cure`; empty when it is known.

    An expression of ids on the SPDX list is known by itself. `LicenseRef-...` and names of one's own also need `source` and
    `approved_by`: nobody else can look them up.
    """
    if licence.id is None or licence.id.lower() in _PLACEHOLDERS:
        said = "no licence is stated" if licence.id is None else f"{licence.id!r} names no licence"
        return [
            f"id: {said}; give an SPDX id such as CC-BY-4.0, or the name of another licence with source and approved_by"
        ]
    expression = spdx(licence.id)
    if expression is not None and "LicenseRef-" not in expression:
        return []
    why = f"{licence.id!r} is not on the SPDX list"
    wanted = {
        "source": f"{why}; say where its text is, a page, a file or a contract",
        "approved_by": f"{why}; name who read it and approved the use",
    }
    return [f"{field}: {reason}" for field, reason in wanted.items() if getattr(licence, field) is None]


def hub_fields(licence: Licence) -> dict[str, str]:
    """The fields `license`, `license_name` and `license_link` of a Hugging Face card, in the Hub's own identifiers."""
    if licence.id is None or licence.id.lower() in _PLACEHOLDERS:
        return {"license": "unknown"}
    short = (spdx(licence.id) or licence.id).lower()
    for ending in ("-only", "-or-later", "+"):
        short = short if short in _HUB_IDS else short.removesuffix(ending)
    short = _HUB_NAMES_OF_SPDX.get(short, short)
    if short in _HUB_IDS:
        return {"license": short}
    link = {"license_link": licence.source} if licence.source and "://" in licence.source else {}
    return {"license": "other", "license_name": licence.id, **link}
