"""The asset families a user instantiates from YAML."""

from platform_assets.components.experiment import Experiment
from platform_assets.components.vision_dataset import VisionDataset

__all__ = ["Experiment", "VisionDataset"]
