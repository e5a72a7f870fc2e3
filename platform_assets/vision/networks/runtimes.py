"""One torch module as a function from uint8 pixels to float32 features in torch, ONNX Runtime or OpenVINO."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from platform_assets.vision.machine.devices import Device

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class EngineRefused(ValueError):
    """No engine, or not the one asked for, gives the features of the torch module on this machine."""


def torch_infer(module: nn.Module, device: Device, *, channels_last: bool) -> Infer:
    """Eager float32 on `device`, of a copy of the module; TF32 is off on CUDA, where it would cost three digits."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    placed = copy.deepcopy(module).eval().to(device).to(memory_format=memory_format)

    def infer(images_bchw_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(images_bchw_u8).to(device).contiguous(memory_format=memory_format)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features: torch.Tensor = placed(images)
        return cast("NDArray[np.float32]", features.float().cpu().numpy())

    return infer


def onnxruntime_infer(module: nn.Module, sample_bchw_u8: NDArray[np.uint8]) -> Infer:
    """ONNX Runtime on the CPU, for batches of that shape; raises EngineRefused when it cannot take the graph."""
    import onnxruntime

    try:
        # 2026-11: the exporter prints its progress and warns of its own internals only.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(_exported(module, sample_bchw_u8, "onnxruntime"), dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise EngineRefused(f"onnxruntime: no export of the module ({error}); use 'torch'") from error
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name

    def infer(images_bchw_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        return cast("NDArray[np.float32]", session.run(None, {input_name: images_bchw_u8})[0])

    return infer


def openvino_infer(module: nn.Module, sample_bchw_u8: NDArray[np.uint8], *, precision: str = "f32") -> Infer:
    """OpenVINO on the CPU, for batches of that shape; raises EngineRefused when it cannot take the graph.

    Without the `f32` hint OpenVINO computes in bfloat16 wherever the CPU has it, and parity is lost.
    """
    try:
        import openvino
    except ImportError as error:
        raise EngineRefused("openvino: there is no wheel for this platform; use 'onnxruntime' or 'torch'") from error
    try:
        model = openvino.convert_model(_exported(module, sample_bchw_u8, "openvino"))
    except openvino.frontend.OpConversionFailure as error:
        raise EngineRefused(f"openvino: no conversion of the module ({error}); use 'onnxruntime' or 'torch'") from error
    model.reshape(list(sample_bchw_u8.shape))
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def infer(images_bchw_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        return cast("NDArray[np.float32]", compiled(images_bchw_u8)[0])

    return infer


def _exported(module: nn.Module, sample_bchw_u8: NDArray[np.uint8], runtime: str) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad():
            return torch.export.export(module.eval(), (torch.from_numpy(sample_bchw_u8),))
    except RuntimeError as error:  # what torch.export raises for every graph that it cannot follow
        reason = str(error).strip().split("\n", 1)[0]
        raise EngineRefused(f"{runtime}: torch.export cannot follow the module ({reason}); use 'torch'") from error
