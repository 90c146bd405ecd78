"""Gradients are clipped in every precision, those of fused optimisers too, which Lightning refuses in bf16."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.nn.utils import get_total_norm

from ezm_lightning.commands import train
from ezm_lightning.module import EZM
from tests.runs.short import SIZE, budget

CLIP = 0.01


@pytest.fixture
def largest_norm(monkeypatch, tmp_path):
    """The largest norm of a gradient that an optimiser stepped along, of all updates of a short run."""

    def run(*overrides):
        norms = []

        def configured(self, configure=EZM.configure_optimizers):
            found = configure(self)
            weights = list(self.model.parameters())
            found["optimizer"].register_step_post_hook(
                lambda *_: norms.append(float(get_total_norm([p.grad for p in weights if p.grad is not None])))
            )
            return found

        monkeypatch.setattr(EZM, "configure_optimizers", configured)
        assert train.main([*SIZE, budget(3), f"hydra.run.dir={tmp_path}/run", *overrides]) == 0
        assert len(norms) == 3
        return max(norms)

    return run


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped(largest_norm, precision, fused):
    settings = [f"trainer.precision={precision}", f"+module.optimizer.fused={fused}"]
    assert 0 < largest_norm(*settings, f"trainer.gradient_clip_val={CLIP}") <= CLIP * (1 + 1e-4)


@pytest.mark.filterwarnings("ignore")
def test_without_a_limit_they_are_not(largest_norm):
    assert largest_norm("trainer.gradient_clip_val=null", "trainer.precision=bf16-mixed") > 10 * CLIP


@pytest.mark.filterwarnings("ignore")
def test_scaled_gradients_of_a_fused_optimiser_are_refused(make_model):
    """As Lightning does: it would clip what the optimiser has still to scale back."""
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    optimizer = torch.optim.Adam(make_model().parameters(), fused=True)
    module = EZM.__new__(EZM)
    L.LightningModule.__init__(module)
    module._trainer = SimpleNamespace(
        precision_plugin=precision, gradient_clip_val=None, gradient_clip_algorithm="norm"
    )
    with pytest.raises(RuntimeError, match="fused"):
        module.configure_gradient_clipping(optimizer, 5.0, "norm")
