"""Fetching GPT-2's files from a server on this machine: whole, resumed, cut off, wrong, absent; then using them."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from file_server import Handler, serving

from tinygpt.cli.main import main
from tinygpt.files import locks, published
from tinygpt.files.fetch import fetch
from tinygpt.files.locate import locate
from tinygpt.files.owner_file import create_owner_file, describe_owner
from tinygpt.files.published import PublishedFile
from tinygpt.tokenizer import Tokenizer

CONTENTS = {"encoder.json": bytes(range(256)) * 1000, "vocab.bpe": b"#version: 0.2\nh e\n" * 500}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server of small files, which count as the published ones; and an empty cache."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TINYGPT_TOKENIZER_URL", raising=False)
    small = {name: PublishedFile(len(data), hashlib.sha256(data).hexdigest()) for name, data in CONTENTS.items()}
    monkeypatch.setitem(published.PUBLISHED, "gpt2", small)
    with serving(CONTENTS) as running:
        running.folder = tmp_path / "cache" / "tinygpt" / "tokenizers" / "gpt2"
        yield running


def get(server, **options):
    return fetch("gpt2", **{"base_url": server.url, "progress": False, "timeout": 5.0} | options)


def assert_whole(server) -> None:
    assert {path.name: path.read_bytes() for path in server.folder.iterdir()} == CONTENTS


def test_both_files_are_fetched_once(server):
    assert get(server) == server.folder
    assert_whole(server)
    assert server.requests == [("/files/encoder.json", None), ("/files/vocab.bpe", None)]
    get(server)
    assert len(server.requests) == 2


def test_without_locks_what_a_killed_fetch_left_stops_nobody(server, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    server.folder.mkdir(parents=True)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    owner = describe_owner(server.folder, locked=False)
    create_owner_file(server.folder, owner._replace(process=owner.process._replace(pid=int(ended.stdout))))
    get(server)
    assert_whole(server)
    (server.folder / "vocab.bpe").unlink()
    (server.folder / "owner.json").write_bytes(b"")  # damaged
    get(server)
    assert_whole(server)


def test_a_cache_that_is_whole_is_only_read(server, monkeypatch):
    get(server)
    (server.folder / "owner.json").write_text("of nobody")
    before = (server.folder.stat().st_mtime_ns, sorted(path.name for path in server.folder.iterdir()))
    monkeypatch.setattr(locks, "fcntl", None)
    get(server)
    assert before == (server.folder.stat().st_mtime_ns, sorted(path.name for path in server.folder.iterdir()))


def test_a_changed_file_is_fetched_again(server):
    get(server)
    (server.folder / "vocab.bpe").write_bytes(b"something else")
    get(server, base_url=server.url.rstrip("/"))
    assert_whole(server)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(server, ranges):
    server.stop, server.ranges = 100_000, ranges
    with pytest.raises(ConnectionError, match=r"broke off .* the 100,000 bytes that came are kept"):
        get(server)
    assert [path.name for path in server.folder.iterdir()] == ["encoder.json.partial"]
    server.stop = None
    get(server)
    assert_whole(server)
    assert server.requests[1] == ("/files/encoder.json", "bytes=100000-")


@pytest.mark.parametrize("left", [b"not its beginning", b"x" * 256_000, b"x" * 300_000])
def test_what_is_left_of_another_file_is_not_used(server, left):
    server.folder.mkdir(parents=True)
    (server.folder / "encoder.json.partial").write_bytes(left)
    get(server)
    assert_whole(server)


def test_a_part_that_is_whole_needs_no_request(server):
    server.folder.mkdir(parents=True)
    (server.folder / "encoder.json.partial").write_bytes(CONTENTS["encoder.json"])
    get(server)
    assert_whole(server)
    assert [path for path, _ in server.requests] == ["/files/vocab.bpe"]


@pytest.mark.parametrize(
    "wrong", [b"<html>please log in</html>", CONTENTS["vocab.bpe"][:-1] + b"!", CONTENTS["vocab.bpe"] * 9, b""]
)
def test_a_wrong_file_is_not_kept(server, wrong):
    server.files["vocab.bpe"] = wrong
    with pytest.raises(ValueError, match=r"vocab\.bpe must have 9,000 bytes with the SHA-256 .*; nothing is kept"):
        get(server)
    assert [path.name for path in server.folder.iterdir()] == ["encoder.json"]


def test_a_server_that_cannot_go_on_where_we_are(server):
    """It has less than we have: it answers 416, then its own file, which is wrong."""
    server.folder.mkdir(parents=True)
    (server.folder / "vocab.bpe.partial").write_bytes(CONTENTS["vocab.bpe"][:5000])
    server.files["vocab.bpe"] = b"short"
    with pytest.raises(ValueError, match="got 5 with"):
        get(server)


def test_servers_that_refuse(server):
    server.files.clear()
    with pytest.raises(FileNotFoundError, match=r"there is no http://.*/files/encoder\.json \(404\); check --base-url"):
        get(server)
    server.status = 503
    with pytest.raises(ConnectionError, match="answered 503; try again later"):
        get(server)


def test_no_server_at_all(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=r"cannot reach http.*refused.*; check the network and --base-url"):
        get(server, base_url=url)


def test_a_silent_server(server):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TimeoutError, match=r"no answer from http://.* in 0\.2 s"):
            get(server, base_url=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "127.0.0.1", "http://", "http://a b/"])
def test_addresses_that_make_no_sense(server, url):
    with pytest.raises(ValueError, match=r"base address must begin with http\(s\)://"):
        get(server, base_url=url)
    with pytest.raises(ValueError, match="the name must be one of gpt2, got 'gpt5'"):
        fetch("gpt5")


def test_the_command_takes_the_address_from_the_environment(server, monkeypatch, capsys):
    monkeypatch.setenv("TINYGPT_TOKENIZER_URL", server.url)
    assert main(["tokenizer", "fetch", "gpt2", "--quiet"]) == 0
    assert_whole(server)
    captured = capsys.readouterr()
    assert "--tokenizer gpt2 now means these" in captured.out and captured.err == ""
    server.files.clear()
    (server.folder / "vocab.bpe").unlink()
    assert main(["tokenizer", "fetch", "gpt2", "--quiet"]) == 2
    assert "(404)" in capsys.readouterr().err


@pytest.mark.parametrize("locked", [True, False], ids=["locks", "no locks"])
def test_two_that_fetch_at_once_share_one_download(server, capfd, monkeypatch, locked):
    """The second comes while the first waits for its answer, says so, waits, and then finds the files there."""
    if not locked:
        monkeypatch.setattr(locks, "fcntl", None)
    asked, go_on = threading.Event(), threading.Event()

    class Slow(Handler):
        def do_GET(self):
            asked.set()
            go_on.wait(10)
            super().do_GET()

    server.RequestHandlerClass = Slow
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(get, server)
        assert asked.wait(10)
        second = pool.submit(get, server, progress=True)
        said = ""
        while "waiting until it is done" not in said:
            assert not second.done()
            said += capfd.readouterr().err
            time.sleep(0.01)
        go_on.set()
        assert first.result(10) == second.result(10) == server.folder
    assert_whole(server)
    assert [path for path, _ in server.requests] == ["/files/encoder.json", "/files/vocab.bpe"]


# The published sums, and the name


def test_the_sums_are_those_of_the_published_files(shared_data):
    assert published.PUBLISHED["gpt2"].keys() == {"encoder.json", "vocab.bpe"}
    for name, file in published.PUBLISHED["gpt2"].items():
        data = (shared_data / "gpt2" / name).read_bytes()
        assert file == PublishedFile(len(data), hashlib.sha256(data).hexdigest())


def test_the_name_means_what_was_fetched(monkeypatch, tmp_path, shared_data, gpt2):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match='run "tinygpt tokenizer fetch gpt2" where there is a network'):
        Tokenizer.from_pretrained("gpt2")
    cached = tmp_path / "cache" / "tinygpt" / "tokenizers" / "gpt2"
    cached.mkdir(parents=True)
    (cached / "encoder.json").write_bytes((shared_data / "gpt2" / "encoder.json").read_bytes())
    with pytest.raises(FileNotFoundError, match="tokenizer fetch gpt2"):
        Tokenizer.from_pretrained("gpt2")
    (cached / "vocab.bpe").write_bytes((shared_data / "gpt2" / "vocab.bpe").read_bytes())
    assert Tokenizer.from_pretrained("gpt2").fingerprint == gpt2.fingerprint
    Tokenizer.train("", 256, special_tokens=(), progress=False).save_pretrained("gpt2")
    assert locate("gpt2", "tokenizer").resolve() == tmp_path / "gpt2"
    assert Tokenizer.from_pretrained("gpt2").n_vocab == 256
