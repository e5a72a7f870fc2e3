"""What YAML may ask of the certainty of models; what is done of it stands in calibration.py and conformal.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from platform_assets.vision.recipes.train_options import Options

SetMethod = Literal["lac", "aps", "raps"]


class UncertaintyOptions(Options):
    """Fitted on val after a trial is trained, so that it is no part of the trial."""

    coverage: float = Field(default=0.9, gt=0, lt=1, description="how often a set of labels shall hold the truth")
    sets: SetMethod = Field(default="lac", description="how sets are made (conformal.py)")
    precision: float = Field(
        default=0.95, gt=0, lt=1, description="share of right answers, for which unsure ones are left out"
    )
    precision_level: float = Field(
        default=0.9, gt=0, lt=1, description="in which share of draws of val that precision holds on images like them"
    )
