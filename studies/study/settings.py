"""Settings that a study fixes at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from studies.files.defaults import DEFAULT_CPU_PRECISION, DEFAULT_SAMPLER, DEFAULT_STOPPING

GAIN = "gain"  # the sampler by expected hypervolume improvement
MILP = "milp"  # designs of a pretrained model, solved for their scores

# fields of StudySettings that may not change when the study is resumed
FIXED = (
    "seed", "sampler", "stopping", "corpus", "tokenizer", "data_hash", "compile", "cpu_precision", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class StudySettings:
    """Settings that a study fixes at its start, in addition to its space; resuming with others is refused."""

    seed: int = 0
    sampler: str = DEFAULT_SAMPLER
    corpus: str = "builtin"
    tokenizer: str = "bpe:4096"
    data_hash: str = ""
    data_folder: str = ""
    stopping: str = DEFAULT_STOPPING
    compile: str = "auto"  # blocks: off, auto, max
    cpu_precision: str = DEFAULT_CPU_PRECISION  # of matrix products on a CPU: float32 or bfloat16
    threads: int = 1  # CPU threads per worker; another number would change the last bits of a loss
    rules: Mapping[str, str] = field(
        default_factory=dict
    )  # `studies.study.rules`, set when the study is made
