"""Names of the attributes that nas writes on Optuna's trials and studies."""

from __future__ import annotations

# Names of the trial's user attributes. They are what Optuna Dashboard shows, so they are words.
ARCHITECTURE, LINE, HASH = "architecture", "line", "hash"


BASELINE, WORKER, SEEDS, REASON, DUPLICATE = "baseline", "worker", "seeds", "reason", "duplicate_of"


METRICS, ENVIRONMENT, SECONDS = "metrics", "environment", "seconds"


SUGGESTED_BY = "suggested_by"  # baseline, random (also while a sampler starts up) or the sampler's name


DEATHS = "deaths"  # workers that were killed while they had the trial


RUNGS = "rungs"  # held-out losses at the rungs reached


STEPS = "steps"  # of the whole run, where the budget is time


TOKENS, MEASURED = "tokens", "measured"  # trained on, and the other metrics, so far


STOPPED_AT, PASSED = "stopped_at_rung", "promoted_past_rung"  # rungs counted from 1


REPEAT_OF, REPEAT = "repeat_of", "repeat"  # the trial that this one trains again; 1-based repeat index


CONFIRMS = "confirms"  # 1-based index of a replicate that confirms a choice and has no part in one


ATTRIBUTE = "nas"  # of the Optuna study: everything a worker on another machine needs; written last


# system attributes of the Optuna study, which Optuna Dashboard does not show
LATENCY = "nas:latency"  # the machine that the study's block times are of
BLOCK_TIME = "nas:time "  # first part of the name of each block's time
PICK = "nas:pick "  # first part of the name of each pick, before the number of its trial


MARK = "nas:made"  # of the Optuna study: the process that made it; written first
