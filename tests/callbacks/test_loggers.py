"""W&B and MLflow, offline: returns over environment steps, one record for a resumed run, nothing of this machine."""

from __future__ import annotations

import getpass
import importlib.util
import platform
from pathlib import Path

import pytest

from ezm_lightning.checkpoints.runs import recorded_id
from ezm_lightning.commands import train
from tests.runs.short import SIZE, budget

ARGUMENTS = [*SIZE, "evaluate.interval=100"]


def twice(run: Path, *logger: str) -> None:
    """A run of 20 updates that goes on to 30."""
    for updates, more in ((20, []), (30, ["ckpt_path=last"])):
        assert train.main([*ARGUMENTS, budget(updates), *logger, *more, f"hydra.run.dir={run}"]) == 0


def test_wandb_continues_the_record_and_is_sent_nothing_private(tmp_path: Path, monkeypatch) -> None:
    wandb = pytest.importorskip("wandb", reason="pip install 'ezm-lightning[wandb]'")
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    try:
        twice(run, "logger=wandb", "logger.wandb.offline=true")
    finally:
        wandb.teardown()
    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.stem for file in files}) == 1  # one id
    records = []
    for file in files:
        store = DataStore()
        store.open_for_scan(str(file))
        while (data := store.scan_data()) is not None:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            records.append(record)
    rows = [{"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            for record in records if record.WhichOneof("record_type") == "history"]  # fmt: skip
    curve = [float(row["run/env_steps"]) for row in rows if "eval/mean" in row]
    assert curve == [100.0, 204.0, 260.0, 300.0, 340.0]
    metrics = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
    assert any(metric.step_metric == "run/env_steps" for metric in metrics)
    sent = b"".join(record.SerializeToString() for record in records if record.WhichOneof("record_type") != "header")
    for private in (str(tmp_path), str(Path.cwd()), str(Path.home()) + "/", platform.node(), "github"):
        assert private.encode() not in sent, private
    kinds = {record.WhichOneof("record_type") for record in records}
    assert not kinds & {"output", "output_raw", "stats"}
    assert not list((run / "wandb").glob("*/files/wandb-metadata.json")) and getpass.getuser()


def test_mlflow_continues_the_record(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'ezm-lightning[mlflow]'")
    if importlib.util.find_spec("sqlalchemy") is None:
        pytest.skip("pip install 'ezm-lightning[mlflow]'")
    run = tmp_path / "run"
    twice(run, "logger=mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{run}/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "debug"]
    (record,) = client.search_runs([experiment.experiment_id])
    assert recorded_id(run, str(run / "checkpoints" / "x.ckpt"), "MLFlowLogger") == record.info.run_id
    curve = client.get_metric_history(record.info.run_id, "eval/mean")
    assert [metric.step for metric in curve] == [100, 204, 260, 300, 340]
    assert record.data.params["batch_size"] == "16"
    assert not [value for value in record.data.params.values() if str(tmp_path) in value]
