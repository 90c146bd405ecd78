"""W&B and MLflow, offline: returns over environment steps, one record for a resumed run, nothing of this machine."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ezm_lightning.checkpoints.runs import recorded_id
from ezm_lightning.commands import train
from tests.runs.short import SIZE, budget

ARGUMENTS = [*SIZE, "evaluate.interval=100"]


def wandb_records(file: Path) -> list:
    """The records of an offline run: LevelDB's log format, blocks of 32 KiB, below a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, whole, records = file.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = 32_768 - position % 32_768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last part
            records.append(Record.FromString(whole))
            whole = b""
    return records


def test_wandb_continues_the_record_and_is_sent_nothing_private(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="pip install 'ezm-lightning[wandb]'")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    curve, metrics, kinds, ids = [], [], set(), set()
    for updates, more in ((20, []), (30, ["ckpt_path=last"])):
        go_on = [budget(updates), "logger=wandb", "logger.wandb.offline=true", *more, f"hydra.run.dir={run}"]
        program = [sys.executable, "-m", "ezm_lightning.commands.cli", "train"]
        subprocess.run([*program, *ARGUMENTS, *go_on], check=True, capture_output=True)  # at its end all is written
        file = max(run.glob("wandb/offline-run-*/*.wandb"), key=lambda each: each.stat().st_mtime_ns)
        ids.add(file.stem)
        for record in wandb_records(file):
            kind = record.WhichOneof("record_type")
            kinds.add(kind)
            if kind == "history":
                row = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                curve += [float(row["run/env_steps"])] if "eval/mean" in row else []
            metrics += [record.metric.step_metric] if kind == "metric" else []
            for private in (tmp_path, Path.cwd(), Path.home(), "github.com"):
                assert str(private).encode() + b"/" not in record.SerializeToString(), (kind, private)
    assert curve == [100.0, 204.0, 260.0, 300.0, 340.0] and len(ids) == 1
    assert "run/env_steps" in metrics and not kinds & {"output", "output_raw", "stats"}
    assert not [file for file in run.glob("wandb/*/files/*") if file.name in ("wandb-metadata.json", "output.log")]


def test_mlflow_continues_the_record(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'ezm-lightning[mlflow]'")
    if importlib.util.find_spec("sqlalchemy") is None:
        pytest.skip("pip install 'ezm-lightning[mlflow]'")
    run = tmp_path / "run"
    for updates, more in ((20, []), (30, ["ckpt_path=last"])):
        assert train.main([*ARGUMENTS, budget(updates), "logger=mlflow", *more, f"hydra.run.dir={run}"]) == 0
    client = mlflow.MlflowClient(f"sqlite:///{run}/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "debug"]
    (record,) = client.search_runs([experiment.experiment_id])
    assert recorded_id(run, str(run / "checkpoints" / "x.ckpt"), "MLFlowLogger") == record.info.run_id
    curve = client.get_metric_history(record.info.run_id, "eval/mean")
    assert [metric.step for metric in curve] == [100, 204, 260, 300, 340]
    assert record.data.params["batch_size"] == "16"
    assert not [value for value in record.data.params.values() if str(tmp_path) in value]
