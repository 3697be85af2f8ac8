"""How long does a loss take, forward and backward, and how does that grow with the batch?

    python -m benchmarks.losses [--largest 8192]

Two views of N random embeddings of 2048 dimensions, N from 256 to 8192, in float32: our losses
beside those of lightly that a user would take in their place. The floor of a loss is the larger of
two times: the operations of its matrix products at the rate of this machine's own (N, d) x (d, N)
product, and the bytes of inputs and gradients at the rate of its copy. Then the discrete losses at
K = 65,536 outputs beside lightly's ``DINOLoss``, and eight views in one call beside four calls of
two. Writes ``benchmarks/results/losses.json`` and the image of time against N, ``losses.png``
(``_cuda`` of a GPU).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from lightly.loss import BarlowTwinsLoss, DINOLoss, KoLeoLoss, NTXentLoss, VICRegLoss
from lightly.loss import FroSSLLoss as LightlyFroSSL
from lightly.loss import LeJEPALoss as LightlyLeJEPA
from lightly.loss import VISRegLoss as LightlyVISReg
from torch import Tensor

from benchmarks._timing import by_turns, copy_rate, device, result_file, seconds
from erssl.files import write_json
from erssl.loss import (
    CorInfoMaxLoss,
    DiscreteERLoss,
    E2MCLoss,
    EMPSSLLoss,
    EntRecLoss,
    ERLoss,
    FroSSLLoss,
    LeJEPALoss,
    MatrixSSLLoss,
    MECLoss,
    MMCRLoss,
    MVEBLoss,
    SimDINOLoss,
    TiCoLoss,
    VISRegLoss,
)
from erssl.methods.cmc import InfoNCELoss
from erssl.run.directory import environment

DIM, SIZES, ROUNDS = 2048, (256, 512, 1024, 2048, 4096, 8192), 5
OUTPUTS, PROTOTYPE_SIZES = 65_536, (64, 256)
SCORE_ROWS = 128  # of method=mveb
KEPT_ROWS = 4096  # of which the kernel sums keep a triangle for the gradient
LEJEPA_SLICES, VISREG_SLICES = 1024, 4096  # lightly's defaults
VIEWS, VIEW_SIZES = 8, (64, 256, 1024)
NEWER = "LeJEPALoss"  # the first of the losses of 2022 to 2026
_MARKERS = ("o", "s", "^")

# Multiply-adds count as two. N²d is a product of rows with rows: NT-Xent has four and eight more in
# its gradient; a Gram matrix needs half of one, the score's solve two triangles of N²d each and a
# factor of N³/3; ER half of one, in its gradient one whole product and, of more rows than it keeps
# pairs of, that half again.
OPERATIONS: dict[str, Callable[[int, int], float]] = {
    "NTXentLoss (lightly)": lambda n, d: 24.0 * n * n * d,
    "MVEBLoss": lambda n, d: 2 * (n * n * d + n**3 / 3 + 2 * n * n * d),
    "MVEBLoss, 128 rows a score": lambda n, d: (
        2 * n * (3 * min(n, SCORE_ROWS) * d + min(n, SCORE_ROWS) ** 2 / 3)
    ),
    "ERLoss": lambda n, d: _kernel_sums(n, d),
    "EntRecLoss continuous": lambda n, d: _kernel_sums(n, d),
    "EntRecLoss discrete": lambda n, d: 0.0,
    "DiscreteERLoss": lambda n, d: 0.0,
    "BarlowTwinsLoss (lightly)": lambda n, d: 6.0 * n * d * d,
    "VICRegLoss (lightly)": lambda n, d: 12.0 * n * d * d,
    # projections on S slices and their gradient, of two views
    "LeJEPALoss": lambda n, d: 8.0 * n * d * LEJEPA_SLICES,
    "LeJEPALoss (lightly)": lambda n, d: 8.0 * n * d * LEJEPA_SLICES,
    "VISRegLoss": lambda n, d: 8.0 * n * d * VISREG_SLICES,
    "VISRegLoss (lightly)": lambda n, d: 8.0 * n * d * VISREG_SLICES,
    # a Gram matrix on the smaller side, a factor, and a solve for the gradient, of two views
    "SimDINOLoss": lambda n, d: _log_dets(n, d),
    "EMPSSLLoss": lambda n, d: _log_dets(n, d),
    "CorInfoMaxLoss": lambda n, d: 2 * (4.0 * n * d * d + d**3),
    # products of two views, and of their product with itself
    "MECLoss": lambda n, d: 6.0 * n * d * min(n, d) + 6.0 * min(n, d) ** 3,
    "MatrixSSLLoss": lambda n, d: 2 * (24.0 * n * d * min(n, d) + 18.0 * min(n, d) ** 3),
    "FroSSLLoss": lambda n, d: 2 * 6.0 * n * d * min(n, d),
    "FroSSLLoss (lightly)": lambda n, d: 2 * 6.0 * n * d * min(n, d),
    "MMCRLoss": lambda n, d: 4.0 * n * d * min(n, d) + 9.0 * min(n, d) ** 3,
    "TiCoLoss": lambda n, d: 2 * 6.0 * n * d * d,
    "E2MCLoss": lambda n, d: 2 * 2 * 6.0 * n * d * d,
    "ERLoss, KoLeo": lambda n, d: 4.0 * n * n * d,
    "KoLeoLoss (lightly)": lambda n, d: 4.0 * n * n * d,
    "InfoNCELoss": lambda n, d: 12.0 * n * n * d,
}


def _kernel_sums(n: int, d: int) -> float:
    again = 0 if n <= KEPT_ROWS else n * n * d
    return 2.0 * (n * n * d + again + 2 * n * n * d)


def _log_dets(n: int, d: int) -> float:
    small = min(n, d)
    return 2 * (2.0 * n * d * small + small**3 / 3 + 4.0 * n * d * small)


def losses(dim: int = DIM) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The contenders, by the names of `OPERATIONS`; some keep moments of a dimension."""
    frossl, koleo, info_nce = LightlyFroSSL(), KoLeoLoss(), InfoNCELoss(0.1)
    return {
        "NTXentLoss (lightly)": NTXentLoss(),
        "MVEBLoss": MVEBLoss(),
        "MVEBLoss, 128 rows a score": MVEBLoss(score_rows=SCORE_ROWS),
        "ERLoss": ERLoss(),
        "EntRecLoss continuous": EntRecLoss("continuous"),
        "EntRecLoss discrete": EntRecLoss("discrete"),
        "DiscreteERLoss": DiscreteERLoss(),
        "BarlowTwinsLoss (lightly)": BarlowTwinsLoss(),
        "VICRegLoss (lightly)": VICRegLoss(),
        "LeJEPALoss": LeJEPALoss(num_slices=LEJEPA_SLICES),
        "LeJEPALoss (lightly)": _stacked(LightlyLeJEPA(sigreg_num_vectors=LEJEPA_SLICES)),
        "VISRegLoss": VISRegLoss(num_slices=VISREG_SLICES),
        "VISRegLoss (lightly)": _stacked(LightlyVISReg(num_slices=VISREG_SLICES)),
        "SimDINOLoss": SimDINOLoss(),
        "EMPSSLLoss": EMPSSLLoss(),
        "CorInfoMaxLoss": CorInfoMaxLoss(dim).to(device()),
        "MECLoss": MECLoss(),
        "MatrixSSLLoss": MatrixSSLLoss(),
        "FroSSLLoss": FroSSLLoss(),
        "FroSSLLoss (lightly)": lambda z0, z1: frossl([z0, z1]),
        "MMCRLoss": MMCRLoss(),
        "TiCoLoss": TiCoLoss(dim).to(device()),
        "E2MCLoss": E2MCLoss(),
        "ERLoss, KoLeo": ERLoss(estimator="koleo"),
        "KoLeoLoss (lightly)": lambda z0, z1: koleo(z0) + koleo(z1),
        "InfoNCELoss": lambda z0, z1: (info_nce(z0, z1) + info_nce(z1, z0)) / 2,
    }


def _stacked(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """lightly's losses of global and local views, of one each (they take no pair)."""
    return lambda z0, z1: loss(global_proj=z0[None], local_proj=z1[None])


def main(largest: int) -> None:
    sizes = [n for n in SIZES if n <= largest]
    report: dict[str, Any] = {"command": "python -m benchmarks.losses", "dim": DIM}
    report |= {"threads": torch.get_num_threads(), "copy_bytes_a_second": copy_rate()}
    report["growth"] = [row for n in sizes for row in growth(n, report["copy_bytes_a_second"])]
    report["prototypes"] = [row for n in PROTOTYPE_SIZES for row in prototypes(n)]
    report["views"] = [row for n in VIEW_SIZES for row in views(n)]
    report["environment"] = environment(device()) | {"command": report["command"]}
    write_json(result_file("losses"), report)
    plot(report["growth"])


def growth(n: int, copy_bytes: float) -> list[dict[str, Any]]:
    """Times of all losses at N rows."""
    z = [torch.randn(n, DIM, device=device(), requires_grad=True) for _ in range(2)]
    contenders = {name: _step(lambda loss=loss: loss(*z), z) for name, loss in losses().items()}
    product = torch.empty(n, n, device=device())
    contenders["product"] = lambda: torch.mm(z[0].detach(), z[1].detach().T, out=product)
    costs = by_turns(contenders, ROUNDS if n < 4096 else 3)
    rate = 2 * n * n * DIM / seconds(costs.pop("product"))
    peer = seconds(costs["NTXentLoss (lightly)"])
    print(
        f"\nN = {n}, d = {DIM}; product {rate / 1e9:.0f} GFLOP/s, copy {copy_bytes / 1e9:.0f} GB/s"
    )
    print("| loss | ms | x NT-Xent | GFLOP | floor ms | share of the floor |\n" + "|---" * 6 + "|")
    rows = []
    for name, cost in costs.items():
        operations, moved = OPERATIONS[name](n, DIM), 4 * n * DIM * 4
        floor = max(operations / rate, moved / copy_bytes)
        taken = seconds(cost)
        row = {"n": n, "loss": name, "ratio": taken / peer, "operations": operations}
        row |= {"bytes": moved, "floor_seconds": floor, "product_flops": rate, **cost}
        rows.append(row)
        print(
            f"| {name} | {taken * 1e3:.1f} | {taken / peer:.3f} | {operations / 1e9:.1f} | "
            f"{floor * 1e3:.1f} | {floor / taken:.2f} |",
            flush=True,
        )
    return rows


def prototypes(n: int) -> list[dict[str, Any]]:
    """Discrete losses of two online and two target views with K outputs."""
    online = [torch.randn(n, OUTPUTS, device=device(), requires_grad=True) for _ in range(2)]
    target = [torch.randn(n, OUTPUTS, device=device()) for _ in range(2)]
    dino = DINOLoss(OUTPUTS).to(device())
    ours = {
        "DiscreteERLoss": DiscreteERLoss(),
        "DiscreteERLoss, centred": DiscreteERLoss(center=True, output_dim=OUTPUTS).to(device()),
    }
    contenders = {"DINOLoss (lightly)": _step(lambda: dino(target, online), online)}
    for name, loss in ours.items():
        contenders[name] = _step(lambda loss=loss: loss(online, target), online)
    contenders["EntRecLoss discrete"] = _step(lambda: EntRecLoss("discrete")(*online), online)
    costs = by_turns(contenders, ROUNDS)
    return _compared(costs, "DINOLoss (lightly)", {"n": n, "outputs": OUTPUTS})


def views(n: int) -> list[dict[str, Any]]:
    """Eight views in one call beside four calls of two views, with the same pair of targets."""
    z = [torch.randn(n, DIM, device=device(), requires_grad=True) for _ in range(VIEWS)]
    targets = [torch.randn(n, DIM, device=device()) for _ in range(2)]
    rows = []
    for name, loss in (("MVEBLoss", MVEBLoss()), ("ERLoss", ERLoss())):
        together = _step(lambda loss=loss: loss(z, targets), z)
        pairs = _step(
            lambda loss=loss: sum(loss(z[k : k + 2], targets) for k in range(0, VIEWS, 2)), z
        )
        costs = by_turns(
            {f"{name}, 4 calls of 2 views": pairs, f"{name}, 1 of 8": together}, ROUNDS
        )
        rows += _compared(costs, f"{name}, 4 calls of 2 views", {"n": n, "dim": DIM})
    return rows


def _step(loss: Callable[[], Any], leaves: list[Tensor]) -> Callable[[], None]:
    """Forward and backward, from no gradients."""

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss().backward()

    return run


def _compared(costs: dict[str, Any], peer: str, setting: dict[str, int]) -> list[dict[str, Any]]:
    print("\n" + ", ".join(f"{key} = {value}" for key, value in setting.items()))
    print(f"| loss | ms | x {peer} |\n" + "|---" * 3 + "|")
    rows = []
    for name, cost in costs.items():
        ratio = seconds(cost) / seconds(costs[peer])
        rows.append({**setting, "loss": name, "ratio": ratio, **cost})
        print(f"| {name} | {seconds(cost) * 1e3:.1f} | {ratio:.2f} |", flush=True)
    return rows


def plot(rows: list[dict[str, Any]]) -> None:
    """Time against N, both logarithmic: NT-Xent in both panels, then the others by their age."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 5.6), dpi=110, layout="constrained")
    peer, *others = OPERATIONS
    split = others.index(NEWER)
    sizes = sorted({row["n"] for row in rows})
    for axes, names in zip(
        figure.subplots(1, 2, sharey=True), (others[:split], others[split:]), strict=True
    ):
        for number, name in enumerate([peer, *names]):
            own = [row for row in rows if row["loss"] == name]
            style = {"linestyle": "--"} if "lightly" in name else {}
            marker = _MARKERS[number // 10 % len(_MARKERS)]
            times = [seconds(row) * 1e3 for row in own]
            axes.plot(
                [row["n"] for row in own],
                times,
                label=name,
                color=f"C{number % 10}",
                marker=marker,
                markersize=4,
                linewidth=1.2,
                **style,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.set_xlabel("rows N of each of two views, d = 2048")
        axes.grid(alpha=0.25)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.11)}
        axes.legend(fontsize=7, frameon=False, ncols=2 if len(names) < 10 else 3, **below)
    figure.axes[0].set_ylabel("forward + backward, ms")
    figure.savefig(result_file("losses", "png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    main(parser.parse_args().largest)
