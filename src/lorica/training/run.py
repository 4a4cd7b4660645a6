"""``lorica.train``: one run from its configuration to the adapter file."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate import Accelerator

from lorica.adapters import Adapter
from lorica.data.cache import Cache, cache_folder
from lorica.errors import FileError, LoRAError
from lorica.training import setup
from lorica.training.config.config import RunConfig
from lorica.training.config.optimizer import OptimizerSettings
from lorica.training.config.output import OutputSettings
from lorica.training.config.record import record_of
from lorica.training.loop import StepReport
from lorica.training.optimizer import warmup_steps
from lorica.training.output.folder import hold_folder, prepare_folder, removed_if_refused
from lorica.training.output.hub import check_login
from lorica.training.output.metrics import Metrics
from lorica.training.plan import checkpoint_interval
from lorica.training.progress import Reporter
from lorica.training.session import Session

OnStep = Callable[[StepReport], None]
# SIGHUP comes when a terminal or an SSH connection closes; Windows has none.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class RunInterrupted(KeyboardInterrupt):  # as callers expect of Ctrl-C
    """The run was asked to stop, saved a checkpoint and stopped. The message says how to go on."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of a run.

    Args:
        output_dir: the folder of everything that it wrote.
        adapter_path: the adapter file.
        steps: number of steps that the adapter was trained.
        seconds: duration of this call.
        final_loss: mean loss of the last tenth of all steps.
        adapter: the adapter itself, float32.
    """

    output_dir: Path
    adapter_path: Path
    steps: int
    seconds: float
    final_loss: float
    adapter: Adapter


class StopSignal:
    """Catches signals within the ``with`` block: a first one asks the run to stop, a second one stops it at once."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def asked(self) -> bool:
        """Whether a signal came."""
        return self._asked

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup's stay so
            self._before = {number: signal.signal(number, self._receive) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def train(config: RunConfig, *, on_step: OnStep | None = None, quiet: bool = False) -> TrainResult:
    """Train a LoRA and write it, with its model card, loss curve and samples, to ``config.output_dir``.

    Ctrl-C, SIGTERM or SIGHUP saves a checkpoint after the step that is running and raises ``RunInterrupted``, a
    KeyboardInterrupt whose message is the command that resumes the run.

    Args:
        config: every setting.
        on_step: called after each step.
        quiet: whether nothing is printed on standard error.

    Raises:
        LoRAError: for settings, pictures, models and folders that cannot be used, before training where possible.
        RunInterrupted: if the run was asked to stop.
    """
    started = time.perf_counter()
    if config.push_to_hub:
        check_login()
    accelerator = setup.make_accelerator(config)
    main = bool(accelerator.is_main_process)
    reporter = Reporter(quiet=quiet or not main, logged=main)
    if not accelerator.is_main_process:  # the first process answers for the folder
        accelerator.wait_for_everyone()
        return _run(open_session(config, accelerator, reporter), on_step, started)
    resuming = config.resume_from_checkpoint is not None
    with removed_if_refused(config.output_dir):
        prepare_folder(config.output_dir, resuming=resuming, overwrite=config.overwrite_output_dir)
        return _train_in_folder(config, accelerator, reporter, on_step, started)


def open_session(config: RunConfig, accelerator: Accelerator, reporter: Reporter) -> Session:
    """Prepare a run up to its first step: pictures encoded, model loaded, adapter on it.

    Raises:
        LoRAError: if the pictures, the model or the settings cannot be used.
    """
    setup.draw_class_pictures(config, accelerator, reporter)
    found = setup.find_inputs(config, accelerator, reporter, Cache(cache_folder()))
    if not reporter.quiet:
        reporter.say(setup.estimate(config, found.recipe, found.side, accelerator, found.initial).describe())
    for remark in setup.remarks_on(config, accelerator):
        reporter.say(remark)
    plan = setup.plan_for(config, found, accelerator)
    warmup_steps(config.part(OptimizerSettings), plan.steps)  # refused before anything is encoded
    cache = Cache(None if config.no_cache else cache_folder())
    dataset = setup.prepare_dataset(config, found, accelerator, reporter, cache)
    every = config.validation_loss_steps or checkpoint_interval(config.part(OutputSettings), plan)
    validation = setup.prepare_validation(config, found, dataset, cache, every)
    loop = setup.prepare_loop(config, found.recipe, dataset, accelerator, found.initial)
    return Session(loop, found.side, validation, config.part(OutputSettings), record_of(config), reporter)


def _train_in_folder(
    config: RunConfig, accelerator: Accelerator, reporter: Reporter, on_step: OnStep | None, started: float
) -> TrainResult:
    with hold_folder(config.output_dir):
        accelerator.wait_for_everyone()
        return _run(open_session(config, accelerator, reporter), on_step, started)


def resume_command(output_dir: Path) -> str:
    """The command that resumes the run of an output folder."""
    return f"lorica train {shlex.quote(str(output_dir / 'run.toml'))} --resume_from_checkpoint latest"


def _run(session: Session, on_step: OnStep | None, started: float) -> TrainResult:
    try:
        first = session.begin()
        _steps(session, first, on_step)
        adapter, path = session.finish(time.perf_counter() - started)
    except OSError as error:
        if isinstance(error, LoRAError):
            raise
        raise FileError(f"cannot write to {session.folder}: {error}. Checkpoints written before are intact.") from error
    finally:
        session.close()
    seconds = time.perf_counter() - started
    return TrainResult(session.folder, path, session.loop.plan.steps, seconds, session.final_loss(), adapter)


def _steps(session: Session, first: int, on_step: OnStep | None) -> None:
    """Run the steps that are left; record, save and draw what is due after each."""
    with (
        StopSignal() as signal,
        Metrics(session.folder, first, writing=session.is_main) as metrics,
        session.reporter.progress("training", session.loop.plan.steps, first) as advance,
    ):
        if first == 0:
            session.before_steps()
            if (loss := session.validation_loss()) is not None:
                metrics.note(step=0, validation_loss=loss)
        for done in session.loop.run(first, signal.asked):
            report = session.measured(done)
            metrics.write(report)
            session.after_step(report)
            advance(f"loss {report.loss:.4f}")
            if on_step is not None:
                on_step(report)
            if report.stop and report.step < session.loop.plan.steps:
                session.save(report.step)
                raise RunInterrupted(
                    f"stopped after step {report.step}, checkpoint saved. To go on: {resume_command(session.folder)}"
                )
