"""The comparison of a model with its teacher, against PyTorch's losses in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from studies.library.divergence import CHUNK_LOGITS, TeacherLogits, compare


@pytest.mark.parametrize("spread", [1e-3, 1.0, 100.0])
def test_losses_and_divergences_of_tokens(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", 300)  # three tokens at a time
    wanted, head = torch.randn(2, 7, 16), torch.randn(100, 16)
    hidden, targets = wanted + spread * torch.randn(2, 7, 16), torch.randint(100, (2, 7))
    log_p, log_q = ((states.double() @ head.double().T).log_softmax(-1) for states in (wanted, hidden))
    teacher = TeacherLogits(wanted, head, keep=6 * 100 * 4)  # of two chunks
    compare(wanted, teacher, targets)
    result = compare(hidden, teacher, targets)
    loss = F.nll_loss(log_q.flatten(0, 1), targets.flatten(), reduction="none").view(2, 7)
    kl = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(result.loss.double(), loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.kl.double(), kl, rtol=1e-4, atol=1e-6)
    change = (log_p.exp() * ((hidden - wanted).double() @ head.double().T)).sum(-1)
    torch.testing.assert_close(result.change.double(), change, rtol=1e-4, atol=1e-5)
