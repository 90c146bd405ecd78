"""The search of the shipped agent as ONNX Runtime computes it, against torch on the same device."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import ezm_lightning
from benchmarks.gpu_check.finding import Finding, Sizes, relative_difference
from benchmarks.gpu_check.precision import AGENT
from benchmarks.measure import Timer
from ezm_lightning.export.graph import check_packages, write_graph
from ezm_lightning.export.search import SearchModule
from ezm_lightning.model import PackedModel

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
CLOSE = 1e-3


def findings(sizes: Sizes) -> Iterator[Finding]:
    """One root at a time, as a robot needs it."""
    what = f"A search of {AGENT} by ONNX Runtime"
    try:
        check_packages("onnx")
        import onnxruntime
    except ImportError as error:
        yield Finding("engines", what, "skipped", str(error))
        return
    provider = PROVIDERS[sizes.device]
    if provider not in onnxruntime.get_available_providers():
        yield Finding("engines", what, "skipped", f"this onnxruntime has no {provider}: pip install onnxruntime-gpu")
        return
    yield compared(what, provider, sizes)


def compared(what: str, provider: str, sizes: Sizes) -> Finding:
    """Both engines on one root with the same noise."""
    import onnxruntime

    actor: Any = ezm_lightning.load(AGENT).actor()
    planner, packed = actor.planner, PackedModel(actor.model.model, dtype="float32")
    module = SearchModule(planner, packed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "search.onnx"
        write_graph(module, file, {})
        session = onnxruntime.InferenceSession(file.read_bytes(), providers=[provider])
    noise = planner.sample_noise(packed, 1, torch.Generator().manual_seed(0), explore=False)
    obs, task = (
        torch.randn(1, packed.obs_mask.shape[1], generator=torch.Generator().manual_seed(0)),
        torch.zeros(1).long(),
    )
    names = {entry.name for entry in session.get_inputs()}
    feeds = {name: x.numpy() for name, x in {"obs": obs, "task": task, **vars(noise)}.items() if name in names}
    model = PackedModel(actor.model.model.to(sizes.device))
    there = [x.to(sizes.device) for x in (obs, task)], type(noise)(*(x.to(sizes.device) for x in vars(noise).values()))
    (action,) = session.run(["best_action"], feeds)
    difference = relative_difference(torch.from_numpy(action), planner(packed, obs, task, noise).best_action)
    timer = Timer(repeats=sizes.repeats, clock="wall", device=sizes.device)
    engine, eager = timer.medians(lambda: session.run(None, feeds), lambda: planner(model, *there[0], there[1]))
    return Finding(
        "engines",
        what,
        "ok" if difference <= CLOSE else "wrong",
        f"{engine:.2f} ms against {eager:.2f} ms by torch for one root; actions differ by {difference:.1e}."
        " `ezm export` writes such a graph",
        figures={"engine_ms": engine, "torch_ms": eager, "difference": difference},
    )
