"""Triton kernels recorded as they are launched, and translated for an H100 without one."""

from __future__ import annotations

from typing import Any

Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]


class Recorder:
    """Stands in for a kernel and keeps how it was launched."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Any:
        return lambda *tensors, **options: self.launches.append((self.kernel, tensors, options))


def translated(kernel: Any, tensors: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The kernel as just-in-time compilation would make it for these arguments on an H100."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    dtypes = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64", torch.uint8: "*u8"}
    names = list(kernel.arg_names)
    given = dict(zip(names, tensors, strict=False)) | {k: v for k, v in options.items() if k in names}
    constants = {name: value for name, value in given.items() if name.isupper() or name[:-1].isupper()}
    signature, attributes = {}, {}
    for index, name in enumerate(names):
        value = given[name]
        if name in constants or value is None:
            signature[name], constants[name] = "constexpr", value
        elif hasattr(value, "block_shape"):  # read by tiles
            signature[name] = f"tensordesc<{dtypes[value.base.dtype][1:]}{list(value.block_shape)}>"
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(index,)] = dtypes[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
            known = name not in (kernel.do_not_specialize or ())
            if known and isinstance(value, int) and value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, {(names.index(k),): v for k, v in constants.items()}, attributes)
    launch = {name: options[name] for name in ("num_warps", "num_stages")}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch)
