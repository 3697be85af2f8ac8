"""What is logged of a training step, the same for every method."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningModule

from erssl.entropy import kde_entropy, knn_entropy, sphere_log_area
from erssl.entropy.geometry import unit_rows
from erssl.methods.info import StepOutput

MONITOR_KAPPA = 10.0  # κ of the train_entropy that is logged for every method (ER paper)
MONITOR_NEIGHBOUR = 3  # of the nats below uniform that are logged, see knn_entropy


@torch.no_grad()
def log_step(method: LightningModule, step: StepOutput, batch_size: int) -> None:
    """Log the loss and its terms; for every method alike entropy and alignment of view 0.

    Of this device's rows: ``train_nats_below_uniform`` is a nearest-neighbour estimate of the
    entropy less that of the uniform density, ``train_entropy`` the ER paper's leave-one-out
    KDE at κ = 10 with all its constants, the alignment the mean cosine with the target. They,
    and the learning rate, are taken where loggers take a row and at an epoch's end.
    """
    method.log("train_loss", step.loss, batch_size=batch_size)
    for name, value in getattr(getattr(method, "criterion", None), "terms", {}).items():
        method.log(f"loss_{name}", value, batch_size=batch_size)
    every = int(method.trainer.log_every_n_steps)  # type: ignore[attr-defined]
    if every and ((method.trainer.global_step + 1) % every == 0 or method.trainer.is_last_batch):
        online = unit_rows(step.online.float())
        target = unit_rows(step.target.float())
        entropy = kde_entropy(online, MONITOR_KAPPA, leave_one_out=len(online) > 1)
        method.log("train_entropy", entropy, batch_size=batch_size)
        if len(online) > 1:
            estimate = knn_entropy(online, min(MONITOR_NEIGHBOUR, len(online) - 1))
            below = estimate - sphere_log_area(online.shape[1])
            method.log("train_nats_below_uniform", below, batch_size=batch_size)
        method.log("train_alignment", (online * target).sum(-1).mean(), batch_size=batch_size)
        # a number of the host: to log it in every step would wait for the device in each
        method.log("lr", method.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
