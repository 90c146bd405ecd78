"""Each way to compile a search and an update against eager execution: equal results, and the time that is saved."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from benchmarks.gpu_check.agreement import SAME_ACTIONS, chosen, gradient, woken
from benchmarks.gpu_check.finding import Finding, Sizes, relative_difference
from benchmarks.measure import Timer
from benchmarks.sizes import config, make_learner, planner_of, roots
from benchmarks.update import Update, update_of
from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.errors import first_line

GAIN = 0.9  # of the eager time; compiling must be faster than this
SAME_GRADIENT = 0.05  # relative difference, in the precision of training


def findings(sizes: Sizes) -> Iterator[Finding]:
    """Every mode for searches, then for updates."""
    cfg = config(sizes.largest, *sizes.overrides, device=sizes.device)
    for options in sizes.compile:
        yield tried("planner", options, lambda options=options: search(cfg, options, sizes))
    for options in sizes.compile:
        yield tried("module", options, lambda options=options: update(cfg, options, sizes))


def tried(what: str, options: dict[str, Any], compare: Callable[[], Finding]) -> Finding:
    """The finding of a comparison; an option that does not compile is no failure of the check."""
    try:
        return compare()
    except Exception as error:  # whatever a compiler raises
        result = f"does not compile: {first_line(error.__cause__ or error)}"
        return Finding("compile", title(what, options), "look", result, f"{what}.compile=null")
    finally:
        torch.compiler.reset()


def title(what: str, options: dict[str, Any]) -> str:
    mode = options.get("mode") or options["backend"]
    return f"{ {'planner': 'Searches', 'module': 'Updates'}[what] } compiled with {mode}"


def override(what: str, options: dict[str, Any]) -> str:
    """'planner.compile={mode: default, dynamic: false}', quoted for a shell."""
    inside = ", ".join(f"{key}: {str(value).lower()}" for key, value in options.items())
    return f"'{what}.compile={{{inside}}}'"


def search(cfg: DictConfig, options: dict[str, Any], sizes: Sizes) -> Finding:
    """Plans for every simulator of the preset, at the same noise."""
    module = woken(make_learner(cfg, sizes.device)).eval()
    slots = len(resolve_tasks(list(cfg.tasks.names))) * cfg.envs_per_task
    obs, task = roots(cfg, slots, sizes.device)
    packed, eager, compiled = module.target.search_form, planner_of(cfg), planner_of(_with(cfg, "planner", options))
    noise = eager.sample_noise(packed, slots, torch.Generator(device=sizes.device).manual_seed(0), explore=False)
    expected = eager(packed, obs, task, noise)
    seconds, plan = _first(lambda: compiled(packed, obs, task, noise), sizes)
    same = (chosen(plan) == chosen(expected)).double().mean().item()
    times = Timer(repeats=sizes.repeats, clock="wall", device=sizes.device).medians(
        lambda: compiled(packed, obs, task, noise), lambda: eager(packed, obs, task, noise)
    )
    return judged("planner", options, times, seconds, same >= SAME_ACTIONS, f"{same:.1%} of {slots} roots agree")


def update(cfg: DictConfig, options: dict[str, Any], sizes: Sizes) -> Finding:
    """Updates of the preset's batch on given targets; gradients are compared on the same batch and noise."""
    calls = [
        update_of(config, woken(make_learner(config, sizes.device)), cfg.batch_size, sizes.device)
        for config in (_with(cfg, "module", options), cfg)
    ]
    calls[1].batch, calls[1].targets = calls[0].batch, calls[0].targets
    seconds, mine = _first(lambda: _gradient(calls[0]), sizes)
    difference = relative_difference(mine, _gradient(calls[1]))
    times = Timer(repeats=sizes.repeats, clock="wall", device=sizes.device).medians(*calls)
    result = f"gradients differ by {difference:.1e}"
    return judged("module", options, times, seconds, difference <= SAME_GRADIENT, result)


def _with(cfg: DictConfig, what: str, options: dict[str, Any]) -> DictConfig:
    changed = copy.deepcopy(cfg)
    changed[what].compile = options
    return changed


def _gradient(call: Update) -> Tensor:
    call()
    return gradient(call.module)


def _first(call: Callable[[], Any], sizes: Sizes) -> tuple[float, Any]:
    """Seconds of the first call, which compiles, and its result."""
    start = time.perf_counter()
    result = call()
    if sizes.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def judged(
    what: str, options: dict[str, Any], times: list[float], seconds: float, same: bool, agreement: str
) -> Finding:
    """The verdict of one mode."""
    compiled, eager = times
    gains = compiled <= GAIN * eager
    verdict = "look" if not same else "faster" if gains else "ok"
    typed = f"{what}.compile=null" if not same else override(what, options) if gains else ""
    result = f"{compiled:.2f} ms against {eager:.2f} ms eager, after {seconds:.0f} s of compiling; {agreement}"
    figures = {"compiled_ms": compiled, "eager_ms": eager, "compile_s": seconds}
    return Finding("compile", title(what, options), verdict, result, typed, figures)
