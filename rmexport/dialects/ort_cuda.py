"""ONNX Runtime on NVIDIA GPUs, in the bundle's own dtype: attention by rows, for every dtype and head size."""

from typing import ClassVar

from rmexport.dialects._ort_cuda_base import OrtCudaBase


class OrtCuda(OrtCudaBase):
    """What the CUDA provider's kernels take; every node has one."""

    NAME: ClassVar[str] = "ort-cuda"
    TAKES_PAST: ClassVar[bool] = True
    ROW_GROUPS: ClassVar[int] = 3  # short keys are not padded to the longest

    @classmethod
    def compute_dtypes(cls, bundle_dtype: str) -> tuple[str, ...]:
        return (bundle_dtype,)
