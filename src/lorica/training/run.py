"""``lorica.train``: one run from its settings to the adapter file."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lorica.adapters import Adapter
from lorica.errors import FileError, LoRAError
from lorica.training.config.config import RunConfig
from lorica.training.interrupt import RunInterrupted, StopSignal
from lorica.training.loop import StepReport
from lorica.training.output.folder import hold_folder, prepare_folder
from lorica.training.output.hub import check_login
from lorica.training.output.metrics import Metrics
from lorica.training.progress import Reporter
from lorica.training.session import Session
from lorica.training.setup import make_accelerator

OnStep = Callable[[StepReport], None]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run made.

    Args:
        output_dir: where everything lies.
        adapter_path: the adapter file.
        steps: how many steps the adapter has seen.
        seconds: how long this call took.
        final_loss: the mean loss of the last tenth of the steps that this call did.
        adapter: the adapter itself, float32.
    """

    output_dir: Path
    adapter_path: Path
    steps: int
    seconds: float
    final_loss: float
    adapter: Adapter


def train(config: RunConfig, *, on_step: OnStep | None = None, quiet: bool = False) -> TrainResult:
    """Train a LoRA as ``config`` says and write it, with all that belongs to it, to ``config.output_dir``.

    Ctrl-C or SIGTERM saves a checkpoint after the step that is running and raises ``RunInterrupted``, a
    KeyboardInterrupt whose message is the command that goes on.

    Args:
        config: every setting.
        on_step: called after each step.
        quiet: say nothing on standard error.

    Raises:
        LoRAError: for settings, pictures, models and folders that cannot be used, before training where possible.
        RunInterrupted: if the run was asked to stop.
    """
    started = time.perf_counter()
    if config.push_to_hub:
        check_login()
    accelerator = make_accelerator(config)
    reporter = Reporter(quiet=quiet or not accelerator.is_main_process)
    if not accelerator.is_main_process:  # the first process answers for the folder
        accelerator.wait_for_everyone()
        return _run(Session(config, accelerator, reporter), on_step, started)
    resuming = config.resume_from_checkpoint is not None
    prepare_folder(config.output_dir, resuming=resuming, overwrite=config.overwrite_output_dir)
    with hold_folder(config.output_dir):
        accelerator.wait_for_everyone()
        return _run(Session(config, accelerator, reporter), on_step, started)


def resume_command(output_dir: Path) -> str:
    """Return the command that goes on with the run of an output folder."""
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
    """Do the steps that are left, with all that belongs after each of them."""
    with (
        StopSignal() as signal,
        Metrics(session.folder, first, writing=session.is_main) as metrics,
        session.reporter.progress("training", session.loop.plan.steps, first) as advance,
    ):
        if first == 0 and (loss := session.validation_loss()) is not None:
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
