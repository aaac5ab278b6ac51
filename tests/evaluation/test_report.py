"""Reports show no file from outside the folders they are about."""

import pytest
from PIL import Image

from attncontrol.evaluation.report import write_reports


@pytest.mark.parametrize("name", ["../secret.png", "images/link.png"])
def test_images_outside_the_folder_are_refused(tmp_path, name):
    folder = tmp_path / "results"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    line = {"prompt_set": "p", "prompt": "a cat", "seed": 0, "method": "plain", "run": "", "file_name": name}
    with pytest.raises(ValueError, match="is not in the folder"):
        write_reports(
            folder / "report",
            "A",
            {"": folder},
            [{**line, "seed": i, "scores": {"oracle_right": i}} for i in range(2)],
        )
