"""``lorica generate``: prompts and adapters in, PNG files out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lorica.cli.output import json_option, print_json, quiet_libraries, show


@click.command(
    context_settings={"max_content_width": 110},
    epilog="Picture k of every prompt comes from seed + k, whatever else is drawn with it. "
    "Each PNG file carries its prompt, seed, steps, guidance, base and adapters as text.",
)
@click.option(
    "--base",
    "--pretrained_model_name_or_path",
    "base",
    default="bundled",
    metavar="NAME|PATH",
    help="Base model: bundled, a folder, a Hub id or a file.",
)
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="PATH[:STRENGTH]",
    help="An adapter; may be given again. Behind the path as in a prompt's tag: PATH:0.5:0.8 (text, picture), "
    "PATH:0.8:lbw=1,0,... (blocks), PATH:0.8@0-0.5 (part of the steps).",
)
@click.option(
    "--lora_dir",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where <lora:name:0.8> tags in prompts find their files, and --lora those that it only names.",
)
@click.option(
    "--region",
    "regions",
    multiple=True,
    metavar="NAME=MASK",
    help="Limit the adapter of this name (its file's) to where this picture is white; may be given again.",
)
@click.option(
    "--strict/--no_strict", default=True, help="Refuse a file of which something does not fit; or use the rest.  [on]"
)
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to draw; may be given again.")
@click.option("--prompts_file", type=click.Path(path_type=Path), metavar="PATH", help="More prompts, one a line.")
@click.option("--negative_prompt", metavar="TEXT", help="What not to draw.")
@click.option("--num", "--num_images_per_prompt", "num", default=1, show_default=True, help="Pictures for each prompt.")
@click.option("--seed", default=0, show_default=True, help="Seed of the first picture of each prompt.")
@click.option(
    "--steps", "--num_inference_steps", "steps", default=25, show_default=True, help="Number of denoising steps."
)
@click.option(
    "--guidance",
    "--guidance_scale",
    "guidance",
    default=5.0,
    show_default=True,
    help="How closely to follow the prompt.",
)
@click.option(
    "--scheduler", metavar="NAME", help="ddim, dpm++, euler, euler_a, unipc, ...; the model's own if left out."
)
@click.option("--height", type=int, help="In pixels, together with --width; the model's own if left out.")
@click.option("--width", type=int, help="In pixels, together with --height; the model's own if left out.")
@click.option("--batch_size", default=4, show_default=True, help="Pictures at once; changes speed, not pictures.")
@click.option(
    "--grid",
    "grid",
    multiple=True,
    metavar="WHAT=A,B,...",
    help="Compare: a column for each value of strength, seed, steps, adapter (files) or checkpoint (a run's folder). "
    "Given twice, the second makes the rows.",
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps; the fastest one if left out.")
@click.option("--dtype", metavar="NAME", help="float32, float16 or bfloat16; float16 on a GPU if left out.")
@click.option(
    "--output",
    default=Path("out.png"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="The PNG file. With several pictures: a sheet of all, and out-1.png, out-2.png, ... beside it.",
)
@json_option
def command(
    loras: tuple[str, ...],
    regions: tuple[str, ...],
    grid: tuple[str, ...],
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Make pictures from prompts, with any number of LoRAs.

    \b
    lorica generate --prompt "a large red heart on a white background" --num 4 --output hearts.png
    lorica generate --lora a.safetensors:0.8 --lora b.safetensors --prompt "..." --output out.png
    lorica generate --lora_dir loras --prompt "a cat <lora:ikea:0.7> <lora:feng:0.8@0-0.5>"
    lorica generate --lora a.safetensors --prompt "..." --grid strength=0,0.5,1 --grid seed=1,2,3
    lorica generate --prompt "..." --grid checkpoint=my-run --output which.png
    """
    quiet_libraries()
    from lorica.generating.choices import parse_lora, parse_region, read_prompts  # brings torch along
    from lorica.generating.grid import check_named_once, parse_axis
    from lorica.generating.request import Request
    from lorica.generating.run import generate
    from lorica.generating.sampling import SamplingSettings

    file = options.pop("prompts_file")
    how = {
        name: options.pop(name) for name in ("steps", "guidance", "negative_prompt", "height", "width", "batch_size")
    }
    axes = [parse_axis(text) for text in grid]
    check_named_once(axes, _given())
    request = Request(
        prompts=[*options.pop("prompts"), *(read_prompts(file) if file else [])],
        loras=[parse_lora(text) for text in loras],
        regions=[parse_region(text) for text in regions],
        grid=axes,
        output=output,
        settings=SamplingSettings(**how),
        **options,
    )
    files = generate(request)
    if as_json:
        print_json({"output": files[0], "files": files, "seed": request.seed})
    else:
        show(_closing(files))


def _given() -> set[str]:
    """Options that stand on the command line, not as defaults."""
    context = click.get_current_context()
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def _closing(files: list[Path]) -> str:
    if len(files) == 1:
        return f"Wrote {files[0]}."
    count, first, last = len(files) - 1, files[1].name, files[-1].name
    return f"Wrote {files[0]}, a sheet of {count} pictures, and each of them: {first} to {last}."
