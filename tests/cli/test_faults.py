"""What a fault is called, and how it is said to go on."""

import errno
import sys

import pytest

from erssl.errors import ConfigError, DataError, RunError
from erssl.run.faults import naming_faults, naming_run, restarted
from erssl.run.warning_lines import clean_warnings


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/x/last.ckpt"), RunError, "/x/last.ckpt;"),
        (OSError(errno.ENOSPC, "No space left on device"), RunError, "left on device: RUN; make"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            RunError,
            "A loader process (pid 7) is killed by signal: Killed, often for want of memory",
        ),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n"
                "RuntimeError: unable to resize file </torch_7_1_0> to the right size: "
                "File too large (27)\n"
            ),
            RunError,
            "took no more (File too large); make room in /dev/shm",
        ),
        (RuntimeError("received 0 items of ancdata"), RunError, "took no more (Too many open"),
        (MemoryError(), RunError, "There is too little memory for this; take smaller batches"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
            RunError,
            "There is too little memory for this; take smaller batches",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), RunError, "fewer loader processes"),
        (ConnectionResetError(104, "Connection reset by peer"), RunError, "process is gone,"),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer"),
            RunError,
            "Another process of the run is gone",
        ),
    ],
)
def test_a_fault_is_one_sentence_with_the_way_on(error, kind, sentence, tmp_path):
    with pytest.raises(kind) as caught, naming_run(tmp_path):
        raise error
    assert sentence.replace("RUN", str(tmp_path)) in str(caught.value)
    assert str(caught.value).endswith(f"begin again with resume=true run_dir={tmp_path}.")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(kind, match="go on from the last checkpoint"), naming_run(tmp_path):
        raise error


def test_a_loader_process_that_dies_while_a_library_is_at_work_is_still_named(tmp_path):
    with pytest.raises(RunError, match=r"A loader process \(pid 7\) is killed"):  # noqa: SIM117
        with naming_run(tmp_path):
            try:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
            except RuntimeError as error:
                raise ValueError("you tried to log 0.5") from error


def test_memory_that_holds_not_even_the_locks_of_loaders_is_named(tmp_path):
    names = {"__name__": "torch.utils.data.dataloader"}
    exec("def make(): raise OSError(28, 'No space left on device')", names)
    with pytest.raises(RunError, match=r"hand over images took no more \(No space left"):  # noqa: SIM117
        with naming_faults():
            names["make"]()
    with pytest.raises(OSError, match="No space left"), naming_faults():
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_loader_that_had_not_begun_ends_without_a_traceback(capsys):
    class _MultiProcessingDataLoaderIter:
        def __del__(self):
            self._shutdown  # noqa: B018

    class Other:
        def __del__(self):
            raise ValueError("a defect")

    before = sys.unraisablehook
    sys.unraisablehook = sys.__unraisablehook__  # not pytest's
    try:
        with clean_warnings():
            _MultiProcessingDataLoaderIter()
            assert capsys.readouterr().err == ""
            Other()
            assert "a defect" in capsys.readouterr().err
    finally:
        sys.unraisablehook = before


@pytest.mark.parametrize(
    "error", [RuntimeError("a defect"), OSError(errno.ENOENT, "No such file"), ConfigError("no")]
)
def test_what_is_no_fault_of_places_passes(error, tmp_path):
    with pytest.raises(type(error)) as caught, naming_run(tmp_path):
        raise error
    assert caught.value is error


def test_a_image_that_was_never_readable_keeps_its_own_sentence(tmp_path):
    error = DataError("the image a.png cannot be read.")
    with pytest.raises(DataError) as caught, naming_run(tmp_path):
        raise error
    assert caught.value is error


def test_slurm_starts_the_same_command_again(tmp_path, monkeypatch):
    overrides = ["method=byol", f"run_dir={tmp_path}", "overwrite=true"]
    assert restarted(overrides) == overrides
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    (tmp_path / "config.yaml").touch()
    assert restarted(overrides) == overrides
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert restarted(overrides) == [*overrides[:2], "resume=true"]
    assert restarted(["method=byol"]) == ["method=byol"]  # a new folder each time
    (tmp_path / "config.yaml").unlink()
    assert restarted(overrides) == overrides
