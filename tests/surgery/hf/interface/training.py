"""Rows: training, by hand and by the Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from tests.surgery.hf.interface.cases import TOKENS, Case, close
from tests.surgery.hf.interface.rows import Row

GROUP = "training"
TRAINER = "Trainer"
BATCH = torch.randint(3, 61, (4, 7), generator=torch.Generator().manual_seed(5))
RATE = 0.05


@contextmanager
def seeded(model: nn.Module) -> Iterator[None]:
    """The noise of every forward pass is the same, whatever was drawn before it."""
    handle = model.register_forward_pre_hook(lambda *_: torch.manual_seed(17) and None)
    try:
        yield
    finally:
        handle.remove()


def gradients(model: Any, ids: Tensor = TOKENS, **arguments: Any) -> dict[str, Tensor]:
    """Loss and gradients of a forward and a backward pass in training mode."""
    model.train()
    model.zero_grad()
    with seeded(model):
        loss = model(input_ids=ids, labels=ids, **arguments).loss
    loss.backward()
    result = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**result, "loss": loss.detach()}


def compared(result: dict[str, Tensor], expected: dict[str, Tensor], case: Case) -> None:
    """Tensors of two models of one class; of two classes the loss and the total."""
    if case.theirs is None:
        close(result, expected)
    else:
        for size in (lambda g: g["loss"], lambda g: sum(x.square().sum() for x in g.values())):
            close(size(result), size(expected))


def training_loss(case: Case) -> None:
    """Cross-entropy, and the auxiliary terms of the operators once."""
    result = gradients(case.ours)
    if case.theirs is not None:
        return compared(result, gradients(case.theirs), case)
    inner = case.ours.model
    inner.zero_grad()
    torch.manual_seed(17)
    auxiliary: list[Tensor] = []
    logits = inner.head(inner(TOKENS, losses=auxiliary))
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
    assert bool(auxiliary) == (case.column in ("HDPL", "S"))
    (loss + sum(auxiliary, torch.zeros(()))).backward()
    expected = {f"model.{name}": p.grad for name, p in inner.named_parameters() if p.grad is not None}
    return close(result, {**expected, "loss": (loss + sum(auxiliary, torch.zeros(()))).detach()})


def checkpointed(**settings: Any) -> Any:
    def check(case: Case) -> None:
        expected = [gradients(model) for model in case.both]
        for model in case.both:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
        assert case.ours.is_gradient_checkpointing
        close(gradients(case.ours), expected[0])
        if case.theirs is not None:
            compared(gradients(case.ours), gradients(case.theirs), case)
        case.ours.gradient_checkpointing_disable()
        close(gradients(case.ours), expected[0])

    return check


def recomputed(case: Case) -> None:
    """Every layer does run twice, but in the backward pass of the model alone."""
    calls: list[int] = []
    handles = [b.mixer.register_forward_hook(lambda *_: calls.append(1)) for b in case.ours.model.layers]
    gradients(case.ours)
    once = len(calls)
    case.ours.gradient_checkpointing_enable({"use_reentrant": False})
    gradients(case.ours)
    assert len(calls) == 3 * once
    for handle in handles:
        handle.remove()
    for model in case.both:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    case.same(lambda model: model(TOKENS, use_cache=True, labels=TOKENS).loss if seeds() else None)


def seeds() -> bool:
    torch.manual_seed(17)
    return True


def accumulated(case: Case) -> None:
    """Two batches that share `num_items_in_batch` are one batch of both, the auxiliary terms included."""
    if case.column == "HDPL":  # the noise of one batch is not that of two
        for name, parameter in case.ours.named_parameters():
            if "logvar.weight" in name:
                parameter.data.zero_()
            elif "logvar.bias" in name:
                parameter.data.fill_(-30)
    whole = gradients(case.ours, BATCH)
    halves = [gradients(case.ours, half, num_items_in_batch=24) for half in BATCH.split(2)]
    close({name: halves[0][name] + halves[1][name] for name in whole}, whole)
    if case.theirs is not None:
        theirs = [gradients(case.theirs, half, num_items_in_batch=24)["loss"] for half in BATCH.split(2)]
        close(halves[0]["loss"] + halves[1]["loss"], theirs[0] + theirs[1])


def frozen_embeddings(case: Case) -> None:
    """PEFT's training: no gradient reaches the embeddings, which are hooked to let it pass."""
    for model in case.both:
        model.requires_grad_(False)
        model.get_output_embeddings().weight.requires_grad_(True)
        next(p for name, p in model.named_parameters() if "norm" in name).requires_grad_(True)
    expected = gradients(case.ours)
    for model in case.both:
        model.gradient_checkpointing_enable({"use_reentrant": True})
        model.enable_input_require_grads()
    close(gradients(case.ours), expected)
    if case.theirs is not None:
        compared(gradients(case.ours), gradients(case.theirs), case)


def trained(model: Any, **settings: Any) -> dict[str, Tensor]:
    """Loss and parameters after the Trainer's steps over BATCH."""
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):  # type: ignore[misc]
        """Without shuffling: the noise of a row is that of its place in the batch."""

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(data)

    data = [{"input_ids": row, "labels": row} for row in BATCH]
    with TemporaryDirectory() as folder, seeded(model):
        arguments = TrainingArguments(
            output_dir=folder, optim="sgd", learning_rate=RATE, lr_scheduler_type="constant", report_to=[],
            num_train_epochs=1, save_strategy="no", disable_tqdm=True, use_cpu=True, max_grad_norm=0.0,
            logging_strategy="no",
            **{"per_device_train_batch_size": 4, **settings},
        )  # fmt: skip
        trainer = InOrder(model=model, args=arguments, train_dataset=data)
        loss = trainer.train().training_loss
    return {**{name: p.detach().clone() for name, p in model.named_parameters()}, "loss": torch.tensor(loss)}


def by_hand(model: Any) -> dict[str, Tensor]:
    """One step of SGD over BATCH."""
    loss = gradients(model, BATCH)["loss"]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad
    return {**{name: p.detach().clone() for name, p in model.named_parameters()}, "loss": loss.detach()}


def trainer(**settings: Any) -> Any:
    """The Trainer's step is the one made by hand, and Llama's."""

    def check(case: Case) -> None:
        expected = by_hand(case.fresh().ours)
        if "gradient_accumulation_steps" in settings and case.column == "HDPL":
            expected = by_hand_in_halves(case.fresh().ours)
        close(trained(case.ours, **settings), expected)
        if case.theirs is not None:
            close(trained(case.theirs, **settings)["loss"], expected["loss"])

    return check


def by_hand_in_halves(model: Any) -> dict[str, Tensor]:
    """The step over the mean of two halves, each with the noise of a pass of its own."""
    halves = [gradients(model, half) for half in BATCH.split(2)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= RATE * (halves[0][name] + halves[1][name]) / 2
    loss = (halves[0]["loss"] + halves[1]["loss"]) / 2
    return {**{name: p.detach().clone() for name, p in model.named_parameters()}, "loss": loss}


def evaluated(case: Case) -> None:
    """`evaluate` and `predict` give the loss and the logits, and no cache."""
    from transformers import Trainer, TrainingArguments

    data = [{"input_ids": row, "labels": row} for row in BATCH]

    def run(model: Any) -> Any:
        with TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder, report_to=[], use_cpu=True, disable_tqdm=True, per_device_eval_batch_size=2
            )
            result = Trainer(model=model, args=arguments, eval_dataset=data).predict(data)
        assert result.predictions.shape == (4, 7, 61)
        return [torch.tensor(result.predictions), result.metrics["test_loss"]]

    def plainly(model: Any) -> Any:
        model.eval()
        with torch.no_grad():
            output = model(input_ids=BATCH, labels=BATCH)
        return [output.logits, float(output.loss)]

    case.same(run, run if case.theirs is not None else plainly)


def smoothed(case: Case) -> None:
    """The Trainer takes this loss from the logits, and shifts labels for models that it knows as causal."""
    eps = 0.2

    def plainly(model: Any) -> Tensor:
        model.train()
        with seeded(model), torch.no_grad():
            logs = model(input_ids=BATCH).logits[:, :-1].log_softmax(-1)
        of_labels = logs.gather(-1, BATCH[:, 1:, None]).mean()
        return -(1 - eps) * of_labels - eps * logs.mean()

    result = trained(case.fresh().ours, label_smoothing_factor=eps)["loss"]
    close(result, plainly(case.fresh().ours))
    if case.theirs is not None:
        close(result, trained(case.theirs, label_smoothing_factor=eps)["loss"])


ROWS = [
    Row(GROUP, "labels in training mode", training_loss,
        "loss and gradients: cross-entropy, and the auxiliary terms of HDPL and S once"),
    Row(GROUP, "gradient_checkpointing_enable, use_reentrant=False", checkpointed(use_reentrant=False),
        "gradients, with the same noise and auxiliary terms"),
    Row(GROUP, "gradient_checkpointing_enable, use_reentrant=True", checkpointed(use_reentrant=True),
        "gradients, with the same noise and auxiliary terms"),
    Row(GROUP, "gradient_checkpointing_enable, use_cache=True", recomputed,
        "loss; nothing is cached, with a warning, as in Llama"),
    Row(GROUP, "enable_input_require_grads", frozen_embeddings, "gradients with frozen embeddings"),
    Row(GROUP, "num_items_in_batch", accumulated,
        "two batches are one of both; their auxiliary terms are weighted by their labels"),
    Row(TRAINER, "train", trainer(), "parameters after a step by hand", needs="accelerate"),
    Row(TRAINER, "gradient_checkpointing", trainer(gradient_checkpointing=True),
        "parameters after a step by hand", needs="accelerate"),
    Row(TRAINER, "gradient_accumulation_steps",
        trainer(gradient_accumulation_steps=2, per_device_train_batch_size=2),
        "parameters after a step over both halves", needs="accelerate"),
    Row(TRAINER, "evaluate, predict", evaluated, "loss and logits", needs="accelerate"),
    Row(TRAINER, "label_smoothing_factor", smoothed,
        "the loss is taken from the logits of shifted labels, and lacks the auxiliary terms of HDPL and S",
        needs="accelerate"),
]  # fmt: skip
