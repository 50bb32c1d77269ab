"""Small valid inputs of every kind, made once for a run: a text, models, tokenizers, a study."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from tests.llama import save_random_llama

SPACE = """\
# a space that trains in a moment
name: micro
backbone: {vocab_size: 300, dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, ffn_dim: 64,
           tie_embeddings: true}
search:
  mixers.ratio: {full: [1, 2], gdn: [0, 2], window: [0, 1]}
  mixers.window.window: {choice: [8, 16]}
  hdpl.projections: {subset: [q, v, gate, up]}
  hdpl.blocks: {choice: [2, 4]}
  hdpl.rank: {choice: [4, 8]}
  hdpl.kl_weight: {log: [1e-5, 1e-1]}
  hdpl.kl: mean
  loop.count: {range: [1, 3]}
constraints: ["params <= 60k"]
objectives: {val_loss: min, params: min, decode_flops@256: min}
baselines: [dense, hdpl-paper]
proxy: {tokens: 1024, seq_len: 32, batch_tokens: 256, rungs: [0.5, 1.0], lr: 3e-3, eval_tokens: 512}
data: {corpus: builtin, tokenizer: "bpe:300"}
"""
ARCHITECTURE = """\
backbone: {vocab_size: 300, dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 16,
           ffn_dim: 64, rope_theta: 10000, norm_eps: 1.0e-6, tie_embeddings: true}
layout: FG
mixers: {F: [{layers: "0", kv_heads: 2}], G: {expand_v: 2, conv_size: 4}}
ffn: [{layers: "1", dim: 48}]
projections:
  - {match: [q, gate], layers: "0", operator: hdpl, blocks: 2, rank: 8, kl_weight: 1.0e-3, kl: mean}
  - {match: all, operator: dense}
loop: {count: 2, windows: [16, full]}
"""
# of the size of the Llama below, whose sizes it leaves to the model
DESIGN = """\
projections:
  - {match: [q, gate], layers: "0-1", operator: hdpl, blocks: 2, rank: 8, kl: mean}
loop: {count: 1}
"""
TOKENS = 300


def build(home: Path) -> None:
    """Write all inputs below `home`: corpus/, prepared/, ours/, llama/, runs/micro/, and the YAML files."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from search_spaces import parse_space
    from studies.data import open_corpus, prepare
    from studies.study import Study
    from studies.study.settings import StudySettings
    from studies.workers.worker import work
    from surgery.architecture import Architecture
    from surgery.hf.export import write
    from surgery.hf.lazy import LazyModel
    from surgery.model import HybridLM

    torch.set_num_threads(1)
    (home / "space.yaml").write_text(SPACE)
    (home / "arch.yaml").write_text(ARCHITECTURE)
    (home / "design.yaml").write_text(DESIGN)
    texts = [text[:600] for text in islice(open_corpus("builtin").texts(), 60)]
    corpus = home / "corpus"
    corpus.mkdir()
    rows = [json.dumps({"text": text, "id": number}) for number, text in enumerate(texts)]
    (corpus / "a.jsonl").write_text("\n".join(rows[:40]) + "\n")
    (corpus / "b.txt").write_text("\n<|endoftext|>\n".join(texts[40:50]))
    pq.write_table(pa.table({"text": texts[50:], "id": list(range(len(texts) - 50))}), corpus / "c.parquet")
    data = prepare(
        str(corpus / "a.jsonl"), f"bpe:{TOKENS}", home / "prepared", val_fraction=0.3, min_val_tokens=1
    )

    torch.manual_seed(0)
    architecture = Architecture.from_yaml(home / "arch.yaml")
    (home / "ours").mkdir()
    write(LazyModel.of(HybridLM(architecture).eval()), home / "ours", tokenizer_dir=data.tokenizer_dir)
    save_random_llama(home / "llama", data.tokenizer_dir.iterdir(), TOKENS)

    settings = StudySettings(
        sampler="random", corpus=str(home / "prepared"), tokenizer=f"bpe:{TOKENS}",
        data_hash=data.content_hash, data_folder=str(home / "prepared"),
    )  # fmt: skip
    study = Study.create("micro", parse_space(SPACE, "space.yaml"), settings, home / "runs")
    work(study, target=4, device="cpu", log=lambda line: None)
    study.write_front()
