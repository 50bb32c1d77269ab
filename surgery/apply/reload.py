"""Script that `verify` runs in a fresh process, outside the checkout.

Takes one JSON argument, reads prompts.safetensors from the current folder, writes logits.safetensors there,
and prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Load the model, write its logits on the prompts, and generate with and without cache."""
    if job["remote_code"]:
        sys.modules["surgery"] = None  # type: ignore[assignment] # an import of it now fails
    else:
        import surgery  # noqa: F401 (registers the model)
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(job["threads"])
    transformers.utils.logging.disable_progress_bar()
    prompts = load_file("prompts.safetensors")["prompts"]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job["folder"], dtype=getattr(torch, job["dtype"]), trust_remote_code=job["remote_code"]
    )
    with torch.inference_mode():
        logits = model(prompts, use_cache=False).logits.float()
    save_file({"logits": logits.contiguous()}, "logits.safetensors")
    # the checkpoint's own defaults may request sampling, several sequences or stop words
    model.generation_config = transformers.GenerationConfig()
    settings = {
        "max_new_tokens": job["new_tokens"], "do_sample": False, "num_beams": 1, "eos_token_id": None,
        "pad_token_id": 0, "attention_mask": torch.ones_like(prompts[:1]),
    }  # fmt: skip
    cached = model.generate(prompts[:1], use_cache=True, **settings)[0]
    uncached = model.generate(prompts[:1], use_cache=False, **settings)[0]
    equal = (cached == uncached)[prompts.shape[1] :].long().cumprod(0).sum()
    return {"equal_tokens": int(equal), "transformers": transformers.__version__, "torch": torch.__version__}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
