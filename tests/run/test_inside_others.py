"""erssl among other programs: their working folders, consoles, threads, event loops and paths."""

import asyncio
import io
import sys
import threading

import numpy as np
import pytest
from PIL import Image

import erssl
from erssl.cli.main import main
from erssl.run.children import Children
from erssl.run.streams import spelling_out

TINY = ("method=simclr", "backbone=timm", "backbone.name=test_resnet", "data.image_size=16")
TINY += ("batch_size=8", "trainer.accelerator=cpu", "trainer.limit_train_batches=1", "epochs=1")
TINY += ("data.num_workers=0", "lens.probe_size=0", "evaluation.untrained=false")
TINY += ("evaluation.every_n_epochs=0", "evaluation.linear=false", "method.projection_dim=8")
ODD = "a [b],c=d 'e' \"f\" #g \\h"  # brackets, comma, equals sign, quotes, hash, backslash


@pytest.fixture
def images(tmp_path):
    """Two classes of twelve images, in a folder with an odd name."""
    root = tmp_path / f"data {ODD}"
    for number in range(24):
        folder = root / ["läufe", "κ²"][number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def test_children_never_import_from_the_working_folder(tmp_path, monkeypatch, capfd):
    for name in ("random", "types", "queue", "erssl"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    monkeypatch.chdir(tmp_path)
    assert Children().run(["--version"]) == 0
    assert Children().run(["nothing"]) == 2  # which imports more
    told = capfd.readouterr()
    assert told.out == f"erssl {erssl.__version__}\n" and "was imported" not in told.err


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "+/- \\xe4 ->"), ("utf-8", "± ä →")])
def test_what_a_console_cannot_show_is_spelt_out(encoding, shown, monkeypatch):
    bytes_out = io.BytesIO()
    stream = io.TextIOWrapper(bytes_out, encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with spelling_out():
        print("± ä →", flush=True)
        assert main(["methods"]) == main(["--help"]) == 0
    assert stream.errors == "strict"
    stream.flush()
    assert bytes_out.getvalue().decode(encoding).startswith(f"{shown}\n")


def test_in_a_thread_in_an_event_loop_and_on_an_ascii_console(images, tmp_path, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), "ascii", errors="strict"))
    arguments = ["pretrain", *TINY, "data=imagefolder", f"data.train_dir={images}"]
    status = []
    thread = threading.Thread(
        target=lambda: status.append(main([*arguments, f"run_dir={tmp_path}/thread"]))
    )
    thread.start()
    thread.join()

    async def inside():
        return main([*arguments, f"run_dir={tmp_path}/loop"])

    assert [*status, asyncio.run(inside())] == [0, 0]


def test_every_path_may_have_any_name(images, tmp_path):
    def odd(name):
        return tmp_path / f"{name} {ODD}"

    folders = [f"data.train_dir={images}", f"data.val_dir={images}"]
    data = ["data=imagefolder", *folders]
    run = odd("run")
    assert main(["pretrain", *TINY, *data, f"run_dir={run}"]) == 0
    assert main(["pretrain", f"run_dir={run}", "resume=true"]) == 0
    of_run = [f"checkpoint={run}", "data.num_workers=0"]
    knn = [*of_run, "k=3", f"run_dir={odd('knn')}", f"cache_dir={odd('cache')}"]
    assert main(["knn", *knn]) == 0
    lines = ["läufe/0.png", "κ²/1.png", "läufe/2.png", "κ²/3.png"]
    odd("list").write_text("\n".join(lines), encoding="utf-8")
    train = ["epochs=1", "batch_size=2", "trainer.accelerator=cpu", "backbone_lr=0.01"]
    semi = [*of_run, *train, f"fraction={odd('list')}", f"run_dir={odd('semi')}"]
    assert main(["semi", *semi]) == 0
    assert main(["semi", *semi, "resume=true"]) == 0
    assert main(["embed", *of_run, f"output={odd('features')}.npy"]) == 0
    state = odd("weights").with_suffix(".pth")
    assert main(["export", f"checkpoint={run}", "format=timm", f"output={state}"]) == 0
    assert main(["lens", *of_run, "lens.probe_size=8", f"output={odd('lens')}"]) == 0
    assert main(["report", str(run), str(odd("knn")), f"output={odd('report')}"]) == 0
    assert (odd("report") / "report.csv").is_file()
    result = erssl.pretrain(
        data="imagefolder",
        quiet=True,
        run_dir=odd("python"),
        **{"data.train_dir": images, "data.val_dir": str(images)},
        **dict(override.split("=") for override in TINY),
    )
    assert result.path == odd("python")
    found = erssl.knn(odd("python"), quiet=True, k=3, run_dir=odd("knn2"), cache_dir=odd("cache"))
    assert found.metrics["top1"] >= 0 and odd("cache").is_dir()
