"""Calibration text, losses before and after a surgery, and healing by further training, for `nas apply`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

import torch

from studies.data import TextTokenizer, TokenData, open_corpus
from studies.data.prepared import is_prepared
from studies.data.request import default_val_fraction, is_held_out
from studies.training.loop import Progress, TrainResult, check_data, train
from studies.training.settings import TrainSettings
from studies.training.validation import Evaluation, evaluate
from surgery.apply.execute import execute
from surgery.apply.plan import plan
from surgery.apply.source import SourceModel
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.hf.card import table
from surgery.model import HybridLM

CALIBRATION_BYTES = 32 * 2**10  # of text, about 8,000 tokens
EVAL_TOKENS = 32_768


def check_text(data: str, option: str) -> None:
    """Check that a corpus or prepared folder can be opened, without reading its text.

    Raises:
        UserError: no such text; the problem names the option.
    """
    if is_prepared(data):
        return
    try:
        open_corpus(data)
    except UserError as error:
        problems = [replace(problem, field=option) if problem.field == "data" else problem
                    for problem in error.problems]  # fmt: skip
        raise UserError(error.title, problems) from error


def calibration_texts(data: str, size: int = CALIBRATION_BYTES) -> list[str]:
    """Return the first documents of a corpus that are not held out, up to `size` bytes.

    Raises:
        UserError: no such corpus, or no text in it.
    """
    texts: list[str] = []
    left = size
    for text in _training_texts(data):
        texts.append(text.encode()[:left].decode(errors="ignore"))
        left -= len(text.encode())
        if left <= 0:
            break
    if not any(texts):
        raise UserError("can't calibrate", [Problem("--calibrate", data, "holds no text")])
    return texts


@dataclass(frozen=True)
class Healing:
    """Held-out losses of the original model, after the surgery, and after healing (None without healing)."""

    original: Evaluation
    before: Evaluation
    after: TrainResult | None
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return the losses as plain JSON values."""
        return {
            "text": self.text,
            "original": asdict(self.original),
            "before": asdict(self.before),
            "after": asdict(self.after) if self.after is not None else None,
        }


class Healer:
    """Measurement and further training of a rewritten model; pass it to `surgery.apply` as `heal`.

    Args:
        data: tokens by the model's own tokenizer.
        settings: of the training; None measures only.
        on_step: called with the progress of the training.
        on_stage: called with the progress of the measurement (stage, done, total).
        on_loss: called with each held-out loss once it is measured (model, nats/token, bits/byte).

    Raises:
        UserError: text and model don't fit.
    """

    def __init__(
        self,
        source: SourceModel,
        data: TokenData,
        settings: TrainSettings | None,
        *,
        seq_len: int,
        seed: int,
        device: torch.device,
        on_step: Callable[[Progress], None] | None = None,
        on_stage: Callable[[str, int, int], None] = lambda stage, done, total: None,
        on_loss: Callable[[str, float, float], None] = lambda what, loss, bpb: None,
    ) -> None:
        self.source, self.data, self.settings, self.seq_len = source, data, settings, seq_len
        self.seed, self.device = seed, device
        self.on_step, self.on_stage, self.on_loss = on_step, on_stage, on_loss
        self.healing: Healing | None = None
        longest = source.backbone.max_position_embeddings
        if seq_len > longest:
            rule = f"exceeds the model's context of {longest} tokens"
            raise UserError("model and data don't fit", [Problem("--seq-len", seq_len, rule, "give fewer")])
        check_data(data, settings or self._measuring(), source.backbone.vocab_size)

    def __call__(self, model: HybridLM) -> str:
        """Train in float32 and restore every tensor's dtype. Returns Markdown for the model card."""
        original = self._loss("original", self._original())
        dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        model.float()
        before = self._loss("rewritten", model)
        after = None
        if self.settings is not None:
            after = train(
                model, self.data, self.settings, seed=self.seed, device=self.device, on_step=self.on_step
            )
            self.on_loss("healed", after.val_loss, after.val_bpb)
        model.cpu().eval()
        _cast(model, dtypes)
        self.healing = Healing(original, before, after, str(self.data.meta["corpus"]["spec"]))
        return self._card(self.healing)

    def _original(self) -> HybridLM:
        """Return the original model, as the result of a surgery into its own architecture."""
        model, _ = execute(self.source, plan(self.source, self.source.architecture))
        return model.float()

    def _loss(self, what: str, model: HybridLM) -> Evaluation:
        settings = self.settings or self._measuring()
        available = self.data.num_sequences("val", self.seq_len)
        sequences = min(available, max(1, settings.eval_tokens // self.seq_len))
        batches = -(-sequences // (settings.batch_tokens // self.seq_len))
        done = count()
        result = evaluate(
            model.to(self.device), self.data, seq_len=self.seq_len, max_tokens=settings.eval_tokens,
            batch_tokens=settings.batch_tokens, device=self.device,
            on_batch=lambda: self.on_stage(f"loss of the {what} model, batch", next(done), batches),
        )  # fmt: skip
        self.on_loss(what, result.val_loss, result.val_bpb)
        return result

    def _measuring(self) -> TrainSettings:
        return TrainSettings(
            tokens=self.seq_len, seq_len=self.seq_len, batch_tokens=self.seq_len, eval_tokens=EVAL_TOKENS
        )

    def _card(self, healing: Healing) -> str:
        def row(name: str, result: Evaluation | TrainResult) -> list[str]:
            return [name, f"{result.val_loss:.4f}", f"{result.val_bpb:.4f}"]

        rows = [row("the model as it was", healing.original), row("rewritten", healing.before)]
        text = "Not trained after the surgery."
        if healing.after is not None and self.settings is not None:
            rows.append(row("healed", healing.after))
            settings = self.settings
            text = (
                f"Healed on {healing.after.tokens:,} tokens of {healing.text}: sequences of {self.seq_len}, "
                f"steps of {settings.batch_tokens:,} tokens, peak learning rate {settings.lr:g}, "
                f"seed {self.seed}."
            )
        losses = table(["model", "loss (nats/token)", "bits/byte"], rows)
        return f"## Loss on held-out text of {healing.text}\n\n{losses}\n\n{text}"


def _cast(model: HybridLM, dtypes: dict[str, torch.dtype]) -> None:
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def _training_texts(data: str) -> Iterator[str]:
    if is_prepared(data):
        prepared = TokenData.open(expand(data))
        view = prepared.tokens("train")
        yield TextTokenizer.open(prepared.tokenizer_dir).decode(view[: min(len(view), CALIBRATION_BYTES)])
        return
    corpus = open_corpus(data)
    fraction = default_val_fraction(corpus)
    yield from (text for text in corpus.texts() if not is_held_out(text, fraction))
