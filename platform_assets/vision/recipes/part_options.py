"""The options of part attention as YAML gives them; what they do stands in part_attention.py and part_selectors.py."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from platform_assets.vision.recipes.train_options import Options


class PartOptions(Options):
    """The last block of a vision transformer sees the parts that `selector` picks, in place of every patch."""

    selector: Literal["transfg", "glsim"] = Field(
        default="transfg",
        description="transfg: one patch a head by the product of attention maps (He et al. 2022, arXiv 2103.07976); "
        "glsim: the top_k patches most like the class token (Rios et al. 2024, arXiv 2407.12891)",
    )
    stride_px: int | None = Field(
        default=None,
        ge=1,
        description="pixels between two patches: smaller than a patch, and they overlap; None is the backbone's own",
    )
    residual: bool = Field(
        default=False,
        description="selector transfg multiplies (map + identity) / 2 (rollout, Abnar and Zuidema 2020, arXiv 2005.00928)",
    )
    top_k: int = Field(default=12, ge=1, description="patches that selector glsim picks")
    contrast_weight: float = Field(default=1.0, ge=0, description="of the contrastive loss of the features; 0 is off")

    @model_validator(mode="after")
    def _options_of_other_selectors(self) -> Self:
        self._refuse_without("residual", "selector: transfg", when=self.selector == "transfg")
        self._refuse_without("top_k", "selector: glsim", when=self.selector == "glsim")
        return self

    def require_patches(self, *, patch_px: int, image_size_px: int) -> None:
        """Raises ValueError where a square image has fewer patches than are picked."""
        patches = ((image_size_px - patch_px) // (self.stride_px or patch_px) + 1) ** 2
        if self.selector == "glsim" and self.top_k > patches:
            raise ValueError(
                f"parts.top_k {self.top_k} is more than the {patches} patches of {patch_px} pixels in images of "
                f"{image_size_px}; lower it or raise image_size_px"
            )
