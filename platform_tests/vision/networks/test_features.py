"""Features of transformers: which tokens they are, that prefix tokens are not patches, and that every engine agrees."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from platform_assets.vision.networks.engines import FeatureExtractor, build_engine, measure_parity, probe_pixels
from platform_assets.vision.networks.features import FeaturesNotThere, TokenFeatures
from platform_assets.vision.recipes.preprocessing import Preprocessing

SIDE_PX, BATCH = 64, 2
PIXELS = Preprocessing(
    image_size_px=SIDE_PX, resize="squash", interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
# timm resamples the position embedding in the graph of a model of any size, even at its own.
TRACED = {"reg_tokens": 2, "depth": 4, "dynamic_img_size": False}
IMAGES_BCHW = torch.randn((2, 3, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(3))


def _model(name: str = "test_vit", **options: object) -> Any:
    """Weights far from zero: fresh ones leave all tokens of an image nearly alike."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, img_size=SIDE_PX, num_classes=0, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def _tokens(model: Any) -> list[torch.Tensor]:
    """Tokens after each block by hand, through the norm where the model has one before its pooling."""
    tokens_bnd = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(IMAGES_BCHW))))
    found = []
    for block in model.blocks:
        tokens_bnd = block(tokens_bnd)
        found.append(model.fc_norm(model.norm(tokens_bnd)))
    return found


def _features(model: nn.Module, features: Any) -> torch.Tensor:
    with torch.inference_mode():
        return TokenFeatures(model, features, name="a_vit")(IMAGES_BCHW)


@pytest.mark.parametrize("registers", [0, 3])
def test_token_features__are_those_of_a_walk_by_hand(registers: int) -> None:
    model = _model(reg_tokens=registers)
    with torch.inference_mode():
        tokens = _tokens(model)
    cls, mean = [found_bnd[:, 0] for found_bnd in tokens[-4:]], tokens[-1][:, 1 + registers :].mean(1)
    wanted = {"cls": cls[-1:], "mean": [mean], "cls_mean": [cls[-1], mean], "tokens": [*cls, mean]}
    for features, parts in wanted.items():
        torch.testing.assert_close(_features(model, features), torch.cat(parts, dim=1))
    assert not torch.allclose(mean, tokens[-1].mean(1), atol=1e-3)


def test_token_features__cls_is_what_timm_pools() -> None:
    model = _model()
    with torch.inference_mode():
        torch.testing.assert_close(_features(model, "cls"), model(IMAGES_BCHW))


@pytest.mark.parametrize("name", ["test_vit2", "test_vit_relpos"], ids=["registers alone", "no prefix"])
def test_token_features__without_a_class_token_there_is_the_mean_alone(name: str) -> None:
    model = _model(name)
    prefix = model.num_prefix_tokens
    with torch.inference_mode():
        patches_bnd = model.forward_features(IMAGES_BCHW)[:, prefix:]
        torch.testing.assert_close(_features(model, "mean"), model.fc_norm(patches_bnd.mean(1)))
    for features in ("cls", "cls_mean", "tokens"):
        with pytest.raises(FeaturesNotThere, match=f"{features!r}: backbone 'a_vit' has no class token; use mean"):
            _features(model, features)


def test_token_features__a_cnn_has_none() -> None:
    with pytest.raises(FeaturesNotThere, match="'mean': backbone 'a_vit' has no tokens, it is no transformer"):
        _features(timm.create_model("test_resnet", pretrained=False), "mean")


def test_token_features__need_as_many_blocks_as_they_read() -> None:
    with pytest.raises(FeaturesNotThere, match="'tokens' read 4 blocks, backbone 'a_vit' has 3; use cls_mean"):
        _features(_model(depth=3), "tokens")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_token_features__engines_agree_with_torch(engine: Any) -> None:
    extractor = FeatureExtractor(TokenFeatures(_model(**TRACED), "tokens", name="a_vit"), PIXELS).eval()
    images = probe_pixels(2 * BATCH + 1, SIDE_PX)
    with torch.inference_mode():
        expected = extractor(torch.from_numpy(images)).numpy()
    found = build_engine(engine, extractor, "cpu", image_size_px=SIDE_PX, batch_size=BATCH).run(images)
    parity = measure_parity(expected, found)
    assert expected.shape == (2 * BATCH + 1, 5 * 64)
    assert expected.std(axis=0).mean() > 1e-3
    assert parity.passed, parity
