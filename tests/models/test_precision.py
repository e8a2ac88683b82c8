"""A device gets the arithmetic it has in hardware."""

import pytest
import torch

from engine.models.precision import native_dtype


@pytest.mark.parametrize("wanted", ["float32", "float16", "bfloat16"])
def test_a_gpu_takes_what_is_asked(wanted: str):
    assert native_dtype(wanted, "cuda:1") == wanted


@pytest.mark.parametrize(
    ("features", "answer"),
    [({}, "float32"), ({"avx2": True}, "float32"), ({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "bfloat16"), ({"bf16": True}, "bfloat16")],
)  # fmt: skip
def test_a_processor_takes_bfloat16_if_it_has_it(
    features: dict[str, bool], answer: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert native_dtype("bfloat16", "cpu") == answer
    assert native_dtype("float16", "cpu") == "float32"
    assert native_dtype("float32", "cpu") == "float32"
