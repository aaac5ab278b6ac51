"""What a server leaves behind, on its disk."""

import os
import tempfile

import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

from attncontrol.demo.traces import folder_of_its_own, remove_old


def test_temporary_files_lie_in_one_folder_that_is_gone_at_the_end():
    before = tempfile.gettempdir()
    with folder_of_its_own() as folder:
        made = tempfile.mkdtemp()
        assert made.startswith(str(folder))
    assert not folder.exists() and tempfile.gettempdir() == before


def test_old_files_are_removed_and_new_ones_are_kept(tmp_path):
    (tmp_path / "in").mkdir()
    old, new = tmp_path / "in" / "old", tmp_path / "in" / "new"
    old.write_text("x")
    new.write_text("x")
    os.utime(old, (1, 1))
    remove_old(tmp_path, 3600)
    assert not old.exists() and new.exists()
