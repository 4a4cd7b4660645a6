"""Names of floating-point types."""

import pytest
import torch

from lorica.dtypes import DTYPES, dtype_named
from lorica.errors import UnknownNameError


@pytest.mark.parametrize("name", DTYPES)
def test_a_type_is_found_by_its_long_and_its_short_name(name: str) -> None:
    long = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(name, name)
    assert dtype_named(name) is getattr(torch, long)


def test_no_name_leaves_the_choice_open() -> None:
    assert dtype_named(None) is None


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown dtype 'float17'.*float16"):
        dtype_named("float17")
