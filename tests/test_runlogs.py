"""Reading the logs of finished runs."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gyrostat.runlogs import read_run

DATA = Path(__file__).parent / "data" / "runlogs"


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def column(run, name):
    return run.columns[name].tolist()


# what real libraries write


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("hf_trainer_state.json", 1218),
        ("llamafactory_trainer_log.jsonl", 300),
        ("jsonl_kuixing.jsonl", 120),
        ("algoperf_measurements_nan_as_blank.csv", 48),
    ],
)
def test_real_logs_give_the_number_of_losses_that_is_in_them(shared, name, records):
    run = read_run(shared / "data" / "raw_logs" / name)
    assert np.isfinite(run.columns["loss"]).sum() == records
    assert all(len(values) == len(run) for values in run.columns.values())
    assert (np.diff(run.columns["step"]) > 0).all()


def test_algoperf_writes_nan_as_a_blank_and_evaluations_between(shared):
    run = read_run(shared / "data" / "raw_logs" / "algoperf_measurements_nan_as_blank.csv")
    assert run.columns["step"].tolist() == list(range(100))
    assert np.isnan(run.columns["loss"][48:]).all()
    assert not run.logged["loss"][48:].any()
    assert run.validation["step"].tolist() == [1]
    assert any("52 training rows is blank" in note for note in run.notes)


def test_trainer_state_keeps_training_evaluation_and_summary_apart():
    run = read_run(DATA / "hf_trainer" / "trainer_state.json")
    assert run.format == "trainer_state"
    assert column(run, "step") == list(range(1, 61))
    assert column(run, "loss")[40:] == [0.0] * 20  # logging_nan_inf_filter
    assert np.isnan(run.columns["grad_norm"][40:]).all()
    assert run.logged["grad_norm"].all()
    assert run.validation["step"].tolist() == [20, 40, 60]
    assert run.validation["val_loss"][0] == pytest.approx(219.026, abs=1e-3)
    assert run.notes == ()


def test_lightning_keeps_sparse_rows_apart():
    run = read_run(DATA / "lightning" / "metrics.csv")
    assert column(run, "step") == list(range(80))
    assert np.isfinite(run.columns["loss"][:67]).all()
    assert np.isnan(run.columns["loss"][67:]).all()
    assert run.logged["loss"].all()  # the file says nan, not blank
    assert run.validation["step"].tolist() == [19, 39, 59, 79]
    # The rate stands in rows of its own and holds from there on.
    np.testing.assert_allclose(
        run.columns["learning_rate"][[0, 19, 20, 79]], [0.01, 0.01, 1e-3, 1e-5]
    )
    assert not run.logged["learning_rate"].any()


# csv


@pytest.mark.parametrize(
    "step", ["step", "Step", "iteration", "iter", "global_step", "trainer/global_step", "_step"]
)
@pytest.mark.parametrize(
    "loss",
    [
        "loss",
        "train_loss",
        "training_loss",
        "train/loss",
        "Train Loss",
        "train_loss_step",
        "run-1 - train/loss",
        "metrics.loss",
    ],
)
@pytest.mark.parametrize("norm", ["grad_norm", "gradient_norm", "total_norm", "train/grad_norm"])
def test_csv_headers_in_the_usual_spellings(write, step, loss, norm):
    run = read_run(
        write("a.csv", f"{step},time,{loss},{norm},lr\n10,1,2.5,1.5,0.1\n20,2,2.25,1.25,0.1\n")
    )
    assert column(run, "step") == [10, 20]
    assert column(run, "loss") == [2.5, 2.25]
    assert column(run, "grad_norm") == [1.5, 1.25]
    assert column(run, "learning_rate") == [0.1, 0.1]
    assert run.validation is None
    assert run.notes == ()


@pytest.mark.parametrize(
    "val", ["val_loss", "eval_loss", "validation_loss", "validation/loss", "eval/loss"]
)
def test_validation_in_the_same_row_or_in_one_of_its_own(write, val):
    same = read_run(write("same.csv", f"epoch,loss,{val}\n0,2.0,2.1\n1,1.5,1.8\n"))
    apart = read_run(write("apart.csv", f"step,loss,{val}\n0,2.0,\n0,,2.1\n1,1.5,\n1,,1.8\n"))
    for run in (same, apart):
        assert column(run, "loss") == [2.0, 1.5]
        assert run.validation["step"].tolist() == [0, 1]
        assert run.validation["val_loss"].tolist() == [2.1, 1.8]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nan", math.nan),
        ("NaN", math.nan),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("1e999", math.inf),
    ],
)
def test_csv_keeps_text_that_is_not_finite_as_a_value(write, text, value):
    run = read_run(write("a.csv", f"step,loss\n0,1.0\n1,{text}\n2,1.0\n"))
    np.testing.assert_array_equal(run.columns["loss"], [1.0, value, 1.0])


@pytest.mark.parametrize("blank", ["", "NA", "None", "null"])
def test_a_blank_in_a_log_that_has_losses_after_it_was_not_logged(write, blank):
    rows = "".join(f"{i},0.1,{2.0 if i % 5 == 0 else blank}\n" for i in range(23))
    run = read_run(write("a.csv", "step,lr,loss\n" + rows))
    assert column(run, "step") == [0, 5, 10, 15, 20]
    assert run.notes == ("18 rows without a loss are taken as not logged",)


def test_blank_cells_of_other_columns_are_nan_and_told_from_logged_nan(write):
    run = read_run(write("a.csv", "step,loss,grad_norm\n0,1,\n1,1,nan\n2,1,3\n"))
    np.testing.assert_array_equal(run.columns["grad_norm"], [np.nan, np.nan, 3])
    assert run.logged["grad_norm"].tolist() == [False, True, True]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_dialects(write, delimiter, end):
    text = (
        end.join(delimiter.join(row) for row in (["step", "loss"], ["1", "2.5"], ["2", "nan"]))
        + end
    )
    run = read_run(write("a.csv", "\ufeff" + text))
    np.testing.assert_array_equal(run.columns["loss"], [2.5, np.nan])


def test_a_csv_without_a_loss_tells_its_columns(write):
    with pytest.raises(ValueError, match=r"path: no training loss .*'time', 'accuracy'"):
        read_run(write("a.csv", "time,accuracy\n1,0.5\n"))


def test_a_csv_whose_last_line_is_cut_off(write):
    run = read_run(write("a.csv", "step,loss,lr\n0,2.0,0.1\n1,1.9,0.1\n2,"))
    assert column(run, "loss") == [2.0, 1.9]
    assert run.notes == ("the last line has no end: what it holds may be cut off",)


def test_a_csv_that_was_appended_to_and_damaged(write):
    text = "step,loss\n0,2.0\n1,1.9\nstep,loss\n1,1.8,7,8\n2,oops\n3,1.5\n"
    run = read_run(write("a.csv", text))
    assert column(run, "loss") == [2.0, 1.9, 1.8, 1.5]
    notes = " | ".join(run.notes)
    assert "header is repeated 1 times" in notes
    assert "1 rows have more or fewer cells" in notes
    assert "1 cells hold text" in notes
    assert "1 rows repeat the step" in notes


def test_of_two_losses_in_one_row_the_better_name_is_read_and_the_other_told(write):
    run = read_run(write("a.csv", "step,lm loss,loss\n0,2.0,2.5\n1,1.9,2.4\n"))
    assert column(run, "loss") == [2.5, 2.4]
    assert run.notes == ("loss is 'loss'; not read: 'lm loss'",)


# steps


def test_without_steps_rows_are_numbered_and_without_finer_steps_epochs_count(write):
    rows = read_run(write("rows.csv", "loss\n3\n2\n"))
    assert column(rows, "step") == [0, 1]
    assert "row numbers" in rows.notes[0]
    epochs = read_run(write("epochs.csv", "epoch,loss,val_loss\n1,3,4\n2,2,3\n"))
    assert column(epochs, "step") == [1, 2]
    assert "epochs" in epochs.notes[0]


@pytest.mark.parametrize(("first", "expected"), [(1, [1, 2, 3, 4, 5, 6]), (0, [0, 1, 2, 3, 4, 5])])
def test_steps_that_begin_anew_with_each_epoch_are_counted_through(write, first, expected):
    rows = [(e, first + i) for e in range(2) for i in range(3)]
    text = "".join(json.dumps({"epoch": e, "iter": i, "loss": 1.0}) + "\n" for e, i in rows)
    run = read_run(write("a.jsonl", text))
    assert column(run, "step") == expected


def test_steps_that_go_back_or_are_missing_are_told(write):
    run = read_run(write("a.csv", "step,loss\n1,1\n2,1\n,1\n1,1\n2,1\n"))
    assert column(run, "step") == [1, 2, 2, 1, 2]
    assert run.notes == (
        "1 rows without a step take that of the row before",
        "1 rows repeat the step of the row before",
        "steps go back once, from 2 to 1",
    )


# JSON


def test_jsonl_with_nan_nesting_and_records_of_other_kinds(write):
    lines = [
        '{"event": "start", "config": {"lr": 0.1}}',
        '{"step": 0, "train": {"loss": 2.0, "grad_norm": 1.0}}',
        "warning: something",
        '{"step": 1, "train": {"loss": NaN, "grad_norm": "Infinity"}}',
        '{"step": 1, "val": {"loss": 2.5}}',
        "[1, 2]",
        '{"step": 2, "train": {"loss": "1.5", "grad_norm": null}}',
    ]
    run = read_run(write("a.jsonl", "\n".join(lines) + "\n"))
    np.testing.assert_array_equal(run.columns["loss"], [2.0, np.nan, 1.5])
    np.testing.assert_array_equal(run.columns["grad_norm"], [1.0, np.inf, np.nan])
    assert run.validation["val_loss"].tolist() == [2.5]
    assert run.notes == ("2 lines are not JSON objects and left out",)


def test_a_row_that_says_it_is_validation_is_no_training_row(write):
    rows = [("train", 2.0), ("val", 2.2), ("train", 1.5)]
    text = "".join(json.dumps({"split": s, "step": 1, "loss": v}) + "\n" for s, v in rows)
    run = read_run(write("a.jsonl", text))
    assert column(run, "loss") == [2.0, 1.5]
    assert run.validation["val_loss"].tolist() == [2.2]


def test_jsonl_whose_last_line_is_cut_off(write):
    run = read_run(write("a.jsonl", '{"step": 0, "loss": 2.0}\n{"step": 1, "lo'))
    assert column(run, "loss") == [2.0]
    assert run.notes == ("the last line is cut off and left out",)


def test_json_lines_under_the_name_json(write):
    run = read_run(write("20260101.log.json", '{"mode": "train", "iter": 5, "loss": 2}\n' * 2))
    assert (run.format, column(run, "step")) == ("jsonl", [5, 5])


# what is no log


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.jsonl", " \n", "is empty"),
        ("a.csv", b"\x89PNG\0\0", "is binary"),
        ("a.jsonl", b"{}\0\0\0", "is binary"),
        ("a.csv", "step,loss\n", "no training loss"),
        ("a.csv", "loss\n" + "1" * 200_000, "not a csv file"),
        ("a.jsonl", "hello\n", "no training loss"),
        ("a.jsonl", "[" * 100_000, "no training loss"),
        ("a.json", "[" * 100_000, "path"),
        ("trainer_state.json", '{"log_history": [{"loss": 1', "cut off"),
        ("trainer_state.json", '{"a": 1}', "log_history"),
        ("run.log", "loss 1", "expected .csv"),
        ("a.jsonl", '{"loss": true}\n{"loss": {"a": {"b": 1}}}\n', "no training loss"),
    ],
)
def test_what_is_no_log_is_told(write, name, content, message):
    with pytest.raises(ValueError, match=message) as told:
        read_run(write(name, content))
    assert str(told.value).startswith("path: ")


def test_a_line_without_end_is_refused_before_it_fills_the_memory(write):
    with pytest.raises(ValueError, match=r"line 2 .* is longer than"):
        read_run(write("a.jsonl", b'{"loss": 1}\n' + b"x" * (1 << 24)))


def test_bytes_that_are_not_utf8_spoil_only_their_cell(write):
    run = read_run(write("a.csv", b"step,loss,note\n0,2.0,caf\xe9\n1,\xff,\n2,1.5,\n"))
    assert column(run, "loss") == [2.0, 1.5]
    assert run.notes == ("1 cells hold text where a number was expected",)


def test_what_is_no_path_is_a_type_error_and_nothing_there_is_not_found(tmp_path, write):
    with (path := write("a.csv", "loss\n1\n")).open() as file:
        for wrong in (file, 0, None, b"a.csv", io.StringIO("loss\n1\n")):
            with pytest.raises(TypeError, match="path: expected a str"):
                read_run(wrong)
    with pytest.raises(TypeError, match="path"):
        read_run(file)  # closed
    with pytest.raises(FileNotFoundError, match="path"):
        read_run(tmp_path / "missing.csv")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        read_run("/dev/null")
    assert len(read_run(str(path))) == 1


# folders


def test_a_trainer_folder_gives_the_state_with_the_whole_history(tmp_path):
    assert read_run(DATA / "hf_trainer").path == DATA / "hf_trainer" / "trainer_state.json"
    for n in (30, 60):
        folder = tmp_path / "out" / f"checkpoint-{n}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_bytes(
            (DATA / "hf_trainer" / f"checkpoint-{n}" / "trainer_state.json").read_bytes()
        )
    assert read_run(tmp_path).path.parent.name == "checkpoint-60"


def test_a_copy_of_the_log_beside_the_trainers_state_is_the_same_run(tmp_path, write):
    state = write("out/trainer_state.json", (DATA / "hf_trainer/trainer_state.json").read_bytes())
    write("out/trainer_log.jsonl", '{"current_steps": 1, "loss": 2.0}\n')
    assert read_run(tmp_path).path == state


def test_a_folder_with_one_run_among_other_files(tmp_path, write):
    write("notes.txt", "x")
    write("data/labels.csv", "id,label\n1,a\n")
    write("config.json", "{}")
    write(".hidden/log.csv", "loss\n1\n")
    path = write("logs/version_0/metrics.csv", "step,loss\n0,1\n")
    assert read_run(tmp_path).path == path


def test_a_folder_with_none_or_several_runs_is_told(tmp_path, write):
    with pytest.raises(ValueError, match="path: no log of a run"):
        read_run(tmp_path)
    for name in ("a.csv", "b/c.jsonl"):
        write(name, "loss\n1\n" if name.endswith("csv") else '{"loss": 1}\n')
    with pytest.raises(ValueError, match=r"(?s)2 runs in .*name one:.*a\.csv.*c\.jsonl"):
        read_run(tmp_path)


# anything at all

FRAGMENTS = [
    *(
        b"step,loss,grad_norm,lr\n",
        b"loss\n",
        b"1,2,3,4\n",
        b"1,,,0.1\n",
        b",",
        b"\n",
        b'"',
        b"nan",
    ),
    *(
        b'{"loss": ',
        b'{"step": 1, "loss": NaN}\n',
        b'{"log_history": [',
        b"{",
        b"}",
        b"]",
        b"1e999",
    ),
    *(b'{"epoch": 1, "iter": 1e300, "loss": 1}\n', b'{"epoch": 2, "iter": -1, "loss": "inf"}\n'),
    *(b"1" * 5000, b"\xff", b"\xef\xbb\xbf", b"\r", b"val_loss", b'{"split": "val", "loss": 1}\n'),
]


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=300)
    | st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=8), max_size=12).map(b"".join),
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".json"]),
)
@example(content=b'{"loss": ' + b"1" * 5000 + b"}\n", suffix=".jsonl")
@example(content=b'{"loss": ' + b"1" * 400 + b"}\n", suffix=".jsonl")
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        run = read_run(path)
    except ValueError as error:
        assert str(error).startswith("path: ")  # noqa: PT017 - raising is allowed, not demanded
    else:
        assert len(run) > 0
        assert all(v.shape == (len(run),) and v.dtype == np.float64 for v in run.columns.values())
        assert np.isfinite(run.columns["step"]).all()
