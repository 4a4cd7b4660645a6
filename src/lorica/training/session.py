"""A run in progress: what it saves and draws along the way, and writes at the end."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from lorica.adapters import Adapter
from lorica.errors import StateError
from lorica.formats.storage.files import save_text
from lorica.run_files import METRICS, RUN
from lorica.training.config.output import OutputSettings
from lorica.training.config.record import RunRecord
from lorica.training.dataset.texts import whole_texts
from lorica.training.dataset.validation import Validation
from lorica.training.device import autocast
from lorica.training.loop import Loop, StepReport
from lorica.training.output.checkpoint import (
    Checkpoint,
    check_facts,
    find_checkpoint,
    prune_checkpoints,
    remove_remains,
    write_checkpoint,
)
from lorica.training.output.folder import check_room, clear_folder
from lorica.training.output.hub import push_folder
from lorica.training.output.metrics import plot_loss, read_metrics, values_of
from lorica.training.output.outputs import write_adapter, write_card
from lorica.training.output.picture_losses import LOSSES, write_picture_losses
from lorica.training.output.preview import previews_of, write_previews, write_sheet
from lorica.training.output.trackers import start_trackers, track_pictures, tracker_names
from lorica.training.plan import checkpoint_interval
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Sampling
from lorica.training.state import facts_of, restore_checkpoint, take_checkpoint

CHECKPOINT = 4 * 4  # bytes of a trained number in it: the factor, two moments of Adam, and the adapter file
HIGH_LOSS = 1.25  # times the mean of all pictures at the same noise
FINAL_SHARE = 0.1  # share of the steps whose mean loss is called final


class Session:
    """One run: its loop on pictures of a ``side`` in pixels, its output, and the record of its configuration."""

    def __init__(
        self,
        loop: Loop,
        side: int,
        validation: Validation | None,
        output: OutputSettings,
        record: RunRecord,
        reporter: Reporter,
    ) -> None:
        self.loop, self.output, self.record, self.reporter = loop, output, record, reporter
        self.folder: Path = output.output_dir
        self.is_main = bool(loop.accelerator.is_main_process)
        self._side, self._validation = side, validation
        self._facts = facts_of(loop, side, record.facts)
        self._saved = -1

    def begin(self) -> int:
        """Resume from a checkpoint if that is asked for; return the number of steps that are already done.

        Raises:
            FileError: if the checkpoint is not there or broken.
            StateError: if it is of another run, or beyond the end of this one.
        """
        self._describe()
        if self.is_main:
            remove_remains(self.folder)
            check_room(self.folder, CHECKPOINT * self._trained())
        wanted = self.output.resume_from_checkpoint
        found = find_checkpoint(self.folder, wanted, self.reporter.say) if wanted is not None else None
        if found is not None:
            self._restore(found)
        elif wanted is not None:
            self.reporter.say(f"there is no checkpoint in {self.folder} yet: starting at step 0")
        if self.is_main:
            if wanted is None and self.output.overwrite_output_dir:
                clear_folder(self.folder)
            save_text(self.record.toml, self.folder / RUN)
        if tracker_names(self.output.report_to):
            start_trackers(self.loop.accelerator, self.record.public)
        return 0 if found is None else found.step

    def _restore(self, found: Checkpoint) -> None:
        check_facts(found, self._facts)
        if found.step > self.loop.plan.steps:
            raise StateError(
                f"the checkpoint has done {found.step} steps, and the run is to end at {self.loop.plan.steps}: "
                "raise max_train_steps, or name an earlier checkpoint."
            )
        restore_checkpoint(self.loop, found)
        self._saved = found.step
        self.reporter.say(f"going on from step {found.step}")

    def after_step(self, report: StepReport) -> None:
        """Track, save and draw what is due after a step."""
        last = report.step == self.loop.plan.steps
        if self.loop.accelerator.trackers:
            values = {"loss": report.loss, "lr": report.learning_rate, "gradient_norm": report.gradient_norm}
            if report.validation_loss is not None:
                values["validation_loss"] = report.validation_loss
            self.loop.accelerator.log(values, step=report.step)
        wanted = report.step >= self.output.checkpointing_start_step
        if (wanted and report.step % checkpoint_interval(self.output, self.loop.plan) == 0) or last:
            self.save(report.step)
        if report.step % self._preview_steps() == 0 and self._previews_along() and not last:
            self.preview(report.step)

    def before_steps(self) -> None:
        """Draw the previews of the base model, with which the later ones are compared."""
        if self.output.validation_at_start and self._previews_along():
            self.preview(0)

    def measured(self, report: StepReport) -> StepReport:
        """The report with the loss on the pictures that are held out, if it is due after this step."""
        due = self._validation is not None and self._validation.is_due(report.step, self.loop.plan.steps)
        return replace(report, validation_loss=self.validation_loss()) if due else report

    def validation_loss(self) -> float | None:
        """Loss on the pictures that are held out, with the adapter as it would be written now; None without any."""
        if self._validation is None or not self.is_main:
            return None
        device = self.loop.accelerator.device
        with self.loop.result():
            loss = self._validation.loss(self.loop.recipe, device, autocast(device.type, self.loop.precision))
        self.reporter.say(f"loss on {len(self._validation.pictures)} pictures held out: {loss:.5f}")
        return loss

    def save(self, step: int) -> None:
        """Write the checkpoint of a step, then delete those beyond the limit."""
        if self.is_main and step != self._saved:
            checkpoint = take_checkpoint(self.loop, step, self._facts)
            write_checkpoint(self.folder, checkpoint, partial(self._write_adapter, self._adapter(), step))
            prune_checkpoints(self.folder, self.output.checkpoints_total_limit)
        self._saved = step

    def preview(self, step: int) -> list[tuple[Path, str]]:
        """Draw the preview pictures of a step; return them with their prompts."""
        output, dataset = self.output, self.loop.dataset
        items = [example.item for example in dataset.examples]
        captions = [whole_texts(item, dataset.groups[item.group].edits)[0] for item in items]
        wanted = previews_of(output.validation_prompt, captions, output.num_validation_images, self.loop.seed)
        if not self.is_main or not wanted:
            return []
        prompts = [prompt for prompt, _ in wanted]
        sampling = Sampling(
            prompts=prompts,
            seeds=[seed for _, seed in wanted],
            negative=output.validation_negative_prompt,
            steps=output.validation_num_inference_steps,
            guidance=output.validation_guidance_scale,
            side=self._side,
        )
        with self.loop.result():
            paths = write_previews(self.loop.recipe, sampling, self.folder, step, self.record.base)
        drawn = list(zip(paths, prompts, strict=True))
        write_sheet(self.folder, prompts)
        track_pictures(self.loop.accelerator, drawn, step)
        return drawn

    def finish(self, seconds: float) -> tuple[Adapter, Path]:
        """Write the adapter, the loss curve, the samples and the model card."""
        adapter, steps = self._adapter(), self.loop.plan.steps
        if self.is_main:
            path = self._write_adapter(adapter, steps, self.folder)
            plot_loss(self.folder)
            self._report_pictures()
            write_card(self.folder, self.record, self._card_facts(seconds), self.preview(steps))
            self.reporter.say(f"wrote {path}")
            if self.output.push_to_hub:
                self.reporter.say(f"uploaded to {push_folder(self.folder, self.output.hub_model_id)}")
        self.loop.accelerator.wait_for_everyone()
        return adapter, self.folder / self.output.save_model_as

    def final_loss(self) -> float:
        """Mean loss of the last tenth of all steps."""
        _, losses = values_of(read_metrics(self.folder / METRICS), "loss")
        last = losses[-max(1, round(len(losses) * FINAL_SHARE)) :]
        return sum(last) / len(last) if last else float("nan")

    def close(self) -> None:
        """Take the adapter off the model and end the trackers."""
        self.loop.trainable.detach()
        if self.loop.accelerator.trackers:
            self.loop.accelerator.end_training()

    def _adapter(self) -> Adapter:
        with self.loop.result():
            return self.loop.trainable.adapter()

    def _write_adapter(self, adapter: Adapter, step: int, folder: Path) -> Path:
        return write_adapter(
            adapter,
            folder,
            self.record,
            family=self.loop.recipe.describe(),
            data=self.loop.dataset.digest,
            step=step,
            side=self._side,
            name=self.output.save_model_as,
        )

    def _report_pictures(self) -> None:
        """Write the loss of each picture, and name those that are learnt least."""
        rows = write_picture_losses(self.folder, list(self.loop.dataset.files))
        if high := [f"{row.picture} ({row.relative:.1f} times)" for row in rows[:3] if row.relative > HIGH_LOSS]:
            self.reporter.say(f"loss above the others at the same noise: {', '.join(high)}; all are in {LOSSES}")

    def _previews_along(self) -> bool:
        """Whether previews are drawn before the end too: where a prompt or an interval is given."""
        output = self.output
        return bool(output.validation_prompt or output.validation_steps or output.validation_epochs)

    def _preview_steps(self) -> int:
        if self.output.validation_epochs is not None:
            return self.output.validation_epochs * self.loop.plan.epoch
        return self.output.validation_steps or checkpoint_interval(self.output, self.loop.plan)

    def _trained(self) -> int:
        return sum(parameter.numel() for parameter in self.loop.trainable.parameters())

    def _describe(self) -> None:
        plan = self.loop.plan
        self.reporter.say(
            f"{plan.steps} steps of {plan.size} samples at {self._side} pixels on {self.loop.accelerator.device}; "
            f"{self._trained():,} trained parameters, rank {self.record.facts['rank']}"
        )

    def _card_facts(self, seconds: float) -> dict[str, object]:
        plan = self.loop.plan
        return {
            "steps": plan.steps,
            "samples a step": plan.size,
            "pictures": plan.pictures,
            **self._card_of_validation(),
            "resolution": self._side,
            **self.record.card,
            "final loss": f"{self.final_loss():.4f}",
            "seconds": f"{seconds:.0f}",
        }

    def _card_of_validation(self) -> dict[str, object]:
        _, losses = values_of(read_metrics(self.folder / METRICS), "validation_loss")
        if not losses or self._validation is None:
            return {}
        held = len(self._validation.pictures)
        return {f"loss on {held} pictures held out": f"{losses[0]:.4f} at first, {losses[-1]:.4f} at last"}
