"""A run in progress: what is prepared before it, saved during it and written after it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from lorica.adapters import Adapter
from lorica.data.cache import Cache, cache_folder
from lorica.errors import StateError
from lorica.training.class_pictures import draw_class_pictures
from lorica.training.config.config import RunConfig
from lorica.training.dataset.holding_out import hold_out, prepare_validation
from lorica.training.dataset.sources import collect_items
from lorica.training.dataset.texts import whole_texts
from lorica.training.loop import StepReport, autocast
from lorica.training.memory.estimate import estimate_memory
from lorica.training.output.checkpoint import (
    check_facts,
    find_checkpoint,
    prune_checkpoints,
    remove_remains,
    write_checkpoint,
)
from lorica.training.output.folder import check_room
from lorica.training.output.hub import push_folder
from lorica.training.output.metrics import METRICS, plot_loss, read_metrics, values_of
from lorica.training.output.outputs import RUN, base_name, write_adapter, write_card
from lorica.training.output.preview import prompts_of, write_previews
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Sampling
from lorica.training.setup import (
    precision_of,
    prepare_dataset,
    prepare_loop,
    prepare_recipe,
    prepare_trainable,
    side_of,
)
from lorica.training.state import facts_of, restore_checkpoint, take_checkpoint

CHECKPOINT = 4 * 4  # bytes of a trained number in it: the factor, two of Adam, and the adapter file
FINAL_SHARE = 0.1  # share of the steps whose mean loss is called final


class Session:
    """All the parts of one run.

    Raises:
        LoRAError: if the pictures, the model or the settings cannot be used.
    """

    def __init__(self, config: RunConfig, accelerator: Accelerator, reporter: Reporter) -> None:
        self.config, self.accelerator, self.reporter = config, accelerator, reporter
        self.folder: Path = config.output_dir
        self.is_main = bool(accelerator.is_main_process)
        draw_class_pictures(config, accelerator, reporter)
        found = collect_items(config, reporter)
        self._items, held = hold_out(config, found, Cache(cache_folder()), reporter)
        self._recipe = prepare_recipe(config, accelerator)
        self._side = side_of(config, self._recipe)
        if not reporter.quiet:
            reporter.say(estimate_memory(config, self._recipe, accelerator, self._side).describe())
        dataset = prepare_dataset(self._items, self._recipe, config, accelerator, reporter)
        self._validation = prepare_validation(config, held, self._recipe, dataset, self._side)
        self._recipe.release_encoders(keep_text=dataset.texts.is_open, keep_pictures=config.no_cache)
        self._trainable = prepare_trainable(config, self._recipe, precision_of(config, accelerator))
        self.loop = prepare_loop(config, self._recipe, dataset, self._trainable, accelerator)
        self._facts = facts_of(config, self.loop, self._side)
        self._saved = -1

    def begin(self) -> int:
        """Go on from a checkpoint if that is asked for; return how many steps are already done.

        Raises:
            FileError: if the checkpoint is not there or broken.
            StateError: if it is of another run, or beyond the end of this one.
        """
        self._describe()
        if self.is_main:
            remove_remains(self.folder)
            check_room(self.folder, CHECKPOINT * sum(factor.numel() for factor in self._trainable.parameters()))
        wanted = self.config.resume_from_checkpoint
        found = find_checkpoint(self.folder, wanted, self.reporter.say) if wanted is not None else None
        if self.is_main:
            (self.folder / RUN).write_text(self.config.to_toml(), encoding="utf-8")
        if found is None:
            if wanted is not None:
                self.reporter.say(f"there is no checkpoint in {self.folder} yet: starting at step 0")
            return 0
        check_facts(found, self._facts)
        if found.step > self.loop.plan.steps:
            raise StateError(
                f"the checkpoint has done {found.step} steps, and the run is to end at {self.loop.plan.steps}: "
                "raise max_train_steps, or name an earlier checkpoint."
            )
        restore_checkpoint(self.loop, found)
        self._saved = found.step
        self.reporter.say(f"going on from step {found.step}")
        return found.step

    def after_step(self, report: StepReport) -> None:
        """Save, preview and track what is due after a step."""
        last = report.step == self.loop.plan.steps
        if self.config.report_to is not None:
            values = {"loss": report.loss, "lr": report.learning_rate, "gradient_norm": report.gradient_norm}
            if report.validation_loss is not None:
                values["validation_loss"] = report.validation_loss
            self.accelerator.log(values, step=report.step)
        if report.step % self.config.checkpointing_steps == 0 or last:
            self.save(report.step)
        if report.step % self._preview_steps() == 0 and self.config.validation_prompt is not None and not last:
            self.preview(report.step)

    def measured(self, report: StepReport) -> StepReport:
        """Return the report with the loss on the pictures held out, if that is due after this step."""
        due = self._validation is not None and self._validation.is_due(report.step, self.loop.plan.steps)
        return replace(report, validation_loss=self.validation_loss()) if due else report

    def validation_loss(self) -> float | None:
        """Return the loss on the pictures held out, with the adapter as it would be written now; None without any."""
        if self._validation is None or not self.is_main:
            return None
        device = self.accelerator.device
        with self.loop.result():
            loss = self._validation.loss(self._recipe, device, autocast(device.type, self.loop.precision))
        self.reporter.say(f"loss on {len(self._validation.pictures)} pictures held out: {loss:.5f}")
        return loss

    def save(self, step: int) -> None:
        """Write the checkpoint of a step, then delete those beyond the limit."""
        if self.is_main and step != self._saved:
            checkpoint = take_checkpoint(self.loop, step, self._facts)
            write_checkpoint(self.folder, checkpoint, partial(self._write_adapter, self._adapter(), step))
            prune_checkpoints(self.folder, self.config.checkpoints_total_limit)
        self._saved = step

    def preview(self, step: int) -> list[tuple[Path, str]]:
        """Draw the preview pictures of a step; return them with their prompts."""
        config = self.config
        groups = self.loop.dataset.groups
        captions = [whole_texts(item, groups[item.group].edits)[0] for item in self._items]
        prompts = prompts_of(config.validation_prompt, captions, config.num_validation_images)
        if not self.is_main or not prompts:
            return []
        sampling = Sampling(
            prompts=prompts,
            seed=config.seed,
            steps=config.validation_num_inference_steps,
            guidance=config.validation_guidance_scale,
            side=self._side,
        )
        with self.loop.result():
            paths = write_previews(self._recipe, sampling, self.folder, step, base_name(config))
        return list(zip(paths, prompts, strict=True))

    def finish(self, seconds: float) -> tuple[Adapter, Path]:
        """Write the adapter, the curve, the samples and the model card."""
        adapter, steps = self._adapter(), self.loop.plan.steps
        path = self.folder / "pytorch_lora_weights.safetensors"
        if self.is_main:
            path = self._write_adapter(adapter, steps, self.folder)
            plot_loss(self.folder)
            write_card(self.folder, self.config, self._card_facts(seconds), self.preview(steps))
            self.reporter.say(f"wrote {path}")
            if self.config.push_to_hub:
                self.reporter.say(f"uploaded to {push_folder(self.folder, self.config.hub_model_id)}")
        self.accelerator.wait_for_everyone()
        return adapter, path

    def final_loss(self) -> float:
        """Return the mean loss of the last tenth of all steps."""
        _, losses = values_of(read_metrics(self.folder / METRICS), "loss")
        last = losses[-max(1, round(len(losses) * FINAL_SHARE)) :]
        return sum(last) / len(last) if last else float("nan")

    def close(self) -> None:
        """Take the adapter off the model and end the trackers."""
        self._trainable.detach()
        if self.config.report_to is not None:
            self.accelerator.end_training()

    def _adapter(self) -> Adapter:
        with self.loop.result():
            return self._trainable.adapter()

    def _write_adapter(self, adapter: Adapter, step: int, folder: Path) -> Path:
        return write_adapter(
            adapter,
            folder,
            self.config,
            family=self._recipe.describe(),
            data=self.loop.dataset.digest,
            step=step,
            side=self._side,
        )

    def _preview_steps(self) -> int:
        if self.config.validation_epochs is not None:
            return self.config.validation_epochs * self.loop.plan.epoch
        return self.config.validation_steps or self.config.checkpointing_steps

    def _describe(self) -> None:
        plan, trained = self.loop.plan, sum(parameter.numel() for parameter in self._trainable.parameters())
        self.reporter.say(
            f"{plan.steps} steps of {plan.size} samples at {self._side} pixels on {self.accelerator.device}; "
            f"{trained:,} trained parameters, rank {self.config.rank}"
        )

    def _card_facts(self, seconds: float) -> dict[str, object]:
        plan = self.loop.plan
        return {
            "steps": plan.steps,
            "samples a step": plan.size,
            "pictures": plan.pictures,
            **self._card_of_validation(),
            "resolution": self._side,
            "rank, alpha": f"{self.config.rank}, {self.config.alpha or self.config.rank:g}",
            "learning rate": f"{self.config.learning_rate:g}, {self.config.lr_scheduler}",
            "final loss": f"{self.final_loss():.4f}",
            "seconds": f"{seconds:.0f}",
        }

    def _card_of_validation(self) -> dict[str, object]:
        _, losses = values_of(read_metrics(self.folder / METRICS), "validation_loss")
        if not losses or self._validation is None:
            return {}
        held = len(self._validation.pictures)
        return {f"loss on {held} pictures held out": f"{losses[0]:.4f} at first, {losses[-1]:.4f} at last"}
