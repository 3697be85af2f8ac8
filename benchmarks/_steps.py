"""The two contenders of ``benchmarks.step``, each in a process that takes steps when asked."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import resource
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's words on machines without a GPU

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

SIZE, CLASSES, MOMENTUM = 224, 1000, 0.996
CONTENDERS = ("erssl MVEB", "lightly BYOL")
WAITS = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
)  # but cudaDeviceSynchronize, which the profiler calls itself


class Setting(NamedTuple):
    """How both contenders are run."""

    name: str
    channels_last: bool = False
    bfloat16: bool = False
    compiled: bool = False


class Plan(NamedTuple):
    """Device and size of the measurement."""

    device: str
    batch: int
    turns: int
    steps: int  # in a turn
    settings: tuple[Setting, ...]


class Worker:
    """A process that holds one contender and does what it is asked."""

    def __init__(self, name: str, asked: Plan, setting: Setting) -> None:
        """Start it."""
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        arguments = other, name, asked, setting
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        other.close()  # lest an answer is waited for that will not come
        self.facts: dict[str, Any] = {}

    def ask(self, what: str) -> Any:
        """Its answer."""
        self.pipe.send(what)
        return self.pipe.recv()

    def close(self) -> None:
        """Let it end."""
        self.pipe.send("end")
        self.process.join()


def serve(pipe: Connection, name: str, asked: Plan, setting: Setting) -> None:
    """Answer until the end is asked for."""
    contender = Ours(asked, setting) if name == CONTENDERS[0] else Peer(asked, setting)
    answers = {"facts": contender.facts, "turn": contender.turn, "memory": contender.memory}
    while (what := pipe.recv()) != "end":
        pipe.send(answers[what]())


class Contender:
    """One model with its images; sub-classes say what it is and how it steps."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, asked: Plan, setting: Setting) -> None:
        """Draw the images."""
        self.asked, self.setting = asked, setting
        self.device = torch.device(asked.device)
        torch.manual_seed(0)
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        shape = (asked.batch, 3, SIZE, SIZE)
        self.views = [
            torch.randn(shape).to(self.device).contiguous(memory_format=layout) for _ in range(2)
        ]
        self.labels = torch.randint(CLASSES, (asked.batch,)).to(self.device)

    def loss(self) -> Tensor:
        """Loss of the images, that of the online classifier included."""
        raise NotImplementedError

    def before(self) -> None:
        """What comes before the forward pass."""

    def after(self) -> None:
        """What comes after the optimiser."""

    def step(self) -> None:
        """One training step."""
        self.before()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.setting.bfloat16):
            loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.after()

    def turn(self) -> tuple[float, float]:
        """Seconds and CPU seconds of a step, the mean of a turn's."""
        self.wait()
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(self.asked.steps):
            self.step()
        self.wait()
        spent = time.perf_counter() - start, time.process_time() - cpu
        return spent[0] / self.asked.steps, spent[1] / self.asked.steps

    def facts(self) -> dict[str, Any]:
        """Warm up, which compiles; count what a step computes, keeps and waits for."""
        began = time.perf_counter()
        self.step()
        self.wait()
        facts: dict[str, Any] = {"first_seconds": time.perf_counter() - began}
        if not self.setting.compiled:  # whose operations are not seen one by one
            kept, flops = Kept(self.model), FlopCounterMode(display=False)
            with kept, flops:
                self.step()
            facts |= {"flops": flops.get_total_flops(), "kept_bytes": kept.bytes}
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as profiled:
            self.step()
        events = profiled.key_averages()
        facts["waits"] = {e.key: e.count for e in events if e.key in WAITS}
        facts["profile"] = busiest(events, self.device)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return facts

    def memory(self) -> dict[str, float]:
        """Peaks, MiB."""
        peaks = {"resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}
        if self.device.type == "cuda":
            peaks["cuda_mib"] = torch.cuda.max_memory_allocated() / 2**20
        return peaks

    def wait(self) -> None:
        """Until the device has done all."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Ours(Contender):
    """MVEB with the paper's head, as ``erssl pretrain`` trains it."""

    def __init__(self, asked: Plan, setting: Setting) -> None:
        """Build it; ``build_optimizer`` is what ``configure_optimizers`` calls."""
        from erssl.methods import MVEB
        from erssl.methods.optimizer import build_optimizer

        super().__init__(asked, setting)
        layout = {"channels_last": setting.channels_last, "compile": setting.compiled}
        self.method = MVEB(asked.batch, CLASSES, **layout).to(self.device).train()
        self.model = self.method
        probe = self.method.online_classifier
        modules = self.method.trained_modules()
        options = self.method.optimizer_options
        made = build_optimizer(options, modules, probe, asked.batch, 1000, 100)
        self.optimizer = made["optimizer"]

    def loss(self) -> Tensor:
        """As ``training_step``."""
        step = self.method.multi_view_step(self.views)
        probe = self.method.online_classifier
        return step.loss + probe.training_step((step.features.detach(), self.labels), 0)[0]

    def after(self) -> None:
        """The EMA."""
        from erssl.methods.target import update_target

        for name in ("backbone", "projection_head"):
            online, target = (self.method.get_submodule(n) for n in (name, f"target_{name}"))
            update_target(online, target, MOMENTUM)


class Peer(Contender):
    """BYOL of lightly's parts, in the order of its ImageNet benchmark."""

    def __init__(self, asked: Plan, setting: Setting) -> None:
        """Build it."""
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import get_weight_decay_parameters
        from lightly.utils.benchmarking import OnlineLinearClassifier
        from lightly.utils.lars import LARS
        from torchvision.models import resnet50

        super().__init__(asked, setting)
        backbone = resnet50()
        backbone.fc = nn.Identity()
        parts = {"backbone": backbone, "projection": BYOLProjectionHead()}
        parts |= {"prediction": BYOLPredictionHead(), "probe": OnlineLinearClassifier()}
        teachers = {f"teacher_{n}": copy.deepcopy(parts[n]) for n in ("backbone", "projection")}
        self.parts = nn.ModuleDict({**parts, **teachers}).to(self.device).train()
        self.model = self.parts
        if setting.channels_last:
            self.parts.to(memory_format=torch.channels_last)
        if setting.compiled:
            self.parts["backbone"].compile()
            self.parts["teacher_backbone"].compile()
        self.criterion = NegativeCosineSimilarity()
        trained = [self.parts[n] for n in ("backbone", "projection", "prediction")]
        decay, no_decay = get_weight_decay_parameters(trained)
        rest = [*no_decay, *self.parts["probe"].parameters()]
        groups = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
        rate = 0.45 * asked.batch / 256
        self.optimizer = LARS(groups, lr=rate, momentum=0.9, weight_decay=1e-6)

    def before(self) -> None:
        """The EMA."""
        from lightly.models.utils import update_momentum

        for name in ("backbone", "projection"):
            update_momentum(self.parts[name], self.parts[f"teacher_{name}"], m=MOMENTUM)

    def loss(self) -> Tensor:
        """Each view by each branch, one after another."""
        with torch.no_grad():
            targets = [
                self.parts["teacher_projection"](self.parts["teacher_backbone"](v).flatten(1))
                for v in self.views
            ]
        features = [self.parts["backbone"](v).flatten(1) for v in self.views]
        own = [self.parts["prediction"](self.parts["projection"](f)) for f in features]
        loss = 2 * (self.criterion(targets[0], own[1]) + self.criterion(targets[1], own[0]))
        probe = self.parts["probe"].training_step((features[0].detach(), self.labels), 0)
        total: Tensor = loss + probe[0]
        return total


class Kept(saved_tensors_hooks):
    """Counts what autograd keeps, weights and buffers aside."""

    def __init__(self, model: nn.Module) -> None:
        """Leave out what the model holds in any case."""
        own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        self.bytes = 0

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                own.add(storage.data_ptr())
                self.bytes += storage.nbytes()
            return tensor

        super().__init__(pack, lambda tensor: tensor)


def busiest(events: Any, device: torch.device, count: int = 8) -> list[tuple[str, float]]:
    """Operations and their shares of the time."""
    where = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    on_cpu = device.type == "cpu"  # else kernels alone: operations have the time of theirs, too
    times = {e.key: getattr(e, where) for e in events if on_cpu or e.device_type.name == "CUDA"}
    total = sum(times.values())
    ranked = sorted(times, key=lambda key: times[key], reverse=True)
    return [(key, times[key] / total) for key in ranked[:count]]
