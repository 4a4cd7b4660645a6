"""What goes wrong in the night: a kill at the worst moment, a full disk, a folder nobody may write, a dead worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorica.data import decoding
from lorica.errors import FileError
from lorica.formats import read
from lorica.training.config.config import RunConfig
from lorica.training.output.checkpoint import list_checkpoints, read_checkpoint
from lorica.training.output.metrics import read_metrics
from lorica.training.run import train

Settings = Callable[..., RunConfig]

# Where the process dies: a function that writes, and which call of it. The file is begun, and there is half of it.
DEATH = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import {module} as module
write, calls = module.{function}, []
def die(*args, **named):
    calls.append(1)
    if len(calls) < {call}:
        return write(*args, **named)
    result = write(*args, **named)
    for path in sorted(Path(sys.argv[2]).rglob("{begun}")):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    os.kill(os.getpid(), signal.SIGKILL)
module.{function} = die
from lorica.training.config.config import RunConfig
from lorica.training.run import train
train(RunConfig.from_toml(sys.argv[1]), quiet=True)
"""
MOMENTS = {
    "the checkpoint": ("lorica.training.output.checkpoint", "save", 2, ".checkpoint-*.part/*.safetensors"),
    "the cache": ("lorica.data.cache", "save_file", 3, "*.part"),
    "the final file": ("lorica.formats.storage.files", "save_file", 7, "*.part"),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_while_something_is_written_costs_nothing(
    settings: Settings, tmp_path: Path, own_cache: Path, moment: str
) -> None:
    options = {"max_train_steps": 5, "checkpointing_steps": 2}
    killed = settings(**options, output_dir=tmp_path / "killed" / "out", resume_from_checkpoint="latest")
    (tmp_path / "run.toml").write_text(killed.to_toml(), encoding="utf-8")
    module, function, call, begun = MOMENTS[moment]
    program = DEATH.format(module=module, function=function, call=call, begun=begun)
    where = own_cache if moment == "the cache" else killed.output_dir
    command = [sys.executable, "-c", program, str(tmp_path / "run.toml"), str(where)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    if moment == "the final file":
        assert not (killed.output_dir / "pytorch_lora_weights.safetensors").exists()
    resumed = train(killed, quiet=True)
    whole = train(settings(**options), quiet=True)
    assert resumed.adapter_path.read_bytes() == whole.adapter_path.read_bytes()
    left = [path for path in killed.output_dir.rglob("*") if ".part" in path.name or ".old" in path.name]
    assert left == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount file systems of a given size; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError:
            pytest.skip("there is no mount here")
        if done.returncode:
            pytest.skip("file systems cannot be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607


def test_a_full_disk_keeps_the_checkpoints_before(settings: Settings, small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("size=384k")
    config = settings(checkpointing_steps=1, max_train_steps=50, output_dir=disk / "out")
    with pytest.raises(FileError, match=r"cannot write .*No space left"):
        train(config, quiet=True)
    kept = list_checkpoints(config.output_dir)
    assert kept
    assert [read_checkpoint(path).step for path in kept] == list(range(1, len(kept) + 1))
    assert not [path for path in config.output_dir.iterdir() if path.name.endswith(".part")]


def test_a_disk_that_is_full_from_the_start_is_met_before_training(
    settings: Settings, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=4k")
    (disk / "full").write_bytes(b"x" * 4096)
    with pytest.raises(FileError, match=r"the output folder .* cannot be written: .*No space left"):
        train(settings(output_dir=disk / "out"), on_step=lambda _: pytest.fail("it trained"), quiet=True)


def test_a_disk_without_room_for_one_checkpoint_is_met_before_training(
    settings: Settings, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=128k")
    with pytest.raises(FileError, match=r"has [\d,]+ bytes left and a checkpoint takes [\d,]+: make room"):
        train(settings(output_dir=disk / "out", rank=64), on_step=lambda _: pytest.fail("it trained"), quiet=True)


def test_a_disk_that_fills_while_the_curve_is_written_has_a_message(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lorica.training.output.metrics.Metrics.write", full)
    with pytest.raises(FileError, match=r"cannot write to .*: .*No space left.*Checkpoints written before are intact"):
        train(settings(), quiet=True)


def test_a_disk_that_cannot_be_written_is_met_before_training(
    settings: Settings, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=1m,ro")
    with pytest.raises(FileError, match=r"the output folder .* cannot be written: .*Read-only file system"):
        train(settings(output_dir=disk / "out"), on_step=lambda _: pytest.fail("it trained"), quiet=True)


def test_a_worker_that_dies_takes_the_run_with_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, seen = decoding.load_picture, list[Path]()

    def die(content: bytes, path: Path) -> Any:
        seen.append(path)
        if len(seen) == 3:
            raise MemoryError(f"no room for {path.name}")
        return decode(content, path)

    monkeypatch.setattr("lorica.training.dataset.encoding.load_picture", die)
    with pytest.raises(MemoryError, match="no room for"):
        train(settings(dataloader_num_workers=2), on_step=lambda _: pytest.fail("it trained"), quiet=True)
    monkeypatch.undo()


PROGRAM = """
import os, signal, sys, torch
torch.set_num_threads(1)
from lorica.training.config.config import RunConfig
from lorica.training.run import train
def die(report):
    if report.step == 3 and os.environ["RANK"] == "1" and len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
train(RunConfig.from_toml(sys.argv[1]), on_step=die, quiet=True)
"""
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
NOISE = 2e-5  # relative; measured 3e-6 on the factors, which Adam's division enlarges


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_which_goes_on_with_another_number_of_processes(
    settings: Settings, tmp_path: Path
) -> None:
    options = {"max_train_steps": 5, "checkpointing_steps": 2, "learning_rate": 1e-3}
    two = settings(**options, train_batch_size=2, output_dir=tmp_path / "two" / "out")
    (tmp_path / "run.toml").write_text(two.to_toml(), encoding="utf-8")
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    command = [*LAUNCH, str(tmp_path / "program.py"), str(tmp_path / "run.toml"), "die"]
    died = subprocess.run(command, check=False, env=environment, timeout=120, capture_output=True)
    assert died.returncode != 0
    assert [path.name for path in list_checkpoints(two.output_dir)] == ["checkpoint-2"]
    alone = settings(**options, train_batch_size=4, output_dir=two.output_dir, resume_from_checkpoint="latest")
    train(alone, quiet=True)
    whole = train(settings(**options, train_batch_size=4, output_dir=tmp_path / "one"), quiet=True)
    assert [line["step"] for line in read_metrics(two.output_dir / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    other = read(two.output_dir / "pytorch_lora_weights.safetensors")
    for component, path, layer in whole.adapter.layers():
        for name, tensor in layer.tensors.items():
            assert (other.components[component][path].tensors[name] - tensor).norm() / tensor.norm() < NOISE
