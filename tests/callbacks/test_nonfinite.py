"""A NaN or Inf at a chosen step: who is named, what is left out, what goes on."""

import math

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from erssl.callbacks import NonFiniteGuard
from erssl.errors import RunError
from erssl.run.checkpoint_files import Resumed

from ..methods.test_resume_to_the_bit import differences, train

METHOD = "mocov2"  # with a queue, a momentum branch and batch normalisation


class Spoil(Callback):
    """Spoils a step: the images, a module's output, the loss or a gradient."""

    def __init__(self, what, *steps):
        self.what, self.steps, self.lr, self.handle = what, steps, {}, None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        spoilt = trainer.global_step + 1 in self.steps
        if spoilt and self.what == "images":
            batch[0][1][3, 0, 5, 5] = float("inf")
        if spoilt and self.what == "module":

            def nan(module, given, gave):
                return gave * float("nan")

            head = dict(pl_module.named_modules())["projection_head.layers.0"]
            self.handle = head.register_forward_hook(nan)

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step + 1 in self.steps and self.what == "gradient":
            next(pl_module.projection_head.parameters()).grad[0] = float("nan")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.handle is not None:
            self.handle.remove()
            self.handle = None


class Rates(Callback):
    """The learning rate that each step was taken with."""

    def __init__(self):
        self.taken = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.taken.append(optimizer.param_groups[0]["lr"])


def state_of(checkpoint, *without):
    return {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith(without)}


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("images", "the images of batch 1 of the step"),
        ("module", r"the output of projection_head\.layers\.0 \(Linear\)"),
        ("gradient", r"the gradient of projection_head\.layers\.0\.\w+, 1 of \d+ gradients in all"),
    ],
)
def test_stop_names_step_and_place_before_the_weights_are_touched(what, where, tmp_path):
    clean = train(METHOD, tmp_path / "clean", every=1)
    two = torch.load(tmp_path / "clean" / "last-4.ckpt", weights_only=True)
    assert two["global_step"] == 2
    guard = NonFiniteGuard("stop", tmp_path / "run", save_batch=True)
    with pytest.raises(
        RunError, match=f"^Step 3 is not finite: {where}. Its batch is in "
    ) as error:
        train(METHOD, tmp_path / "run", callbacks=[Spoil(what, 3), guard], every=1)
    assert f"resume=true run_dir={tmp_path / 'run'} on_nonfinite=skip" in str(error.value)
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert differences(kept["state_dict"], two["state_dict"]) == []
    saved = torch.load(tmp_path / "run" / "nonfinite-step3.pt", weights_only=True)
    assert saved["step"] == 3
    assert len(saved["batches"][0][0][0]) == 12
    # with the fault gone, the run that was stopped ends as one without it
    resumed_from = Resumed(tmp_path / "run" / "last.ckpt", 2)
    again = train(METHOD, tmp_path / "run", resumed_from, every=1)
    assert differences(again["state_dict"], clean["state_dict"]) == []


@pytest.mark.parametrize("what", ["images", "module", "gradient"])
def test_skip_leaves_weights_moments_and_buffers_as_they_were(what, tmp_path):
    guard = NonFiniteGuard("skip", tmp_path)
    with pytest.warns(UserWarning, match=r"Step 3 is not finite: .* The step is left out\.$"):
        last = train(METHOD, tmp_path, callbacks=[Spoil(what, 3), guard], every=1)
    assert guard.skipped == 1
    before, after = (torch.load(tmp_path / f"last-{n}.ckpt", weights_only=True) for n in (4, 3))
    assert (before["global_step"], after["global_step"]) == (2, 3)
    online = [state_of(c, "target_") for c in (before, after)]
    assert differences(*online) == []
    target = [state_of(c, *(k for k in online[0])) for c in (before, after)]
    assert differences(*target) == []
    moments = [c["optimizer_states"][0]["state"] for c in (before, after)]
    assert differences(*moments) == []
    assert last["global_step"] == 6
    assert all(bool(v.isfinite().all()) for v in last["state_dict"].values())


def test_backoff_halves_the_learning_rate_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr("erssl.callbacks.nonfinite._CALM", 2)
    plain = Rates()
    train(METHOD, tmp_path / "plain", callbacks=[Watch(plain)])
    rates, guard = Rates(), NonFiniteGuard("backoff", tmp_path / "run")
    with pytest.warns(UserWarning, match=r"learning rates go to 0\.5 of the schedule"):
        train(METHOD, tmp_path / "run", callbacks=[Spoil("module", 2), guard, Watch(rates)])
    ratio = [a / b for a, b in zip(rates.taken, plain.taken, strict=True)]
    assert ratio == [1, 1, 0.5, 1, 1, 1]


class Watch(Callback):
    """Reads the rates after the guard has set them."""

    def __init__(self, rates):
        self.rates = rates

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.taken.append(optimizer.param_groups[0]["lr"])


def test_a_run_that_backed_off_resumes_to_the_bit(tmp_path):
    def guarded(path, resumed_from=None):
        callbacks = [Spoil("gradient", 2), NonFiniteGuard("backoff", path)]
        return train(METHOD, path, resumed_from, callbacks=callbacks, every=1)

    with pytest.warns(UserWarning, match="Step 2"):
        whole = guarded(tmp_path / "whole")
    resumed_from = Resumed(tmp_path / "whole" / "last-3.ckpt", 3)
    again = guarded(tmp_path / "again", resumed_from)
    assert differences(whole["state_dict"], again["state_dict"]) == []
    assert differences(whole["callbacks"], again["callbacks"]) == []


def test_ten_steps_in_a_row_end_the_run_after_all(tmp_path, monkeypatch):
    monkeypatch.setattr("erssl.callbacks.nonfinite._IN_A_ROW", 3)
    guard = NonFiniteGuard("skip", tmp_path)
    with (
        pytest.warns(UserWarning, match="Step 3"),
        pytest.raises(RunError, match=r"Step 4 is not finite.* So were 3 steps in a row"),
    ):
        train(METHOD, tmp_path, callbacks=[Spoil("gradient", 2, 3, 4), guard])


@pytest.mark.parametrize(("what", "where"), [("gradient", "projection_head"), ("module", "loss")])
def test_looking_rarely_still_names_the_first_step_and_keeps_no_bad_checkpoint(
    what, where, tmp_path
):
    guard = NonFiniteGuard("stop", tmp_path, look_every=50)
    with pytest.raises(RunError, match=rf"^Step 5 is not finite: .*{where}"):
        train(METHOD, tmp_path, callbacks=[Spoil(what, 5), guard])
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 4
    assert all(bool(v.isfinite().all()) for v in kept["state_dict"].values())


def test_the_term_of_the_loss_is_named(tmp_path, monkeypatch):
    from erssl.loss import MVEBLoss

    forward = MVEBLoss.forward

    def spoilt(self, *arguments):
        loss = forward(self, *arguments)
        self.terms["entropy_surrogate"] = self.terms["entropy_surrogate"] * math.inf
        return loss * math.inf

    monkeypatch.setattr(MVEBLoss, "forward", spoilt)
    guard = NonFiniteGuard("stop", tmp_path)
    with pytest.raises(RunError, match="the loss, in its term entropy_surrogate"):
        train("mveb", tmp_path, callbacks=[guard])
