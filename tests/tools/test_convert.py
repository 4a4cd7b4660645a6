"""``convert``: between any two formats nothing changes; what a format cannot hold is refused, or becomes a LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

import lorica
from lorica.adapters import Adapter, AdapterLayer, LoCon, LoKr, LoRA
from lorica.errors import ConfigError, FileError, FormatError, UnknownNameError
from lorica.models import FAMILIES, Target

WRITTEN = ["diffusers", "kohya"]
FOLDING_NOISE = 1e-6  # relative error of exact factors in float32; worst measured 2e-7


def sample(*, tucker: bool = False, dtype: torch.dtype = torch.float16) -> Adapter:
    torch.manual_seed(5)
    components: dict[str, dict[str, AdapterLayer]] = {}
    for component, shapes in FAMILIES["bundled"].target.components.items():
        for path in shapes:
            if path.endswith(("attn2.to_k", "layers.1.mlp.fc1", "resnets.0.conv1")):
                out, *inputs = shapes[path]
                ones = [1] * (len(inputs) - 1)
                down, up = torch.randn(2, *inputs), torch.randn(out, 2, *ones)
                layer: AdapterLayer = LoRA(down.to(dtype), up.to(dtype), 0.7)
                if tucker and len(inputs) > 1:
                    flat, core = torch.randn(2, inputs[0], 1, 1), torch.randn(2, 2, *inputs[1:])
                    layer = LoCon(flat.to(dtype), core.to(dtype), up.to(dtype), 0.7)
                components.setdefault(component, {})[path] = layer
    return Adapter(components, {"title": "x"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return lorica.write(sample(), tmp_path / "in.safetensors", format="kohya")


@pytest.mark.parametrize("start", WRITTEN)
@pytest.mark.parametrize("end", WRITTEN)
def test_nothing_changes_between_formats(start: str, end: str, tmp_path: Path) -> None:
    first = lorica.write(sample(), tmp_path / "in.safetensors", format=start)
    done = lorica.convert(first, tmp_path / "out.safetensors", to=end)
    assert lorica.read(tmp_path / "out.safetensors") == sample()
    assert (done.format, done.to, done.base_model, done.modules) == (start, end, "bundled", len(sample()))
    assert (done.path, done.changed, done.size) == (
        tmp_path / "out.safetensors", (), (tmp_path / "out.safetensors").stat().st_size,
    )  # fmt: skip


def test_there_and_back_is_the_same_file(file: Path, tmp_path: Path) -> None:
    lorica.convert(file, tmp_path / "there.safetensors", to="diffusers")
    lorica.convert(tmp_path / "there.safetensors", tmp_path / "back.safetensors", to="kohya")
    assert (tmp_path / "back.safetensors").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("family", "model"), [("pixart_sigma", None), ("sana_1600m", "sana_1600m"), ("flux_dev", None)]
)
@pytest.mark.parametrize("end", ["diffusers", "kohya", "peft", "comfyui"])
def test_the_new_file_keeps_its_base(family: str, model: str | None, end: str, tmp_path: Path) -> None:
    """Some families differ in few modules, or in none: what the source or the user said stands in the new file."""
    shapes = FAMILIES[family].target.components["transformer"]
    paths = [
        path
        for path, shape in shapes.items()
        if len(shape) == 2 and path.endswith("attn1.to_k" if family != "flux_dev" else "attn.to_k")
    ]
    layers = {path: LoRA(torch.ones(1, shapes[path][1]), torch.ones(shapes[path][0], 1)) for path in paths[:3]}
    said = {} if model else {"modelspec.architecture": f"{FAMILIES[family].base_models[0]}/lora"}
    source = lorica.write(Adapter({"transformer": layers}, said), tmp_path / "in.safetensors")
    done = lorica.convert(source, tmp_path / "out.safetensors", to=end, model=model)
    assert done.base_model == family
    assert lorica.inspect(done.path).base.name == family


def test_without_strict_what_has_no_use_is_left_out_and_listed(file: Path, tmp_path: Path) -> None:
    save_file({**load_file(file), "lora_unet_nowhere.lora_up.weight": torch.ones(3, 2)}, file)
    with pytest.raises(FormatError, match="lora_unet_nowhere"):
        lorica.convert(file, tmp_path / "out.safetensors", to="diffusers")
    done = lorica.convert(file, tmp_path / "out.safetensors", to="diffusers", strict=False)
    assert list(done.left_out) == ["lora_unet_nowhere.lora_up.weight"]
    assert lorica.read(done.path) == sample()


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_a_checkpoint_of_torch_can_be_converted(suffix: str, file: Path, tmp_path: Path) -> None:
    torch.save(load_file(file), tmp_path / f"in{suffix}")
    lorica.convert(tmp_path / f"in{suffix}", tmp_path / "out.safetensors", to="diffusers")
    assert lorica.read(tmp_path / "out.safetensors") == sample()


def test_a_folder_gets_the_usual_name(file: Path, tmp_path: Path) -> None:
    done = lorica.convert(file, tmp_path / "folder", to="diffusers")
    assert done.path == tmp_path / "folder" / "pytorch_lora_weights.safetensors"
    assert lorica.read(tmp_path / "folder") == sample()


def test_metadata_stays_but_for_hashes_that_would_be_wrong(tmp_path: Path) -> None:
    hashes = {"sshs_model_hash": "a", "sshs_legacy_hash": "b", "modelspec.hash_sha256": "c"}
    first = lorica.write(sample().with_metadata(hashes), tmp_path / "in.safetensors", format="kohya")
    lorica.convert(first, tmp_path / "out.safetensors", to="diffusers")
    with safe_open(tmp_path / "out.safetensors", "pt") as out:
        assert out.metadata().keys().isdisjoint(hashes)
        assert out.metadata()["title"] == "x"


def test_a_file_in_kohyas_format_gets_the_hashes_of_what_is_in_it(tmp_path: Path) -> None:
    stale = {"sshs_model_hash": "a", "sshs_legacy_hash": "b", "modelspec.hash_sha256": "c", "ss_network_dim": "2"}
    first = lorica.write(sample(), tmp_path / "in.safetensors", metadata=stale)
    with safe_open(first, "pt") as stored:
        assert stored.metadata().items() >= stale.items()
    done = lorica.convert(first, tmp_path / "out.safetensors", to="kohya")
    found = {each.name: each for each in lorica.inspect(done.path).hashes}
    assert found["sshs_model_hash"].verdict == found["sshs_legacy_hash"].verdict == "right"
    with safe_open(done.path, "pt") as out:
        assert out.metadata()["ss_network_dim"] == "2"
        assert "modelspec.hash_sha256" not in out.metadata()
    assert done.size == done.path.stat().st_size


@pytest.mark.parametrize("end", WRITTEN)
def test_a_writer_leaves_out_the_hashes_of_the_file_that_an_adapter_came_from(end: str, tmp_path: Path) -> None:
    stale = {"sshs_model_hash": "a", "sshs_legacy_hash": "b", "modelspec.hash_sha256": "c"}
    adapter = lorica.read(lorica.write(sample().with_metadata({"x": "y"}), tmp_path / "in.safetensors", metadata=stale))
    assert adapter.metadata.items() >= stale.items()
    with safe_open(lorica.write(adapter, tmp_path / "out.safetensors", format=end), "pt") as out:
        assert out.metadata()["x"] == "y"
        assert not out.metadata().items() & stale.items()


def test_what_the_format_cannot_hold_becomes_a_lora_where_that_is_exact(tmp_path: Path) -> None:
    adapter = sample(tucker=True)
    first = lorica.write(adapter, tmp_path / "in.safetensors", format="kohya")
    done = lorica.convert(first, tmp_path / "out.safetensors", to="diffusers")
    again = lorica.read(tmp_path / "out.safetensors")
    cores = [path for path, layer in adapter.components["unet"].items() if layer.kind == "locon"]
    assert sorted(change.module for change in done.changed) == sorted(f"unet.{path}" for path in cores)
    assert all(change.exact and change.kind == "locon" and change.error < FOLDING_NOISE for change in done.changed)
    for component, path, layer in adapter.layers():
        twin = again.components[component][path]
        if path not in cores:
            assert twin == layer
            continue
        nothing = torch.zeros(layer.weight_shape)
        change, error = layer.delta(nothing), twin.delta(nothing) - layer.delta(nothing)
        assert error.norm() < FOLDING_NOISE * change.norm()


def lokr(rows: int, columns: int) -> LoKr:
    """Return one that changes a weight of (8, 12), by a first factor of rank 1."""
    first = {"w1_a": torch.randn(rows, 1), "w1_b": torch.randn(1, columns)}
    return LoKr(**first, w2_a=torch.randn(8 // rows, 1), w2_b=torch.randn(1, 12 // columns), alpha=2.0)


@pytest.mark.parametrize(
    "others", [{}, {"c": LoRA(torch.randn(2, 5), torch.randn(7, 2), 3.0)}], ids=["alone", "beside"]
)
def test_layers_that_a_format_holds_only_alone_become_loras_together(
    others: dict[str, AdapterLayer], tmp_path: Path
) -> None:
    adapter = Adapter({"unet": {"a.q": lokr(2, 3), "a.k": lokr(4, 2), **others}})  # no one decompose_factor of PEFT's
    first = lorica.write(adapter, tmp_path / "in.safetensors", format="kohya", target=Target("x", shapes_of(adapter)))
    folder = tmp_path / "x"
    save_base(folder, shapes_of(adapter))
    done = lorica.convert(first, tmp_path / "out.safetensors", to="peft", model=folder)
    assert {change.module for change in done.changed} == {"unet.a.q", "unet.a.k"}
    assert all(change.exact for change in done.changed)
    again = lorica.read(tmp_path / "out.safetensors", target=Target("x", shapes_of(adapter)))
    assert {layer.kind for _, _, layer in again.layers()} == {"lora"}


def shapes_of(adapter: Adapter) -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        name: {path: layer.weight_shape for path, layer in part.items()} for name, part in adapter.components.items()
    }


def save_base(folder: Path, shapes: dict[str, dict[str, tuple[int, ...]]]) -> None:
    for name, part in shapes.items():
        (folder / name).mkdir(parents=True)
        weights = {f"{path}.weight": torch.ones(shape) for path, shape in part.items()}
        save_file(weights, folder / name / "diffusion_pytorch_model.safetensors")


def test_an_approximation_is_of_the_rank_that_was_asked_for(tmp_path: Path) -> None:
    first = lorica.write(sample(tucker=True), tmp_path / "in.safetensors", format="kohya")
    done = lorica.convert(first, tmp_path / "out.safetensors", to="diffusers", approximate=1)
    assert {(change.rank, change.exact) for change in done.changed} == {(1, False)}
    assert all(0.01 < change.error < 1 for change in done.changed)
    held = lorica.read(tmp_path / "out.safetensors").components["unet"]
    assert {held[change.module.removeprefix("unet.")].rank for change in done.changed} == {1}


def test_what_cannot_be_held_at_all_is_listed_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lorica.write(sample(tucker=True), tmp_path / "in.safetensors", format="kohya")
    monkeypatch.setattr("lorica.tools.as_lora._will_do", lambda *_: False)
    with pytest.raises(FormatError) as caught:
        lorica.convert(first, tmp_path / "out.safetensors", to="diffusers")
    cores = [path for path, layer in sample(tucker=True).components["unet"].items() if layer.kind == "locon"]
    assert f"cannot hold {len(cores)} of the layers" in str(caught.value)
    assert f"unet.{cores[0]}: a locon layer has no exact factors" in str(caught.value)
    assert "--approximate rank=RANK" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]


@pytest.mark.parametrize("name", ["bfloat16", "bf16", "float32", "fp16"])
def test_a_dtype_is_that_of_every_tensor(name: str, file: Path, tmp_path: Path) -> None:
    done = lorica.convert(file, tmp_path / "out.safetensors", to="diffusers", dtype=name)
    wanted = {"bf": torch.bfloat16, "fl": torch.float32, "fp": torch.float16}[name[:2]]
    assert lorica.read(tmp_path / "out.safetensors") == sample().map(lambda tensor: tensor.to(wanted))
    assert done.dtype == name


def test_numbers_that_are_too_large_for_a_dtype_are_refused(tmp_path: Path) -> None:
    large = sample(dtype=torch.float32).map(lambda tensor: tensor * 1e6)
    first = lorica.write(large, tmp_path / "in.safetensors")
    with pytest.raises(FormatError, match=r"the down of text_encoder.* too large for torch.float16"):
        lorica.convert(first, tmp_path / "out.safetensors", to="kohya", dtype="float16")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_base_model_explains_names_that_no_family_has(tmp_path: Path) -> None:
    save_file({"conv_in.weight": torch.ones(6, 4, 3, 3)}, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    tensors = {
        "lora_unet_conv_in.lora_down.weight": torch.randn(2, 4, 3, 3),
        "lora_unet_conv_in.lora_up.weight": torch.randn(6, 2, 1, 1),
    }
    save_file(tensors, tmp_path / "in.safetensors")
    with pytest.raises(FormatError):
        lorica.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", to="diffusers")
    lorica.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", to="diffusers", model=tmp_path)
    assert torch.equal(
        load_file(tmp_path / "out.safetensors")["unet.conv_in.lora_A.weight"], next(iter(tensors.values()))
    )


def test_an_adapter_for_an_unknown_model_can_be_converted_to_flat_names(tmp_path: Path) -> None:
    adapter = Adapter({"unet": {"a.b_c": LoRA(torch.randn(2, 5), torch.randn(7, 2), 3.0)}})
    first = lorica.write(adapter, tmp_path / "in.safetensors")
    done = lorica.convert(first, tmp_path / "out.safetensors", to="kohya")
    assert done.base_model is None
    assert "lora_unet_a_b_c.alpha" in load_file(tmp_path / "out.safetensors")


def test_one_of_two_text_encoders_keeps_its_number(tmp_path: Path) -> None:
    path = "text_model.encoder.layers.0.mlp.fc1"
    out, inputs = FAMILIES["sdxl"].target.components["text_encoder"][path]
    unet = next(path for path in FAMILIES["sdxl"].target.components["unet"] if path.endswith("attn2.to_k"))
    wide = FAMILIES["sdxl"].target.components["unet"][unet]
    layers = {
        "text_encoder": {path: LoRA(torch.randn(2, inputs), torch.randn(out, 2))},
        "unet": {unet: LoRA(torch.randn(2, wide[1]), torch.randn(wide[0], 2))},
    }
    first = lorica.write(Adapter(layers), tmp_path / "in.safetensors")
    lorica.convert(first, tmp_path / "out.safetensors", to="kohya")
    assert any(key.startswith("lora_te1_") for key in load_file(tmp_path / "out.safetensors"))


FIRST_MLP = "double_blocks.0.img_mlp.0"


@pytest.mark.parametrize(
    ("end", "name"),
    [
        ("comfyui", f"diffusion_model.{FIRST_MLP}.lora_A.weight"),
        ("kohya", "lora_unet_double_blocks_0_img_mlp_0.lora_down.weight"),
        ("onetrainer", "lora_transformer_transformer_blocks_0_ff_net_0_proj.lora_down.weight"),
    ],
)
@pytest.mark.parametrize("start", ["comfyui", "kohya"])
def test_a_file_that_fits_several_families_gets_the_names_of_the_one_that_it_was_read_for(
    start: str, end: str, name: str, tmp_path: Path
) -> None:
    """Flux dev and schnell; CogVideoX and HunyuanVideo, which have such a module too, name it otherwise."""
    names = {"comfyui": f"diffusion_model.{FIRST_MLP}", "kohya": "lora_unet_double_blocks_0_img_mlp_0"}
    leaves = {"comfyui": ("lora_A", "lora_B"), "kohya": ("lora_down", "lora_up")}[start]
    down, up = (f"{names[start]}.{leaf}.weight" for leaf in leaves)
    save_file({down: torch.randn(2, 3072), up: torch.randn(12288, 2)}, tmp_path / "in.safetensors")
    lorica.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", to=end, dtype="bfloat16")
    assert name in load_file(tmp_path / "out.safetensors")


def test_a_file_for_one_of_two_models_with_other_names_needs_the_model(tmp_path: Path) -> None:
    layer = LoRA(torch.randn(2, 3072), torch.randn(12288, 2))
    adapter = Adapter({"transformer": {"transformer_blocks.0.ff_context.net.0.proj": layer}})
    first = lorica.write(adapter, tmp_path / "in.safetensors")
    names = {"flux_dev": "double_blocks_0_txt_mlp_0", "hunyuan_video": "double_blocks_0_txt_mlp_fc1"}
    with pytest.raises(FormatError, match="fits several base models alike"):
        lorica.write(adapter, tmp_path / "out.safetensors", format="kohya")
    with pytest.raises(FormatError, match="fits several base models alike") as caught:
        lorica.convert(first, tmp_path / "out.safetensors", to="kohya")
    assert all(f"{name!r} ({FAMILIES[family].title})" in str(caught.value) for family, name in names.items())
    for model, name in names.items():
        lorica.convert(first, tmp_path / "out.safetensors", to="kohya", model=model)
        assert f"lora_unet_{name}.alpha" in load_file(tmp_path / "out.safetensors")


@pytest.mark.parametrize("start", ["diffusers", "lycoris"])
def test_a_file_that_reaches_the_last_blocks_of_one_model_is_for_that(start: str, tmp_path: Path) -> None:
    layer = LoRA(torch.randn(2, 3072), torch.randn(12288, 2))
    adapter = Adapter({"transformer": {"transformer_blocks.18.ff_context.net.0.proj": layer}})
    first = lorica.write(adapter, tmp_path / "in.safetensors", format=start)  # HunyuanVideo has 20 such blocks
    lorica.convert(first, tmp_path / "out.safetensors", to="kohya")
    assert "lora_unet_double_blocks_18_txt_mlp_0.alpha" in load_file(tmp_path / "out.safetensors")


def test_a_failure_leaves_an_earlier_file_as_it_was(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    monkeypatch.setattr(Adapter, "__eq__", lambda *_: False)
    with pytest.raises(FormatError, match="is not read back bit for bit"):
        lorica.convert(file, out, to="diffusers")
    assert out.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "out.safetensors"]


def test_a_file_is_not_written_over_itself(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(FileError, match="over itself"):
        lorica.convert(file, file, to="diffusers")
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"to": "khoya"}, UnknownNameError, "unknown format 'khoya'. Did you mean 'kohya'"),
        ({"to": "kohya", "dtype": "float17"}, UnknownNameError, "unknown dtype 'float17'"),
        ({"to": "kohya", "approximate": 0}, ConfigError, "at least 1, got 0"),
        ({"to": "kohya", "model": "none/at/all"}, FileError, "there is no folder"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: dict[str, object], error: type[Exception], message: str, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        lorica.convert(file, tmp_path / "out.safetensors", **options)


def test_only_safetensors_are_written(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"not \.pt"):
        lorica.convert(file, tmp_path / "out.pt", to="kohya")
