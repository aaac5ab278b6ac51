"""Attacks on a real server by raw HTTP: what a visitor may not have, he does not get."""

import http.client
import json
import os
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import psutil
import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

from attncontrol.demo import Limits, build_demo
from attncontrol.demo.app import serve
from attncontrol.demo.studio import Studio
from attncontrol.demo.task import FieldError, read_task
from tests.demo.conftest import PATIENCE

MARK = "THE-SECRET-OF-THE-SERVER"
HERE = Path(__file__)
PATHS = [
    *("/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/self/cmdline", "~/.bashrc", "pyproject.toml"),
    *("../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "....//....//etc/passwd", "%2e%2e/%2e%2e/etc/passwd"),
    *("/tmp/gradio/../../etc/passwd", "//etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/etc/passwd"),
    *("\\etc\\passwd", "/etc/passwd%00.png", "/dev/zero", "attncontrol/demo/app.py", str(HERE), quote(str(HERE))),
]
FILE_ROUTES = ["/gradio_api/file=", "/file=", "/file/"]

BOX = [0, 0, 1, 1]
SMALL = {"prompt": "a cat and a frog", "method": "none", "settings": {}, "subjects": [], "layout": {}, "seed": 0}
SMALL |= {"steps": 2, "guidance_scale": 3, "negative_prompt": "", "width": 64, "height": 64, "grounding": "none"}
FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
DEEP = "[" * 50_000
FILES_IN_FIELDS = [
    *(
        {"method": "boxdiff", "layout": {key: path}}
        for key in ("cat", "phrase", "prompt", "mask", "boxes")
        for path in ("/etc/passwd", str(HERE), "secret.png", "http://127.0.0.1:1/x")
    ),
    *({"method": "boxdiff", "layout": value} for value in ("/etc/passwd", "layout.json", str(HERE), FILE)),
    *({"method": "boxdiff", "layout": {"cat": value}} for value in (FILE, [FILE], ["/etc/passwd"], {"mask": "/etc"})),
    {"method": "boxdiff", "layout": {"objects": [{"phrase": "cat", "mask": "/etc/passwd"}]}},
    {"method": "boxdiff", "layout": {"prompt": "a", "objects": [{"phrase": "cat", "boxes": [BOX]}]}},
    *({"subjects": value} for value in (["/etc/passwd"], [FILE], FILE, "/etc/passwd")),
    *({"method": value} for value in ("/etc/passwd", "../syngen", "http://127.0.0.1:1/x", FILE, [FILE])),
    *({"method": "syngen", "settings": {"layers": value}} for value in ("/etc/passwd", FILE)),
    *({"method": "syngen", "settings": {"variant": value}} for value in ("/etc/passwd", "../reference")),
    *({"method": "syngen", "settings": value} for value in (FILE, "/etc/passwd", {"step_size": "@/etc/passwd"})),
]
LONG = "9" * 5000
NUMBERS = ['"x"', "1e400", "-1e400", "-1", "true", "[1]", "{}", LONG, f'"{LONG}"', "1e300", "1e20"]
ODD_LAYOUTS = [
    *(json.dumps({"cat": [BOX] * 200_000}), json.dumps({f"cat{i}": BOX for i in range(1000)}), DEEP, '"autos"', "5"),
    *('{"cat": [0, 0, 1e400, 1]}', '{"cat": [1, 1, 0, 0]}', '{"cat": [0, 0, 0, 0]}', '{"cat": []}', '{"cat": [[]]}'),
    *('{"": [0, 0, 1, 1]}', '{"dog": [0, 0, 1, 1]}', '{"cat": [0, 0, true, 1]}', f'{{"cat": [0, 0, 1, {LONG}]}}'),
    *("[[0, 0, 1, 1]]", '{"cat": [-5, 0, 1, 1]}', '{"image_size": 5}', '{"image_size": [0, 0, 1, 1]}'),
]
ODD_VALUES = [
    *product(("seed", "steps", "width", "height", "guidance_scale"), NUMBERS),
    *product(("seed", "steps"), ("null", "1.5")),
    *(("prompt", value) for value in ('""', "null", json.dumps("cat " * 5000), '"a cat\\u0000"', '"\\u001b[2J"')),
    *(("negative_prompt", value) for value in (json.dumps("x" * 5000), '"\\u0000"')),
    *(("subjects", value) for value in (json.dumps(["cat"] * 5000), "[[[[1]]]]", "[1e400]", "[99999]", "[-1]", DEEP)),
    *(("subjects", value) for value in ('[""]', "[null]", '["dog"]', "[true]", '[{"a": 1}]')),
    *(("layout", value) for value in ODD_LAYOUTS),
]
ODD_SETTINGS = [
    {"max_refinement_steps": 10**9, "thresholds": {"0": 0.99999}},
    *({"kernel_size": size} for size in (33, 30001, 1000001, 10**18, -1, 0, 1.5, "x", LONG)),
    *({"sigma": value} for value in (0, -1, 1e9, "inf", "nan", [1])),
    *({"thresholds": value} for value in ({"0": "x"}, {"x": 1}, {str(i): 0.5 for i in range(5000)}, [1], 5)),
    *({"thresholds": text} for text in ("[" * 200, "{" * 200)),
    *({"scale_range": value} for value in ([1], [1] * 5000, [1e9, 1], "1,inf", {"a": 1})),
    *({"resolution": value} for value in (-1, 10**9, [1, 1, 1], "x", [10**9, 10**9])),
    *({"start": value} for value in (2, -1, "nan", [0])),
    *({"step_size": value} for value in (-1, "inf", "1e400", [1], {})),
    *({"variant": value} for value in ("x", 1, None)),
    *({"layers": value} for value in ("nothing.here", "up." * 5000, ",", 5)),
    *({name: 1} for name in ("__class__", "name", "method", "x" * 5000, "")),
    *("x", [1], 5, True),
]
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:9"},
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example:7860"},
    {"Host": ""},
    {"X-Forwarded-Host": "evil.example"},
]
REQUESTS = [
    *product(["POST"], [f"/gradio_api/{path}" for path in ("upload", "queue/join", "call/parse", "run/predict")]),
    *product(["POST"], ["/gradio_api/cancel", "/gradio_api/reset"]),
    *product(["GET"], ["/gradio_api/info", "/gradio_api/heartbeat/someone"]),
]
DEVELOPER_ROUTES = [
    "/gradio_api/startup-events",
    *("/monitoring", "/monitoring/", "/monitoring/summary", "/monitoring/key", "/gradio_api/dev/reload"),
    *("/gradio_api/vibe-edit", "/gradio_api/vibe-code", "/gradio_api/vibe-starter-queries", "/gradio_api/runs"),
    *("/gradio_api/run-history/buckets", "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/profiling/traces"),
    *("/gradio_api/openapi.json", "/openapi.json", "/docs", "/redoc", "/gradio_api/custom_component/1/a/b/c"),
    *("/gradio_api/deep_link", "/gradio_api/stream/a", "/gradio_api/process_recording", "/gradio_api/mcp/sse"),
]
UPLOAD_NAMES = [
    *("../evil", "../../evil.py", "/etc/cron.d/evil", "..\\evil", "a/b/c", ".", "..", "...", "~", "a\0b", "x" * 300),
    *("evil.html", "evil.svg", "%2e%2e%2fevil", "con:evil"),
]
BEHIND_A_LOGIN = [
    *("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=a", "/gradio_api/file=/etc/passwd"),
    *("/gradio_api/queue/join", "/gradio_api/call/parse", "/gradio_api/call/generate", "/gradio_api/upload"),
    *("/gradio_api/run/parse", "/gradio_api/api/parse", "/gradio_api/upload_progress?upload_id=a"),
    *("/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/heartbeat/someone"),
    *("/gradio_api/component_server", "/gradio_api/call/generate/someone"),
]
CALLS = ("join", "parse", "generate", "upload", "cancel", "reset", "component_server")  # by POST, the others by GET
ASKED = {"data": ["a cat"], "session_hash": "someone", "event_id": "a", "fn_index": 0}
COOKIES = [{}, {"Cookie": "access-token=x"}, {"Cookie": "access-token-unsecure-x=y"}, {"Authorization": "Basic YTpi"}]


def test_there_are_at_least_300_attempts():
    attempts = len(PATHS) * len(FILE_ROUTES) + len(FILES_IN_FIELDS) + len(ODD_VALUES) + len(ODD_SETTINGS)
    attempts += len(FOREIGN) * len(REQUESTS) + len(DEVELOPER_ROUTES) + len(UPLOAD_NAMES)
    assert attempts + len(BEHIND_A_LOGIN) * len(COOKIES) >= 300


def ask(url, method, path, body=b"", headers=None):
    """One request as it is written here: no library tidies the path, and Host may be anything."""
    headers = {"Host": urlsplit(url).netloc, "Content-Length": str(len(body)), **(headers or {})}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE / 1000)
    try:
        connection.putrequest(method, path.replace(" ", "%20"), skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        endless = answer.getheader("content-type", "").startswith("text/event-stream") and answer.status == 200
        return SimpleNamespace(
            status=answer.status, headers=answer.headers, body=answer.read(2**16 if not endless else None)
        )
    finally:
        connection.close()


def call(url, values):
    """/generate with these values, JSON texts: what the stream says last, "event" and "data"."""
    data = ", ".join(values.values())
    started = ask(url, "POST", "/gradio_api/call/generate", f'{{"data": [{data}]}}'.encode(), JSON)
    if started.status != 200:
        return f"refused with {started.status}", started.body.decode()
    event = json.loads(started.body)["event_id"]
    stream = ask(url, "GET", f"/gradio_api/call/generate/{event}").body.decode()
    kind, data = stream.strip().split("\n\n")[-1].split("\n", 1)
    return kind.removeprefix("event: "), data.removeprefix("data: ")


JSON = {"Content-Type": "application/json"}
UNCLEAN = ("object at 0x", "Traceback", "set_int_max", "has no attribute", "cannot convert", 'File "', "RuntimeError")


def successes(url, attacks):
    """The attacks by values of /generate that drew a picture, or were answered by more than a sentence."""
    won = []
    for attack in attacks:
        event, data = call(url, {name: attack.get(name, json.dumps(SMALL[name])) for name in SMALL})
        if event == "complete" or len(data) > 1000 or any(text in data for text in UNCLEAN):
            won.append((str(attack)[:200], event, data[:300]))
    return won


def test_no_file_is_served(server):
    won = []
    for route, path in product(FILE_ROUTES, PATHS):
        answer = ask(server.url, "GET", route + path)
        if answer.status == 200 or b"root:" in answer.body or MARK.encode() in answer.body:
            won.append((route, path, answer.status))
    assert not won


def test_what_attacks_change_is_drawn_as_it_is(server):
    assert call(server.url, {name: json.dumps(value) for name, value in SMALL.items()})[0] == "complete"


def test_no_field_reads_a_file(server):
    encoded = [{name: json.dumps(value) for name, value in attack.items()} for attack in FILES_IN_FIELDS]
    assert successes(server.url, encoded) == []


def test_no_odd_value_is_drawn_or_answered_by_more_than_a_sentence(server):
    before = psutil.Process().memory_info().rss
    assert successes(server.url, [{name: value} for name, value in ODD_VALUES]) == []
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


def test_no_odd_setting_is_drawn(server):
    before = psutil.Process().memory_info().rss
    method = json.dumps("attend-and-excite")
    assert successes(server.url, [{"method": method, "settings": json.dumps(s)} for s in ODD_SETTINGS]) == []
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


def test_what_is_too_much_is_refused_at_once(server):
    """The reading alone, in the processor time of this thread; which layers there are is known in the run only."""
    settings = [s for s in ODD_SETTINGS if not isinstance(s, dict) or not {"layers", "resolution"} & s.keys()]
    attacks = [{"method": "attend-and-excite", "settings": odd} for odd in settings]
    for values in ({"layout": {"cat": [BOX] * 200_000}}, {"seed": 10**5000}, {"width": float("inf")}, *attacks):
        start = time.thread_time()
        with pytest.raises(FieldError):
            read_task(server.studio, server.limits, **{**SMALL, "subjects": None, "layout": None, **values})
        assert time.thread_time() - start < 0.1, values


def test_no_foreign_page_and_no_foreign_name_is_answered(server):
    won = []
    for (method, path), headers in product(REQUESTS, FOREIGN):
        answer = ask(server.url, method, path, b"{}", {**JSON, **headers})
        if answer.status != 403:
            won.append((path, headers, answer.status))
    assert not won
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(server.url, "GET", "/", headers=link).status == 200


def test_no_route_for_developers_is_served(server):
    answers = {(m, path): ask(server.url, m, path, b"{}", JSON) for m, path in product(["GET"], DEVELOPER_ROUTES)}
    assert {key: answer.status for key, answer in answers.items() if answer.status < 400} == {}


def test_every_answer_says_how_browsers_must_treat_it(server):
    for path in ("/", "/config", "/gradio_api/info", "/nowhere"):
        headers = ask(server.url, "GET", path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "SAMEORIGIN"
        assert "frame-ancestors 'self'" in headers["content-security-policy"]


def upload(url, name, content):
    head = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = head + content + b"\r\n--cut--\r\n"
    return ask(url, "POST", "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=cut"})


def test_no_upload_leaves_its_folder_or_comes_back_as_a_page(server):
    folder, won = Path(os.environ.get("GRADIO_TEMP_DIR") or "/tmp/gradio").resolve(), []
    for name in UPLOAD_NAMES:
        answer = upload(server.url, name, MARK.encode())
        if answer.status != 200:
            continue
        (path,) = json.loads(answer.body)
        served = ask(server.url, "GET", "/gradio_api/file=" + quote(path))
        shown = served.headers.get("content-disposition", "").startswith("attachment")
        if not Path(path).resolve().is_relative_to(folder) or (served.status == 200 and not shown):
            won.append((name, path, served.status, dict(served.headers)))
    assert not won


def test_behind_a_login_nothing_is_had_without_one(server):
    limits = Limits(size=64, steps=2, images=1, upload_mb=1)
    demo = build_demo(Studio(server.studio.pipe, "emoji"), limits)
    url = serve(demo, limits, auth=[("ann", "secret")], block=False)
    try:
        won = []
        for path, cookie in product(BEHIND_A_LOGIN, COOKIES):
            method = "POST" if path.endswith(CALLS) else "GET"
            answer = ask(url, method, path, json.dumps(ASKED).encode(), {**JSON, **cookie})
            if answer.status != 401:
                won.append((path, cookie, answer.status))
        assert not won
        wrong = [_log_in(url, "wrong").status for _ in range(2)]
        start = time.monotonic()
        right = _log_in(url, "secret")
        assert wrong == [400] * 2 and right.status == 200
        assert time.monotonic() - start > 1.5  # after one wrong password it would be 1
        cookie = {"Cookie": "; ".join(c.split(";")[0] for c in right.headers.get_all("set-cookie"))}
        for path in ("/gradio_api/cancel", "/gradio_api/reset"):
            assert ask(url, "POST", path, json.dumps(ASKED).encode(), {**JSON, **cookie}).status == 200
    finally:
        demo.close()


def _log_in(url, password):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return ask(url, "POST", "/login", f"username=ann&password={password}".encode(), form)


def test_no_more_is_uploaded_than_the_quota(server):
    limits = Limits(size=64, steps=2, upload_mb=1)
    demo = build_demo(Studio(server.studio.pipe, "emoji"), limits)
    url = serve(demo, limits, block=False)
    try:
        statuses = [upload(url, f"{i}.txt", b"x" * 2**20).status for i in range(25)]
        assert statuses.count(200) < 20 and set(statuses[20:]) == {429}
    finally:
        demo.close()
