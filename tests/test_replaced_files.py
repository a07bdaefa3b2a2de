import pytest

from transporter_pl.files import replace_file


def test_a_file_is_written_or_replaced_and_nothing_else_is_touched(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for text in ("one", "two"):
        replace_file(tmp_path / "file", lambda aside, text=text: aside.write_text(text))
        assert (tmp_path / "file").read_text() == text
    replace_file(tmp_path / "deep" / "down" / "file", lambda aside: aside.write_text("deep"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "file", "mine"]
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    def fails(aside):
        aside.write_text("half")
        message = "disk full"
        raise OSError(message)

    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        replace_file(tmp_path / "file", fails)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]
