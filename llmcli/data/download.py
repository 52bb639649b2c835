"""Fetch a file once: resumed where it stopped, checked, and in place only when it is right."""

from __future__ import annotations

import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock

from llmcli.data.cache import BLOCK, sha256_file
from llmcli.data.source import Report
from llmcli.errors import InputError, LLMError

ATTEMPTS = 4
PAUSE = 1.0  # seconds before the second attempt, doubled before each one after it
TIMEOUT = 30.0  # seconds without any data
WORTH_ANOTHER_TRY = frozenset({408, 416, 425, 429})  # and every 5xx


def fetch(url: str, sha256: str, cache_dir: Path, report: Report) -> Path:
    """The local copy of an http(s) or file URL, downloaded unless it is in `cache_dir` already.

    A transfer that is cut keeps what came in a .part file and goes on from there, in this call or the next. Raises
    InputError for another kind of URL, LLMError when the server cannot be read or the content is not what `sha256`
    promises (nothing is kept then).
    """
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise InputError(f"cannot download {url}: only http, https and file URLs", "data.path=FILE reads a local file")
    target = place(url, sha256, cache_dir)
    if target.is_file():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_file():  # another process was quicker
            return target
        part = Path(f"{target}.part")
        _transfer_with_patience(url, part, report)
        found = sha256_file(part)
        if found != sha256:
            part.unlink()
            raise LLMError(
                f"{url} is not the expected file: its sha256 is {found[:12]}…, not {sha256[:12]}…; it was not kept",
                "try again; if it stays so, the file has changed: data.path=FILE uses a copy of your own",
            )
        part.replace(target)
    return target


def place(url: str, sha256: str, cache_dir: Path) -> Path:
    """Where `fetch` keeps its copy."""
    return cache_dir / f"{sha256[:16]}-{Path(urlsplit(url).path).name}"


def _transfer_with_patience(url: str, part: Path, report: Report) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _transfer(url, part, report)
        except (URLError, HTTPException, ConnectionError, TimeoutError) as err:
            reason = err.reason if isinstance(err, URLError) else err
            hopeless = isinstance(err, HTTPError) and err.code < 500 and err.code not in WORTH_ANOTHER_TRY
            if hopeless or attempt == ATTEMPTS or url.startswith("file:"):
                code = f"{err.code} " if isinstance(err, HTTPError) else ""
                raise LLMError(
                    f"could not download {url}: {code}{reason}",
                    "running again goes on from where it stopped; data.path=FILE uses a copy of your own",
                ) from err
            time.sleep(PAUSE * 2 ** (attempt - 1))


def _transfer(url: str, part: Path, report: Report) -> None:
    """Append what is missing in `part`. Raises ConnectionError when the data ends before the announced length."""
    have = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"User-Agent": "llmcli"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as err:
        if err.code == 416:  # the part is as long as the file, or longer: it cannot be a beginning of it
            part.unlink(missing_ok=True)
        raise
    with response:
        # a server without ranges sends the whole file again
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else 0
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                done += len(block)
                report("download", done, total)
    if done < total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")
