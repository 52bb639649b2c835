"""What reaches stdout and stderr, in a pipe and on a terminal."""

import json
import math

import pytest
from rich.console import Console

from llmcli import ui


def test_lines_go_to_stderr_as_they_are(capsys):
    ui.say("model", "[bold]x[/bold] " + "y" * 200)
    ui.warn("[red]no markup[/red]")
    ui.error("first\nsecond", "way\nout")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "model       [bold]x[/bold] " + "y" * 200,
        "warning: [red]no markup[/red]",
        "error: first",
        "       second",
        "       way",
        "       out",
    ]


def test_control_characters_of_others_are_shown_not_obeyed(capsys):
    ui.error("a\x1b[31mb\x07\rc\td")
    assert capsys.readouterr().err == "error: a\\x1b[31mb\\x07\\x0dc\td\n".expandtabs(8)


def test_results_go_to_stdout_untouched(capsys):
    ui.out("[bold]ü\x1b text", end="")
    assert capsys.readouterr() == ("[bold]ü\x1b text", "")


def test_json_is_strict_and_one_line(capsys):
    ui.out_json({"loss": math.nan, "list": (1, math.inf), "text": "ü"})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out, parse_constant=pytest.fail) == {"loss": None, "list": [1, None], "text": "ü"}


def test_a_table_in_a_pipe_is_plain_and_unfolded(capsys):
    ui.table([("a", 1, "x" * 300), ("long name", 1234, "[b]")], ("name", "n", "text"), right=(1,), stdout=True)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines() == [  # no spaces at the ends of lines either
        "name          n  text",
        "a             1  " + "x" * 300,
        "long name  1234  [b]",
    ]


@pytest.mark.parametrize("name", ["LOCAL_RANK", "NODE_RANK", "RANK"])
def test_other_processes_of_a_run_only_report_errors(capsys, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    ui.say("model", "x")
    ui.note("x")
    ui.warn("x")
    ui.out("x")
    ui.out_json({})
    ui.table([("x",)])
    ui.error("lost")
    assert capsys.readouterr() == ("", "error: lost\n")


def test_an_empty_table(capsys):
    ui.table([], ("name",), stdout=True)
    assert capsys.readouterr().out.strip() == "name"


def test_a_live_table_draws_nothing_in_a_pipe(capsys):
    with ui.LiveTable(("job",)) as table:
        table.update([("1",)])
        assert not table.visible
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("no_color", [False, True])
def test_colour_on_a_terminal_unless_unwanted(capsys, monkeypatch, no_color):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(ui, "err", Console(stderr=True, highlight=False, force_terminal=True))
    ui.error("no")
    shown = capsys.readouterr().err
    assert ("\x1b[1;31m" in shown) is not no_color
    assert "error: " in shown


def test_a_meter_says_rate_and_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(ui.time, "monotonic", lambda: now[0])
    with ui.Meter(in_bytes=True) as meter:
        meter("encode train", 20e6, 120e6)  # of which an earlier process did these
        now[0] = 20.0
        meter("encode train", 60e6, 120e6)
        now[0] = 40.0
        meter("encode val", 5e6, 0)
        now[0] = 60.0
        meter("encode val", 25e6, 0)
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "encode train 50%  2.0 MB/s  0:30 left",
        "encode val  5.0 MB",
        "encode val  25.0 MB  1.0 MB/s",
    ]
