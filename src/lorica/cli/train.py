"""``lorica train``: settings from a run file, from ``--set`` and from options; then :func:`lorica.train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorica.cli.options import canonical, given, hidden_options, options_of, settings, topics_of
from lorica.cli.output import json_option, print_json, quiet_libraries, show
from lorica.errors import ConfigError, UnknownNameError
from lorica.training.config.config import RunConfig
from lorica.training.config.kohya import ALWAYS_SO, SWITCHES, TRANSLATED
from lorica.training.config.refused import REFUSED
from lorica.training.config.settings import read_toml

if TYPE_CHECKING:
    from lorica.training.run import TrainResult

# Tasks of the diffusers scripts, each with the defaults of its own.
TASKS: dict[str, dict[str, Any]] = {"text-to-image": {}, "dreambooth": {"train_batch_size": 4}}
COMMON = (
    "pretrained_model_name_or_path", "train_data_dir", "instance_prompt", "output_dir", "resolution", "rank",
    "learning_rate", "max_train_steps", "train_batch_size", "validation_prompt",
)  # fmt: skip


class TrainCommand(click.Command):
    """Command with help in sections, and a reason for each option of other trainers that it does not offer."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the most common options first, then the others by topic."""
        records = {param.name: record for param in self.params if (record := param.get_help_record(ctx)) is not None}
        settings = set(RunConfig.model_fields)
        sections = {
            "Most common": COMMON,
            **topics_of(RunConfig),
            "The command": [name for name in records if name not in settings],
        }
        shown: set[str | None] = set()
        for title, names in sections.items():
            rows = [records[name] for name in names if name in records and name not in shown]
            shown.update(names)
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as usual; an option that is known but not offered raises with its reason."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-").replace("-", "_")
            if name in REFUSED:
                raise ConfigError(f"--{name} is not offered: {REFUSED[name]}") from None
            raise


@click.command(
    cls=TrainCommand,
    context_settings={"max_content_width": 110},
    epilog="Options have the names of the diffusers scripts, and many of Kohya's; - and _ mean the same. "
    "In a run file they are keys.",
)
@click.argument("what", default="text-to-image", metavar="[text-to-image | dreambooth | RUN.TOML]")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Change one setting of the run file.")
@click.option("--dry_run", "--dry-run", is_flag=True, help="Print the plan of the run; train and write nothing.")
@json_option
def command(what: str, pairs: tuple[str, ...], dry_run: bool, as_json: bool, **options: Any) -> None:
    r"""Train a LoRA on a folder of pictures with captions.

    \b
    lorica train text-to-image --train_data_dir pictures --max_train_steps 300
    lorica train dreambooth --instance_data_dir pictures --instance_prompt "a zorblin dog"
    lorica train run.toml --set rank=8
    """
    config = configuration(what, pairs, options)
    quiet_libraries()
    if dry_run:
        _print_plan(config, as_json=as_json)
        return
    from lorica.training.run import train  # brings torch along

    result = train(config)
    if as_json:
        print_json(facts_of(result))
    else:
        show(closing(result, config))


def _print_plan(config: RunConfig, *, as_json: bool) -> None:
    from lorica.training.rehearsal import rehearse  # brings torch along

    plan = rehearse(config)
    if as_json:
        print_json(plan.facts())
    else:
        show(plan.describe())


def facts_of(result: TrainResult) -> dict[str, object]:
    """Object that ``--json`` prints."""
    return {
        "adapter": result.adapter_path,
        "output_dir": result.output_dir,
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "final_loss": result.final_loss,
    }


def closing(result: TrainResult, config: RunConfig) -> str:
    """Closing paragraph: what was made, where, and what to try next."""
    base = config.pretrained_model_name_or_path
    chosen = "" if base == "bundled" else f" --base {shlex.quote(base)}"
    return (
        f"Trained {result.steps} steps in {result.seconds:.0f} s; the loss ended at {result.final_loss:.4f}.\n"
        f"The adapter is {result.adapter_path}; its model card, loss curve and previews lie beside it.\n"
        f"See what it does: lorica generate{chosen} --lora {shlex.quote(str(result.adapter_path))} --prompt '...'"
    )


def configuration(what: str, pairs: tuple[str, ...], options: dict[str, Any]) -> RunConfig:
    """Settings of a run: those of the file, overridden by ``--set``, overridden by options."""
    layers = [_run_file(what), canonical(RunConfig, settings(pairs)), given(options)]
    values = {name: value for layer in layers for name, value in layer.items()}
    if what == "dreambooth" and not {"instance_prompt", "class_prompt", "datasets"} & values.keys():
        raise ConfigError("dreambooth needs the words for the thing: --instance_prompt, such as 'a zorblin dog'.")
    return RunConfig.from_values(values)


def _run_file(what: str) -> dict[str, Any]:
    """Settings of the run file; none if the argument is a task."""
    if what.endswith(".toml"):
        return canonical(RunConfig, read_toml(Path(what)))
    if what not in TASKS:
        raise UnknownNameError.choose("task (or a run file ending in .toml)", what, TASKS)
    return dict(TASKS[what])


command.params.extend(options_of(RunConfig))
command.params.extend(hidden_options(TRANSLATED, ALWAYS_SO, SWITCHES))
