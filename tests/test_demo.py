"""The demo does what the README says, with PyTorch and without."""

import pytest

from gyrostat.demo import run_demo
from gyrostat.demo.digits import load_digits
from gyrostat.demo.docstrings import load_docstrings
from gyrostat.guard import Action


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_the_guarded_run_ends_as_the_clean_one_and_the_other_does_not(framework, tmp_path):
    said = []
    report = run_demo(tmp_path / "report.html", framework, said.append)
    table = next(s for s in report.sections if s.title == "How the runs ended")
    ended = {name: float(loss) for name, loss, _ in table.rows}
    assert ended["guarded"] == pytest.approx(ended["clean"], rel=0.03)
    assert ended["unguarded"] > 1.2 * ended["clean"]
    codes = report.counts()
    assert codes["weight-jump"] == 1
    assert codes["loss-spike"] >= 2
    assert codes["leakage-exact-duplicate"] == 1
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    told = "\n".join(said)
    assert "skip at step 400" in told
    assert "rollback at step 700" in told
    assert "report.html" in told


def test_the_guard_blames_the_bad_batch_and_the_damaged_layer(tmp_path):
    report = run_demo(tmp_path / "report.html", "numpy", lambda _: None)
    skipped = next(f for f in report.findings if f.step == 400)
    assert skipped.culprit.batch is not None
    damaged = next(f for f in report.findings if f.code == "weight-jump")
    assert damaged.culprit.layer == "layer2.weight"
    done = next(s for s in report.sections if s.title == "What was done")
    assert [row[1] for row in done.rows] == [Action.SKIP, Action.ROLLBACK]


def test_an_unknown_framework_is_named(tmp_path):
    with pytest.raises(ValueError, match="framework: expected"):
        run_demo(tmp_path / "r.html", "caffe")


def test_the_data_is_real_and_whole():
    digits = load_digits()
    assert digits.train[0].shape == (1347, 64)
    assert digits.validation[0].shape == (450, 64)
    corpus = load_docstrings()
    assert len(corpus.texts) > 1000
    assert {"class", "function", "module"} <= set(corpus.labels)
