"""Options of part attention: defaults, and choices that nothing would read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from platform_assets.vision.recipes.part_options import PartOptions


def test_part_options__defaults_are_those_of_transfg_on_the_backbones_own_patches() -> None:
    assert PartOptions().model_dump() == {
        "selector": "transfg",
        "stride_px": None,
        "residual": False,
        "top_k": 12,
        "contrast_weight": 1.0,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"selector": "glsim", "residual": True}, "'residual' True has no meaning without selector: transfg"),
        ({"top_k": 4}, "'top_k' 4 has no meaning without selector: glsim"),
        ({"selector": "rams"}, "'transfg' or 'glsim'"),
        ({"stride": 12}, "stride\n  Extra inputs are not permitted"),
        ({"stride_px": 0}, "stride_px\n  Input should be greater than or equal to 1"),
        ({"contrast_weight": -1}, "contrast_weight\n  Input should be greater than or equal to 0"),
    ],
)
def test_part_options__refuse_what_has_no_meaning(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        PartOptions.model_validate(given)
    assert message in str(raised.value)
