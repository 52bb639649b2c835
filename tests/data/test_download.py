from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmcli.data import download
from llmcli.data.download import fetch
from llmcli.errors import InputError, LLMError

CONTENT = bytes(range(256)) * 4000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT as the server's `ranges`, `cut` (bytes of the first answers) and `status` say."""

    def do_GET(self):
        server = self.server
        requested = self.headers.get("Range")
        server.requests.append(requested)
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and server.ranges else 0
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = server.cuts.pop(0) if server.cuts else len(CONTENT)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.requests, running.cuts, running.statuses, running.ranges = [], [], [], True
    running.url = f"http://127.0.0.1:{running.server_port}/some/file.txt"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def get(url, folder, sha256=SHA):
    return fetch(url, sha256, folder, lambda stage, done, total: None)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_file_is_downloaded_once(server, tmp_path):
    seen = []
    path = fetch(server.url, SHA, tmp_path, lambda *progress: seen.append(progress))
    assert path.read_bytes() == CONTENT and path.name.endswith("file.txt")
    assert seen[-1] == ("download", len(CONTENT), len(CONTENT))
    assert get(server.url, tmp_path) == path and server.requests == [None]


def test_a_cut_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = [300_000, 700_001]
    assert get(server.url, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=700001-"]


def test_what_came_is_kept_for_the_next_call(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cuts = [300_000]
    with pytest.raises(LLMError, match="the connection ended after 300,000 of 1,024,000 bytes") as caught:
        get(server.url, tmp_path)
    assert "goes on from where it stopped" in caught.value.hint
    assert get(server.url, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-"]


def test_a_server_without_ranges_sends_all_of_it_again(server, tmp_path):
    server.ranges, server.cuts = False, [300_000]
    assert get(server.url, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_not_a_beginning_is_thrown_away(server, tmp_path):
    (tmp_path / f"{SHA[:16]}-file.txt.part").write_bytes(b"x" * (len(CONTENT) + 1))
    assert get(server.url, tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(server, tmp_path):
    with pytest.raises(LLMError, match=r"is not the expected file: its sha256 is .*, not 000000000000…"):
        get(server.url, tmp_path, "0" * 64)
    assert leftovers(tmp_path) == []


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, tmp_path):
    server.statuses = [503, 429]
    assert get(server.url, tmp_path).read_bytes() == CONTENT
    server.requests, server.statuses = [], [404]
    with pytest.raises(LLMError, match=r"could not download .*: 404 Not Found"):
        get(server.url, tmp_path, "1" * 64)
    assert server.requests == [None]


def test_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with pytest.raises(LLMError, match=r"could not download http://127.0.0.1:9/x") as caught:
        get("http://127.0.0.1:9/x", tmp_path)
    assert "data.path=FILE" in caught.value.hint


def test_file_urls(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(CONTENT)
    assert get(path.as_uri(), tmp_path / "cache").read_bytes() == CONTENT
    with pytest.raises(LLMError, match=r"could not download file:"):
        get((tmp_path / "nothing").as_uri(), tmp_path / "cache", "1" * 64)
    with pytest.raises(InputError, match="only http, https and file URLs"):
        get("ftp://host/file", tmp_path)


def test_two_calls_at_once_download_once(server, tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(get(server.url, tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] and server.requests == [None]
