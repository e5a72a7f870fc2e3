"""A training in ten lines, to see what an option does to it without the loop around it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import LabelledImages
from platform_assets.vision.training.losses import draw_order, make_loss
from platform_assets.vision.training.optimization import freeze, make_optimizer, rate_factor, trainable

Teacher = Callable[[torch.Tensor], torch.Tensor]


def tiny_training(
    classifier: Classifier, part: LabelledImages, recipe: TrainRecipe, teacher: Teacher | None = None
) -> list[float]:
    """Train in place, without augmentation; the mean loss of each epoch."""
    epoch_steps = -(-len(part) // recipe.batch_size)
    loss_of = make_loss(recipe, np.bincount(part.labels_n, minlength=classifier.num_classes), device="cpu")
    optimizer, generator, step, history = make_optimizer(classifier, recipe), np.random.default_rng(0), 0, []
    all_of_it = trainable(classifier)
    for epoch in range(1, recipe.epochs + 1):
        freeze(classifier.train(), recipe, epoch, all_of_it)
        losses = []
        for rows in np.array_split(draw_order(part.labels_n, recipe, generator), epoch_steps):
            factor = rate_factor(step, total_steps=recipe.epochs * epoch_steps, epoch_steps=epoch_steps, options=recipe)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * group["rate_share"] * factor
            images_bchw, labels_b = torch.from_numpy(part.images_nchw[rows]), torch.from_numpy(part.labels_n[rows])
            loss = loss_of(classifier(images_bchw), labels_b, None, teacher(images_bchw) if teacher else None)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        history.append(float(np.mean(losses)))
    classifier.eval()
    return history
