"""The command that writes synthetic sets."""

from script_runs import run_script


def run(*arguments):
    return run_script("make_phantom.py", *arguments)


def test_writes_a_set_and_shows_progress(tmp_path):
    out = tmp_path / "deep" / "raw"
    done = run(
        *("--layout=cbis_ddsm", "--cases=3", "--seed=1", "--height=128"),
        *("--num_workers=1", f"--out={out}"),
    )
    assert done.returncode == 0, done.stderr
    assert "drawing mammograms" in done.stderr
    assert len(list(out.glob("*.csv"))) == 4
    files = list(out.rglob("*.dcm"))
    assert done.stdout == (
        f"{out}: phantoms of 3 cases, {len(files)} DICOM files, in the layout of"
        " cbis_ddsm\n"
    )
    assert [path.name for path in out.parent.iterdir()] == ["raw"]


def test_refuses_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = run("--layout=cbis_ddsm", "--cases=3", f"--out={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path) in done.stderr


def test_help_names_the_options():
    shown = run("--help").stdout
    for option in ("--layout", "--cases", "--out", "--traceback"):
        assert option in shown
