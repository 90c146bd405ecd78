"""``ezm tasks``: its table, with the columns that the tasks asked for can fill."""

from ezm_lightning.commands import tasks


def test_ranges_and_floors_are_shown_where_they_are_known(capsys):
    assert tasks.main(["mw/"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 51 and lines[0].split() == ["task", "obs_dim", "action_dim", "steps", "reward", "random"]
    reach = next(line for line in lines if line.startswith("mw/reach-v3 "))
    assert reach.split() == ["mw/reach-v3", "39", "4", "500", "0", "to", "10", "648"]


def test_a_task_without_them_leaves_its_columns_empty(capsys):
    assert tasks.main(["fetchreach"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["task", "obs_dim", "action_dim", "steps", "reward"]
    assert lines[1].split() == ["gr/FetchReach-v4", "16", "4", "50", "-1", "to", "0"]
    assert lines[2].split() == ["gr/FetchReachDense-v4", "16", "4", "50"] and lines[2] == lines[2].rstrip()


def test_a_reason_takes_the_place_of_the_numbers():
    table = tasks.format_table(
        [("a", "3", "1", "100", "0 to 1", ""), ("broken", "-", "-", "a package is missing, alas")]
    )
    assert table.splitlines() == [
        "task    obs_dim  action_dim  steps  reward",
        "a             3           1    100  0 to 1",
        "broken        -           -  a package is missing, alas",
    ]
