"""Logits of images by a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from platform_assets.vision.machine.devices import Device
    from platform_assets.vision.networks.models import Classifier


def predict(
    classifier: Classifier, images_nchw: NDArray[np.uint8], *, device: Device = "cpu", batch_size: int = 64
) -> NDArray[np.float32]:
    """logits_nk in evaluation mode; the classifier is left in the mode it was in."""
    import torch

    from platform_assets.vision.networks.models import place

    was_training = classifier.training
    place(classifier, device).eval()
    logits_nk = np.empty((len(images_nchw), classifier.num_classes), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(images_nchw), batch_size):
            # A copy: images may lie in a file that is read only.
            images_bchw = torch.from_numpy(images_nchw[start : start + batch_size].copy()).to(device)
            logits_nk[start : start + batch_size] = classifier(images_bchw).cpu().numpy()
    classifier.train(was_training)
    return logits_nk
