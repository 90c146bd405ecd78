"""Compares searches on a toy model with reference files: ``python -m tests.golden.search tests/golden/searches``.

Every ``*.npz`` of the folder holds inputs and expected outputs; ``tests/golden/searches/README.md`` has the format.
Our rule and the paper's rule are checked in both forms of the search. The live rule is checked in the sequential form.
Values must agree to 1e-9, visit counts and the best candidate exactly. The authors' float32 tree is compared with the
live rule and only reported, because float32 may break a tie in another way. The exit status is 0 if all searches agree,
else 1.
"""

import argparse
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ezm_lightning.search import RecurrentFn, RecurrentOutput, RootOutput, SearchResult, gumbel_search, prior_score
from tests.search.sequential import each_simulation, sequential_search

Case = dict[str, Tensor]
VALUES = ("search_value", "qvalues", "scores")
CHECKS: dict[str, tuple[str, Callable[..., SearchResult], dict[str, Callable]]] = {
    "round": ("round", gumbel_search, {}),
    "round, sequential": ("round", sequential_search, {}),
    "prior_rule": ("prior_rule", gumbel_search, {"inner_score": prior_score}),
    "prior_rule, sequential": ("prior_rule", sequential_search, {"inner_score": prior_score}),
    "live, sequential": ("live", sequential_search, {"look_at_bounds": each_simulation}),
}


def load_case(path: Path) -> Case:
    """The arrays of one file; a ValueError names a file that cannot be read or lacks an array."""
    try:
        with np.load(path) as arrays:
            case = {name: torch.as_tensor(arrays[name]) for name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz ({error})") from error
    names = ["ws", "wa", "b", "wr", "wv", "wp", "bp", "value_scale", "reward_scale", "clip_value"]
    needed = [f"toy_{name}" for name in names]
    needed += ["num_simulations", "max_num_considered_actions", "c_visit", "c_scale", "discount", "min_range"]
    needed += ["root_latent", "root_value", "root_candidates", "node_noise", "std_multiplier", "gumbel"]
    needed += [
        f"{rule}_{name}" for rule in ("round", "prior_rule", "live") for name in (*VALUES, "best", "visit_counts")
    ]
    missing = [name for name in needed if name not in case]
    if missing:
        raise ValueError(f"{path}: not a golden search, it lacks {', '.join(missing)}")
    return case


def toy_model(case: Case) -> RecurrentFn:
    """The file's model: a step of the latent, reward, value, and candidates from the noise of the node."""
    toy = {name.removeprefix("toy_"): value for name, value in case.items() if name.startswith("toy_")}

    def recurrent_fn(embedding: dict[str, Tensor], candidate: Tensor, simulations: range) -> RecurrentOutput:
        action = torch.take_along_dim(embedding["candidates"], candidate[..., None, None], 2).squeeze(2)
        latent = embedding["latent"]
        latent = torch.tanh(torch.sin(toy["ws"] * latent + toy["b"]) + action @ toy["wa"].T + 0.3 * latent.roll(1, -1))
        reward = toy["reward_scale"] * torch.sin(1.3 * (latent * toy["wr"]).sum(-1))
        value = toy["value_scale"] * (torch.sin((latent * toy["wv"]).sum(-1)) + 0.5)
        if toy["clip_value"]:
            value = value.clamp_min(0)
        mean, raw = torch.sin(latent @ toy["wp"].T + toy["bp"]).unsqueeze(2).chunk(2, -1)
        scale = torch.exp(-10 + 6 * (raw.tanh() + 1)) * case["std_multiplier"][:, None]
        noise = case["node_noise"][:, simulations.start : simulations.stop]
        candidates = torch.tanh(mean + noise * scale).clamp(-0.999, 0.999)
        return RecurrentOutput(
            reward, value, torch.zeros_like(candidates[..., 0]), {"latent": latent, "candidates": candidates}
        )

    return recurrent_fn


def run_case(case: Case, search: Callable[..., SearchResult], **functions: Callable) -> SearchResult:
    """What a search finds on the file's inputs."""
    embedding = {"latent": case["root_latent"], "candidates": case["root_candidates"]}
    root = RootOutput(torch.zeros_like(case["gumbel"]), case["root_value"], embedding)
    return search(
        root,
        toy_model(case),
        num_simulations=int(case["num_simulations"]),
        max_num_considered_actions=int(case["max_num_considered_actions"]),
        discount=float(case["discount"]),
        gumbel=case["gumbel"],
        c_visit=float(case["c_visit"]),
        c_scale=float(case["c_scale"]),
        min_range=float(case["min_range"]),
        **functions,
    )


def disagreements(result: SearchResult, case: Case, rule: str, tolerance: float = 1e-9) -> Tensor:
    """[B] bool: where the result is not what the file says under this rule. A NaN disagrees."""
    wrong = result.best_candidate != case[f"{rule}_best"]
    for name in VALUES:
        close = torch.isclose(getattr(result, name), case[f"{rule}_{name}"], rtol=0, atol=tolerance)
        wrong = wrong | ~close.reshape(len(wrong), -1).all(-1)
    if f"{rule}_visit_counts" in case:
        wrong = wrong | (result.visit_counts != case[f"{rule}_visit_counts"]).any(-1)
    return wrong


def check(case: Case, name: str) -> Tensor:
    """[B] bool: where this check fails."""
    rule, search, functions = CHECKS[name]
    return disagreements(run_case(case, search, **functions), case, rule)


def float32_ties(case: Case) -> Tensor:
    """[B] bool: where the authors' float32 tree went another way than the live rule."""
    live = run_case(case, sequential_search, look_at_bounds=each_simulation)
    scale = max(1.0, float(case["authors_qvalues"].abs().max()))
    return disagreements(live, case, "authors", tolerance=1e-5 * scale)


def find_files(directory: Path) -> list[Path]:
    """The files to check; a ValueError if there are none."""
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory")
    files = sorted(directory.glob("*.npz"))
    if not files:
        raise ValueError(f"{directory}: holds no *.npz file")
    return files


def main(arguments: list[str] | None = None) -> int:
    """Exit status; prints one line per check that fails and the totals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args(arguments).directory
    wrong = searches = ties = roots = compared = 0
    try:
        files = find_files(directory)
        for path in files:
            case = load_case(path)
            roots += len(case["gumbel"])
            for name in CHECKS:
                failed = check(case, name)
                searches, wrong = searches + len(failed), wrong + int(failed.sum())
                if failed.any():
                    print(f"{path.name}: {name}: {int(failed.sum())} of {len(failed)} differ")
            if "authors_qvalues" in case:
                tied = float32_ties(case)
                compared, ties = compared + len(tied), ties + int(tied.sum())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"authors' float32 tree against the live rule: {compared} searches, {ties} beyond float32 rounding")
    print(f"{len(files)} files, {roots} roots, {searches} searches, {wrong} disagreements")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
