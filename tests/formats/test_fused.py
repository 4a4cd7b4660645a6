from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from lorica.adapters import OFT, AdapterLayer, DoRA, Full, LoKr, LoRA
from lorica.errors import FormatError
from lorica.formats.methods.fused import join, split
from lorica.formats.names import Location
from lorica.models.spellings import Part

# q, k and v of 4, 3 and 5 rows in one weight of 12.
ROWS = {"q": (0, 4), "k": (4, 7), "v": (7, 12)}
QKV = Location("transformer", tuple(Part(path, rows) for path, rows in ROWS.items()))
# A modulation whose halves stand the other way round.
SWAPPED = Location("transformer", (Part("norm", (0, 6), (6, 12)), Part("norm", (6, 12), (0, 6))))
WIDTH = 7


def lora(out: int = 12, rank: int = 2, alpha: float = 1.5, dtype: torch.dtype = torch.float32) -> LoRA:
    return LoRA(torch.randn(rank, WIDTH).to(dtype), torch.randn(out, rank).to(dtype), alpha)


def delta(layer: AdapterLayer, out: int) -> Tensor:
    return layer.delta(torch.zeros(out, WIDTH))


def stacked(parts: Mapping[str, AdapterLayer]) -> Tensor:
    """Return the change of the fused weight that the parts are, entry by entry."""
    whole = torch.zeros(12, WIDTH)
    for path, part in parts.items():
        start, stop = ROWS[path]
        change = delta(part, stop - start)
        for row in range(start, stop):
            whole[row] = change[row - start]
    return whole


def joined(parts: Mapping[str, AdapterLayer]) -> AdapterLayer:
    layer = join(parts, QKV)
    assert not isinstance(layer, str), layer
    return layer


def test_a_fused_lora_becomes_three_that_share_down_and_alpha() -> None:
    whole = lora()
    parts = split(whole, QKV)
    assert list(parts) == ["q", "k", "v"]
    for path, (start, stop) in ROWS.items():
        assert parts[path] == LoRA(whole.down, whole.up[start:stop], 1.5)
        assert parts[path].tensors["up"].data_ptr() == whole.up[start:].data_ptr()
    assert torch.equal(stacked(parts), delta(whole, 12))
    assert joined(parts) == whole


@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 2, 3), (3, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loras_of_their_own_become_blocks_with_the_alphas_of_all(ranks: tuple[int, ...], dtype: torch.dtype) -> None:
    parts = {
        path: lora(stop - start, rank, 0.5 * rank, dtype)
        for (path, (start, stop)), rank in zip(ROWS.items(), ranks, strict=True)
    }
    whole = joined(parts)
    assert (whole.rank, whole.alpha) == (6, 3.0)
    assert torch.equal(delta(whole, 12), stacked(parts))
    assert split(whole, QKV) == parts


@pytest.mark.parametrize("alpha", [0.1, 0.7, 1 / 3, 5.3])
def test_the_alpha_of_blocks_comes_back_exactly(alpha: float) -> None:
    parts = {path: lora(stop - start, 4, alpha) for path, (start, stop) in ROWS.items()}
    assert split(joined(parts), QKV) == parts


@pytest.mark.parametrize("there", ["q", "k", "v", "qk", "qv", "kv"])
def test_a_part_that_is_not_there_stays_away(there: str) -> None:
    parts = {path: lora(stop - start, 2) for path, (start, stop) in ROWS.items() if path in there}
    assert split(joined(parts), QKV) == parts
    assert torch.equal(delta(joined(parts), 12), stacked(parts))


def test_parts_that_share_down_but_not_all_are_there_stay_so() -> None:
    parts = split(lora(), QKV)
    parts.pop("v")
    assert split(joined(parts), QKV) == parts


def test_a_fresh_adapter_with_zero_ups_keeps_its_parts() -> None:
    parts = {
        path: LoRA(torch.randn(2, WIDTH), torch.zeros(stop - start, 2), 2.0) for path, (start, stop) in ROWS.items()
    }
    assert split(joined(parts), QKV) == parts


def test_parts_of_different_scalings_cannot_be_joined() -> None:
    parts = {path: lora(stop - start, 2, 1.0 + start) for path, (start, stop) in ROWS.items()}
    message = join(parts, QKV)
    assert isinstance(message, str)
    assert "lora layers like these cannot be joined exactly" in message


def test_parts_of_different_methods_cannot_be_joined() -> None:
    message = join({"q": lora(4), "k": Full(torch.randn(3, WIDTH))}, QKV)
    assert isinstance(message, str)
    assert "they are of several methods (full, lora)" in message


def test_swapped_halves_are_put_in_the_models_order() -> None:
    whole = lora()
    (part,) = split(whole, SWAPPED).values()
    assert torch.equal(delta(part, 12), torch.cat([delta(whole, 12)[6:], delta(whole, 12)[:6]]))
    assert join({"norm": part}, SWAPPED) == whole


def test_a_full_difference_is_cut_and_stacked() -> None:
    whole = Full(torch.randn(12, WIDTH), torch.randn(12))
    parts = split(whole, QKV)
    assert torch.equal(parts["k"].tensors["diff"], whole.tensors["diff"][4:7])
    assert torch.equal(parts["k"].tensors["bias"], whole.tensors["bias"][4:7])
    assert joined(parts) == whole
    without_k = {"q": Full(torch.randn(4, WIDTH)), "v": Full(torch.randn(5, WIDTH))}
    assert split(joined(without_k), QKV) == without_k


def test_a_method_that_no_rows_can_be_taken_of_is_refused() -> None:
    class Other(Full):
        kind = "other"

    with pytest.raises(FormatError, match="no file holds a other layer, so it cannot be cut"):
        split(Other(torch.randn(12, WIDTH)), QKV)


MIXED: dict[str, dict[str, AdapterLayer]] = {
    "oft of two block sizes": {"q": OFT(torch.randn(2, 2, 2)), "v": OFT(torch.randn(1, 5, 5))},
    "stored oft of two block sizes": {
        "q": OFT(rotations=torch.randn(2, 2, 2)), "v": OFT(rotations=torch.randn(1, 5, 5)),
    },
    "lokr of two heights": {
        "q": LoKr(w1_a=torch.randn(4, 2), w1_b=torch.randn(2, WIDTH), w2=torch.ones(1, 1)),
        "k": LoKr(w1_a=torch.randn(1, 2), w1_b=torch.randn(2, WIDTH), w2=torch.ones(3, 1)),
    },
    "dora of inputs": {
        path: DoRA(lora(stop - start, 1 + start % 2), torch.rand(1, WIDTH)) for path, (start, stop) in ROWS.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_parts_that_do_not_fit_over_each_other_are_refused(name: str) -> None:
    reason = join(MIXED[name], QKV)
    assert isinstance(reason, str)
    assert "cannot be joined exactly" in reason


def test_stored_rotations_are_cut_and_stacked_between_their_blocks() -> None:
    pair = Location("transformer", (Part("one", (0, 4)), Part("two", (4, 12))))
    whole = OFT(rotations=torch.randn(3, 4, 4), constraint=0.5)  # which means nothing here
    parts = split(whole, pair)
    assert {path: part.weight_shape[0] for path, part in parts.items()} == {"one": 4, "two": 8}
    weight = torch.randn(12, WIDTH)
    assert torch.equal(torch.cat([parts["one"].delta(weight[:4]), parts["two"].delta(weight[4:])]), whole.delta(weight))
    assert join(parts, pair) == whole
    with pytest.raises(FormatError, match="in blocks of 4 rows cannot be cut"):
        split(whole, QKV)
