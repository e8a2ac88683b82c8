import pickle

import pytest
import torch

from engine.models.faults import DeviceFault, is_device_fault
from engine.models.loading_errors import loading_errors


def _raised(error: Exception, cause: Exception | None = None, during: Exception | None = None) -> Exception:
    try:
        if during is None:
            raise error from cause
        try:
            raise during
        except Exception:
            raise error  # noqa: B904 (the context is what is tested)
    except Exception as caught:
        return caught


FAULTS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cudaErrorECCUncorrectable: uncorrectable ECC error encountered"),
    RuntimeError("uncorrectable ECC error encountered"),
    RuntimeError("unspecified launch failure"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    DeviceFault("cuda:1", "CUDA error: unspecified launch failure"),
    _raised(ValueError("generator sd21 could not be loaded"), cause=RuntimeError("CUDA error: invalid device ordinal")),
    _raised(KeyError("latents"), during=RuntimeError("CUDA error: device-side assert triggered")),
]
OTHERS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("mat1 and mat2 must have the same dtype, but got Float and Half"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("the prompt says SPECCY"),
    ValueError("a prompt of the words CUDA error"),
    KeyError("CUDA error"),
    _raised(ValueError("it does not fit"), cause=torch.OutOfMemoryError("CUDA out of memory")),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", FAULTS, ids=str)
def test_errors_that_end_the_device_are_faults(error: BaseException):
    assert is_device_fault(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_none(error: BaseException):
    assert not is_device_fault(error)


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="this torch has no AcceleratorError")
def test_torchs_own_class_is_a_fault_whatever_it_says():
    assert is_device_fault(torch.AcceleratorError("something went wrong"))


def test_a_circle_of_errors_comes_to_an_end():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert not is_device_fault(one)


def test_a_fault_is_one_sentence_and_can_be_pickled():
    fault = DeviceFault("cuda:1", "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")
    assert str(fault) == (
        "the device cuda:1 failed (CUDA error: device-side assert triggered); a new process has to take over its work"
    )
    again = pickle.loads(pickle.dumps(fault))
    assert (type(again), str(again), again.device, again.reason) == (DeviceFault, str(fault), "cuda:1", fault.reason)
    assert str(DeviceFault("cuda")) == "the device cuda failed; a new process has to take over its work"


def test_loading_a_generator_hides_no_fault():
    fault = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError) as caught, loading_errors("generator", "sd21"):
        raise fault
    assert caught.value is fault
    with pytest.raises(ValueError, match="could not be loaded"), loading_errors("generator", "sd21"):
        raise RuntimeError("the file is cut off")
