"""The Batch tab in a real browser."""

import json
import re
import zipfile

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from attncontrol.demo.batch_tab import SAMPLES
from tests.demo.conftest import PATIENCE

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with

expect.set_options(timeout=PATIENCE)


def upload(page, path, content):
    page.get_by_role("tab", name="Batch").click()
    page.locator("#batch-steps input").fill("2")
    path.write_text(content)
    page.locator("#batch-file input[type=file]").set_input_files(path)


def test_a_prompt_file_becomes_a_zip(visit, tmp_path):
    page = visit()
    upload(page, tmp_path / "two.txt", "a cat and a frog\na bear\n")
    expect(page.locator("#batch-report")).to_contain_text("valid: 2 images")
    page.locator("#batch").click()
    expect(page.locator("#batch-status")).to_contain_text("Done: 2 images")
    shown = page.locator("#batch-pictures figure")
    expect(shown).to_have_count(2)
    expect(shown.first).to_contain_text("a bear, seed 0")
    expect(shown.nth(1).locator(".verdict")).to_contain_text("frog")
    with page.expect_download() as download:
        page.locator("#batch-download").click()
    download.value.save_as(tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "two.zip") as archive:
        names = archive.namelist()
        lines = archive.read("two/metadata.jsonl").decode().splitlines()
        run = json.loads(archive.read("two/run.json"))
        report = archive.read("two/report.html").decode()
        Image.open(archive.open("two/contact_sheets/two_0001.png")).verify()
    assert len([name for name in names if name.startswith("two/images/") and name.endswith(".png")]) == 2
    assert "Images of two" in report and "conform" in report
    assert [json.loads(line)["prompt"] for line in lines] == ["a bear", "a cat and a frog"]
    assert run["ended"] == "complete" and run["files"][0]["file"] == "two.txt"


def test_pictures_are_shown_before_the_batch_is_done(visit, tmp_path):
    page = visit()
    upload(page, tmp_path / "six.csv", "prompt,steps\na cat,2\na dog,2\n" + "a bear,100\n" * 4)
    page.evaluate(
        """() => new MutationObserver(() => {  // in the page: a busy machine would ask too late
            const pictures = document.querySelectorAll("#batch-pictures figure").length
            if (pictures > 1) window.statusThen ??= document.querySelector("#batch-status").innerText
        }).observe(document.body, { childList: true, subtree: true })"""
    )
    page.locator("#batch").click()
    expect(page.locator("#batch-pictures figure").nth(1)).to_be_visible()
    assert "Done" not in page.evaluate("window.statusThen")
    page.locator("#batch-cancel").evaluate("button => button.click()")  # off if the last group is through already
    expect(page.locator("#batch-status")).to_contain_text(re.compile("Cancelled|Done"))
    expect(page.locator("#batch-pictures figure").nth(1)).to_be_visible()


def test_sample_files_are_one_click_away_and_valid(visit):
    page = visit()
    page.get_by_role("tab", name="Batch").click()
    for sample in SAMPLES.iterdir():
        page.get_by_role("button", name=f"Try {sample.name}").click()
        expect(page.locator("#batch-report")).to_contain_text(f"{sample.name} is valid")
        expect(page.locator("#batch-file")).to_contain_text(sample.suffix)


def test_problems_are_listed_by_line_and_nothing_is_run(visit, tmp_path):
    page = visit()
    upload(page, tmp_path / "bad.csv", "prompt,steps\na cat,2\na dog,many\n")
    report = page.locator("#batch-report")
    expect(report).to_contain_text("bad.csv cannot be run")
    assert report.locator("td").nth(0).inner_text() == "3"
    assert report.locator("td").nth(1).inner_text() == "steps"
    page.locator("#batch").click()
    expect(page.locator("#batch-status")).to_contain_text("Nothing was made")


def test_a_file_that_is_no_prompt_file_is_refused_in_the_report(visit, tmp_path):
    page, path = visit(), tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path)
    page.get_by_role("tab", name="Batch").click()
    page.locator("#batch-file input[type=file]").set_input_files(path)
    expect(page.locator("#batch-report")).to_contain_text("'picture.png' is no text file")


def test_a_file_is_checked_though_the_answer_to_a_check_before_is_late(visit, tmp_path):
    page, held = visit(), []
    page.route("**/gradio_api/queue/join*", lambda route: route.continue_() if held else held.append(route))
    page.get_by_role("tab", name="Batch").click()
    with page.expect_request("**/gradio_api/queue/join*"):
        page.locator("#batch-steps input").fill("2")
    path = tmp_path / "one.txt"
    path.write_text("a cat\n")
    with page.expect_response("**/gradio_api/upload?*"):
        page.locator("#batch-file input[type=file]").set_input_files(path)
    expect(page.locator("#batch-file")).to_contain_text("6.0 B")
    held[0].continue_()
    expect(page.locator("#batch-report")).to_contain_text("valid: 1 image")


def test_what_is_beyond_the_limits_is_refused(visit, tmp_path):
    page = visit()
    upload(page, tmp_path / "many.txt", "a cat\n" * 7)
    expect(page.locator("#batch-report")).to_contain_text("at most 6 are allowed")


def test_an_upload_that_is_too_large_is_refused(server):
    small, large = (httpx.post(f"{server.url}gradio_api/upload", files={"files": b"x" * n}) for n in (9, 2**21))
    assert small.status_code == 200 and large.status_code == 413
