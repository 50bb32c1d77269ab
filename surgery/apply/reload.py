"""The other side of `verify`: loads a model in a fresh process, outside the checkout.

Takes one JSON argument, and a line of JSON on its standard input once the model is written. Reads
prompts.safetensors from the current folder, writes logits.safetensors there, and prints one line of JSON.

Computes in float32. A large model stays mapped from its files, and is converted layer by layer.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MADV_DONTNEED = 4  # of Linux
HEAD_ROWS = 2048  # of the head that are converted at once


def main(settings: dict[str, Any]) -> dict[str, Any]:
    """Load the model, generate with a cache, and write the logits without one."""
    if settings["remote_code"]:
        sys.modules["surgery"] = None  # type: ignore[assignment] # an import of it now fails
    else:
        import surgery  # noqa: F401 (registers the model)

    gc.disable()  # what is imported is no garbage, and looking for some takes a third of the time
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, __version__
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(settings["threads"])
    disable_progress_bar()
    gc.enable()
    job = json.loads(sys.stdin.readline())
    if job["dtype"] != "float32":  # tensors in float32 would be rounded
        PreTrainedModel._keep_in_fp32_modules_strict = float32_tensors(job["folder"])
    model = AutoModelForCausalLM.from_pretrained(
        job["folder"], dtype=getattr(torch, job["dtype"]), trust_remote_code=settings["remote_code"]
    )
    if job["by_layer"]:
        compute_in_float32(model, job["folder"])
    # the checkpoint's own defaults may request sampling, several sequences or stop words
    model.generation_config = GenerationConfig()
    prompts = load_file("prompts.safetensors")["prompts"]
    with torch.inference_mode():
        tokens = model.generate(
            prompts, max_new_tokens=job["new_tokens"], do_sample=False, num_beams=1, eos_token_id=None,
            pad_token_id=0, attention_mask=torch.ones_like(prompts), use_cache=True,
        )  # fmt: skip
        logits = model(tokens[:, :-1], use_cache=False).logits.float()
    length = prompts.shape[1]
    save_file({"logits": logits[:, :length].contiguous()}, "logits.safetensors")
    equal = (tokens[:, length:] == logits[:, length - 1 :].argmax(-1)).long().cumprod(1).sum(1).min()
    return {"equal_tokens": int(equal), "transformers": __version__, "torch": torch.__version__}


def float32_tensors(folder: str) -> list[str]:
    """Return the names of the tensors that are stored in float32."""
    from safetensors import safe_open

    names = []
    for file in Path(folder).glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            names += [name for name in opened.keys() if opened.get_slice(name).get_dtype() == "F32"]  # noqa: SIM118 (not a mapping)
    return names


def compute_in_float32(model: Any, folder: str) -> None:
    """Let a model of any precision compute in float32, holding one layer at a time."""
    import torch

    buffers: dict[tuple[str, torch.Size], torch.Tensor] = {}
    mapped: dict[str, torch.Tensor] = {}

    def convert(layer: torch.nn.Module, _: Any) -> None:
        for name, parameter in layer.named_parameters():
            mapped[name] = parameter.data
            if parameter.dtype == torch.float32:
                continue
            if (buffer := buffers.get((name, parameter.shape))) is None:
                buffer = buffers[name, parameter.shape] = torch.empty(parameter.shape)
            parameter.data = buffer.copy_(parameter.data)

    def restore(layer: torch.nn.Module, *_: Any) -> None:
        for name, parameter in layer.named_parameters():
            parameter.data = mapped.pop(name)
        release_pages(folder)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        rows = model.get_output_embeddings().weight.split(HEAD_ROWS)
        return torch.cat([torch.nn.functional.linear(hidden, part.float()) for part in rows], -1)

    layers = list(layers_of(model))
    for layer in layers:
        layer.register_forward_pre_hook(convert)
        layer.register_forward_hook(restore)
    model.get_input_embeddings().register_forward_hook(lambda _, inputs, output: output.float())
    model.get_output_embeddings().forward = logits
    apart = {parameter for layer in layers for parameter in layer.parameters()}
    apart |= {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    for parameter in model.parameters():
        if parameter not in apart:
            parameter.data = parameter.data.float()


def layers_of(module: Any) -> Iterator[Any]:
    """Yield the modules of all outermost lists."""
    import torch

    for child in module.children():
        yield from child if isinstance(child, torch.nn.ModuleList) else layers_of(child)


def release_pages(folder: str) -> None:
    """Give back the memory of all mapped weights in the folder; what is used next is mapped again.

    Does nothing where there is no /proc.
    """
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            lines = [line for line in maps if line.endswith(".safetensors\n")]
    except OSError:
        return
    library = ctypes.CDLL(None)
    for line in lines:
        if f" {os.path.realpath(folder)}{os.sep}" in line:
            start, stop = (int(number, 16) for number in line.split(" ", 1)[0].split("-"))
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), MADV_DONTNEED)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))), flush=True)
    os._exit(0)  # to tear down all that was imported takes another second
