"""How fast searches, updates, targets, replay and simulators are, each alone, as in ``python -m benchmarks``."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import arguments
from benchmarks.gpu_check.finding import Finding, Sizes
from benchmarks.measure import Row, Timer
from benchmarks.run import PARTS
from benchmarks.sizes import config
from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.errors import first_line

LEAST_SHARE = 0.2  # of the floor: below it the device mostly waits for the host
CAPACITY = {"cuda": 100_000, "cpu": 1_500}  # transitions per task in the replay


def findings(sizes: Sizes) -> Iterator[Finding]:
    """Every preset; the replay once."""
    for preset in sizes.presets:
        cfg = config(preset, device=sizes.device)
        slots = len(resolve_tasks(list(cfg.tasks.names))) * cfg.envs_per_task
        batch = cfg.batch_size if sizes.device == "cuda" else sizes.rows
        yield learner("search", f"A search for {slots} simulators", preset, slots, sizes)
        yield learner("update", f"An update of {batch} windows", preset, batch, sizes)
        yield learner("reanalyze", f"The targets of {batch} windows", preset, batch, sizes)
        yield simulators(preset, cfg.tasks.names[0], cfg.envs_per_task, sizes)
    yield replay(sizes)


def measured(what: str, *keys: str, sizes: Sizes, device: str) -> Row:
    """The one row of a benchmark."""
    given = arguments.parse([what, *keys, f"device={device}", f"repeats={sizes.repeats}"])
    timer = Timer(repeats=given.repeats, clock=given.clock, device=given.device)
    (row,) = PARTS[what](given, timer)
    return row


def learner(what: str, title: str, preset: str, batch: int, sizes: Sizes) -> Finding:
    """The time of a benchmark against its floor: its FLOPs at the rate of a large product on the same device."""
    row = measured(what, f"size={preset}", f"batch={batch}", sizes=sizes, device=sizes.device)
    low = row.share_of_floor < LEAST_SHARE
    compiles = {"search": "planner", "reanalyze": "planner", "update": "module"}[what]
    advice = f"'{compiles}.compile={{mode: reduce-overhead, dynamic: false}}'"
    return Finding(
        "throughput",
        f"{title}, {preset}",
        "look" if low and sizes.device == "cuda" else "ok",
        f"{row.ms_median:.2f} ms; its products alone would take {row.floor_ms:.2f} ms ({row.share_of_floor:.0%})",
        advice if low and sizes.device == "cuda" else "",
        {"ms": row.ms_median, "floor_ms": row.floor_ms},
    )


def simulators(preset: str, task: str, slots: int, sizes: Sizes) -> Finding:
    """Vector steps of the preset's first task, on one thread."""
    title = f"Simulators of {task}, one thread"
    try:
        row = measured("env", f"task={task}", f"batch={slots}", sizes=sizes, device="cpu")
    except (ValueError, FileNotFoundError) as error:
        return Finding("throughput", title, "skipped", first_line(error))
    rate = 1e3 * slots / row.ms_median
    return Finding(
        "throughput",
        title,
        "ok",
        f"{rate:,.0f} simulator steps a second ({row.ms_median:.2f} ms for {slots})",
        figures={"preset": preset, "steps_per_s": rate},
    )


def replay(sizes: Sizes) -> Finding:
    """A draw of 512 windows from nine tasks; replay lies on the CPU by default."""
    batch, capacity = 512 if sizes.device == "cuda" else 20, CAPACITY[sizes.device]
    row = measured("replay", f"batch={batch}", f"capacity={capacity}", sizes=sizes, device="cpu")
    return Finding(
        "throughput",
        f"A draw of {batch} windows, replay on the CPU",
        "ok",
        f"{row.ms_median:.2f} ms; copying its bytes takes {row.floor_ms:.2f} ms",
        figures={"ms": row.ms_median},
    )
