# SPDX-License-Identifier: Apache-2.0
"""The live page over HTTP: what it answers, whom it refuses, and that a stop reaches the run and no other file."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from contextlib import contextmanager
from html import unescape

import pytest

from luthier.core.errors import UserError
from luthier.engine.presence import STOP, announced
from luthier.web.live import LiveServer, is_loopback


@contextmanager
def serving(folder, **words):
    server = LiveServer(folder, **words)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(study):
    with serving(study) as made:
        yield made


def ask(server, path="/", *, method="GET", body=None, host="", **headers):
    """Status, headers and body of one request."""
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    line.request(method, path, body=body, headers={"Host": host or f"127.0.0.1:{server.server_port}", **given})
    answer = line.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    line.close()
    return found


def stop(server, run="r4/seed-0", *, token=None, **headers):
    given = {"X_Luthier_Token": server.token if token is None else token, **headers}
    return ask(server, "/stop", method="POST", body=json.dumps({"run": run}), **given)[0]


def test_the_page_and_its_state(server):
    status, headers, page = ask(server)
    assert status == 200
    assert server.token in page
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert "connect-src 'self'" in unescape(page)
    status, headers, body = ask(server, "/state.json")
    sections = json.loads(body)["sections"]
    assert status == 200
    assert set(re.findall(r'<section id="(\w+)"', page)) == set(sections)
    assert ask(server, "/state.json", If_None_Match=headers["ETag"])[0] == 304
    assert server.token not in body


def test_the_state_follows_the_folder(server, study, run_folder):
    before = json.loads(ask(server, "/state.json")[2])["sections"]
    run_folder(study / "runs" / "full" / "seed-1", share=None, steps=3)
    server._good_until = 0.0
    after = json.loads(ask(server, "/state.json")[2])["sections"]
    assert before["progress"]["mark"] != after["progress"]["mark"]
    assert before["environment"] == after["environment"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "192.168.0.7"])
def test_another_name_is_refused(server, host):
    """A page whose name was bound to 127.0.0.1 anew would read the token otherwise."""
    assert ask(server, host=host or " ")[0] == 421
    assert ask(server, "/state.json", host=host or " ")[0] == 421
    assert stop(server, host=host or " ") == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_our_own_names_are_served(server, host):
    assert ask(server, host=f"{host}:{server.server_port}")[0] == 200


def test_a_stop_needs_the_token_and_our_own_page(server, study):
    folder = study / "runs" / "r4" / "seed-0"
    with announced(folder, 99):
        assert stop(server, token="") == 403
        assert stop(server, token="x" * 32) == 403
        assert stop(server, token="é") == 403
        assert stop(server, Origin="http://evil.example") == 403
        assert not (folder / STOP).exists()
        assert stop(server, Origin=f"http://127.0.0.1:{server.server_port}") == 200
        assert (folder / STOP).exists()
        assert "disabled" in ask(server)[2].split('data-run="r4/seed-0"')[1].split(">")[0]


@pytest.mark.parametrize("run", ["r4/seed-0", "../../etc", "", None, 3, ["r4/seed-0"]])
def test_only_a_run_that_goes_on_can_be_stopped(server, study, run):
    assert stop(server, run) == 409
    assert not list(study.rglob(STOP))


@pytest.mark.parametrize(("body", "status"), [("{", 400), ("[]", 409), ("x" * 20_000, 413)])
def test_other_bodies(server, body, status):
    assert ask(server, "/stop", method="POST", body=body, X_Luthier_Token=server.token)[0] == status


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/../study.yaml"), ("GET", "/results.json"), ("POST", "/"), ("PUT", "/")]
)
def test_nothing_else_is_there(server, method, path):
    assert ask(server, path, method=method, body="" if method != "GET" else None)[0] in (404, 501)


def test_a_folder_that_went_away(server, study):
    study.rename(study.with_name("elsewhere"))
    status, _, said = ask(server)
    assert status == 503
    assert "no such folder" in said


def test_only_this_machine_by_default(study):
    with serving(study) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert server.address == f"http://127.0.0.1:{server.server_port}/"
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "box")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_all_addresses_take_numbers_and_no_names(study):
    with serving(study, host="0.0.0.0") as server:
        assert ask(server, host="192.168.0.7:1")[0] == 200
        assert ask(server, host="evil.example")[0] == 421


def test_a_reader_who_goes_away_says_nothing(server, capfd):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.server_port)) as line:
            line.sendall(b"GET /state.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a goodbye
    assert ask(server)[0] == 200
    assert capfd.readouterr().err == ""


def test_the_sixth_version_of_the_protocol(study):
    try:
        with serving(study, host="::1") as server:
            assert server.address == f"http://[::1]:{server.server_port}/"
            assert server.knows(f"[::1]:{server.server_port}")
    except UserError:
        pytest.skip("no IPv6 here")


def test_a_port_in_use(study, server):
    with pytest.raises(UserError, match="cannot be listened on"):
        LiveServer(study, port=server.server_port)


def test_a_folder_without_anything(tmp_path):
    with pytest.raises(UserError, match="the folder of a study or of one run"):
        LiveServer(tmp_path)
