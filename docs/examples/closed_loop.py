"""Runs an exported agent at a fixed rate on a simulator, without torch: latency, missed deadlines, returns.

    python docs/examples/closed_loop.py robot hz=50 episodes=5

``robot`` is a folder of ``ezm export``. ``task=dmc/walker-walk`` chooses one of its tasks; without it the first is
taken. The program needs numpy, onnxruntime and dm_control alone. A robot's own loop looks the same: ``observe`` reads
the sensors and ``apply`` moves the motors.
"""

import sys
import time

import numpy as np
from dm_control import suite

folder, *given = sys.argv[1:]
options = {"hz": "50", "episodes": "5", "seed": "0"} | dict(text.split("=", 1) for text in given)
sys.path.insert(0, folder)
from runtime import ExportedAgent  # noqa: E402

agent, period = ExportedAgent(folder), 1 / float(options["hz"])
task = options.get("task", agent.tasks[0])
repeats = np.broadcast_to(agent.description["action_repeat"], len(agent.tasks))  # one number, or one per task
repeat = int(repeats[agent.table.index_of(task)])
env = suite.load(*task.removeprefix("dmc/").split("-", 1), task_kwargs={"random": int(options["seed"])})
low, high = env.action_spec().minimum, env.action_spec().maximum


def observe(step):
    return np.concatenate([np.ravel(value) for value in step.observation.values()])


def apply(action):
    scaled = low + (np.clip(action, -1, 1) + 1) / 2 * (high - low)
    reward = 0.0
    for _ in range(repeat):
        step = env.step(scaled)
        reward += step.reward
        if step.last():  # a further step would begin the next episode
            break
    return step, reward


latencies, returns, missed = [], [], 0
for _ in range(int(options["episodes"])):
    step, total, deadline = env.reset(), 0.0, time.perf_counter() + period
    while not step.last():
        start = time.perf_counter()
        action = agent.act(observe(step), task)
        latencies.append(time.perf_counter() - start)
        step, reward = apply(action)
        total += reward
        missed += time.perf_counter() > deadline
        time.sleep(max(0.0, deadline - time.perf_counter()))
        deadline = max(deadline, time.perf_counter()) + period
    returns.append(total)
p50, p99 = 1000 * np.percentile(latencies, [50, 99])
late = f"{missed} of {len(latencies)} deadlines of {1000 * period:.0f} ms missed"
print(f"plan {p50:.2f} ms (p50), {p99:.2f} ms (p99); {late}")
print(f"returns {' '.join(f'{value:.0f}' for value in returns)}: mean {np.mean(returns):.0f}")
