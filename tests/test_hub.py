"""Models by name: fetched once from a hub, here a server of our own, and from its cache where there is no network."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tinygpt import GPT, GPTConfig, Tokenizer
from tinygpt.files.locate import locate

pytest.importorskip("huggingface_hub", reason="the hub's own client: install the extra 'hub'")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as its client asks for: a repository's files, and each file."""

    def do_GET(self):
        self.server.asked.append((self.command, self.path.split("?")[0]))
        path = self.path.split("?")[0].strip("/")
        folder = self.server.folder
        names = sorted(file.name for file in folder.iterdir())
        if path == "api/models/someone/small/revision/main" or path == f"api/models/someone/small/revision/{COMMIT}":
            self.answer({"id": "someone/small", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})
        elif path.startswith("api/models/someone/small/tree/"):
            self.answer([{"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": "0"}
                         for name in names])  # fmt: skip
        elif path.startswith("someone/small/resolve/") and path.split("/")[-1] in names:
            self.answer((folder / path.split("/")[-1]).read_bytes())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def answer(self, content):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *details):
        pass


@pytest.fixture
def hub(tmp_path):
    """A server with one model, and the environment in which its client knows it."""
    folder = tmp_path / "served"
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    GPT(GPTConfig(258, 32, 8, 1, 2), seed=1).save_pretrained(folder, tokenizer)
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked = folder, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache"),
                "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}  # fmt: skip
    yield server, {**os.environ, **settings}
    server.shutdown()
    server.server_close()


def tell(name: str, where: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tinygpt", "generate", name, "--prompt", "ab", "--max-tokens", "3", "--seed", "1"]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=120)


def test_a_name_is_fetched_once_and_is_there_without_a_network(hub, tmp_path):
    server, environment = hub
    expected = tell(str(server.folder), tmp_path, environment)
    assert expected.returncode == 0 and not server.asked  # a folder is a folder
    fetched = tell("someone/small", tmp_path, environment)
    assert (fetched.returncode, fetched.stdout) == (0, expected.stdout), fetched.stderr
    loaded = {path.split("/")[-1] for command, path in server.asked if command == "GET" and "/resolve/" in path}
    assert {"config.json", "model.safetensors", "vocab.json", "merges.txt"} <= loaded
    assert "pytorch_model.bin" not in loaded
    server.asked.clear()
    again = tell("someone/small", tmp_path, environment)
    assert again.stdout == expected.stdout
    assert not any(command == "GET" and "/resolve/" in path for command, path in server.asked)
    server.asked.clear()
    offline = tell("someone/small", tmp_path, {**environment, "HF_HUB_OFFLINE": "1"})
    assert offline.stdout == expected.stdout and not server.asked


def test_a_tokenizer_is_fetched_without_the_weights(hub, tmp_path):
    server, environment = hub
    program = "from tinygpt import Tokenizer; print(Tokenizer.from_pretrained('someone/small').n_vocab)"
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True,
                            text=True, timeout=120)  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "256\n"), result.stderr
    loaded = {path.split("/")[-1] for command, path in server.asked if command == "GET" and "/resolve/" in path}
    assert {"vocab.json", "merges.txt"} <= loaded and "model.safetensors" not in loaded


def test_every_command_and_function_takes_a_name_of_the_hub(hub, tmp_path):
    server, environment = hub
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import test_names
from pathlib import Path
from tinygpt import implementation
test_names.make(Path())
with implementation("numpy"):
    for what in ("model", "tokenizer"):
        test_names.check_that_both_mean_the_same("someone/small", sys.argv[2], what)
print("the same")
"""
    (tmp_path / "here").mkdir()
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(server.folder)]
    result = subprocess.run(
        command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.stdout == "the same\n", result.stderr
    assert server.asked


def test_a_configuration_is_fetched_alone(hub, tmp_path):
    server, environment = hub
    (tmp_path / "hens.txt").write_text("the hen and the other hens. " * 9)
    options = ["--init-from", "someone/small", "--data", "hens.txt", "--dry-run"]
    result = subprocess.run([sys.executable, "-m", "tinygpt", "train", *options], cwd=tmp_path, env=environment,
                            capture_output=True, text=True, timeout=120)  # fmt: skip
    assert result.returncode == 0 and "parameters" in result.stdout, result.stderr
    loaded = {path.split("/")[-1] for command, path in server.asked if command == "GET" and "/resolve/" in path}
    assert loaded == {"config.json"}


def test_the_tokenizer_of_a_model_that_was_fetched_is_there_without_a_network(hub, tmp_path):
    """`tokenizer fetch gpt2` is not needed where the hub's client has the model; it is not asked either."""
    server, environment = hub
    revision, snapshots = "0" * 40, Path(environment["HF_HOME"]) / "hub/models--openai-community--gpt2"
    shutil.copytree(server.folder, snapshots / "snapshots" / revision)
    (snapshots / "refs").mkdir()
    (snapshots / "refs" / "main").write_text(revision)
    program = "from tinygpt import Tokenizer; print(Tokenizer.from_pretrained('gpt2').n_vocab)"
    environment = {**environment, "XDG_CACHE_HOME": str(tmp_path / "empty")}
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True,
                            text=True, timeout=120)  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "256\n"), result.stderr
    assert not server.asked


def test_what_the_hub_does_not_have_is_one_line(hub, tmp_path):
    _, environment = hub
    for name, extra in (("someone/else", {}), ("gpt2", {}), ("someone/small", {"HF_HUB_OFFLINE": "1"})):
        result = tell(name, tmp_path, {**environment, **extra})
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        repository = "openai-community/gpt2" if name == "gpt2" else name
        assert f"there is no folder {name}, and the Hugging Face hub does not give {repository}: " in result.stderr
        assert f"download the files of https://huggingface.co/{repository}/tree/main with a browser" in result.stderr


def test_what_is_no_name_is_never_asked_for(hub, tmp_path, monkeypatch):
    server, environment = hub
    for name in ("runs/missing", "./someone/small", "a/b/c", "missing", "../x/y"):
        result = tell(name, tmp_path, environment)
        assert result.returncode == 2 and "must be a run, a checkpoint" in result.stderr
    assert not server.asked


def test_without_the_client_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # what import finds where it is not installed
    with pytest.raises(FileNotFoundError, match=r'there is no folder gpt2; .* pip install "tinygpt\[hub\]"'):
        locate("gpt2")
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "model.safetensors").touch()
    assert locate("gpt2") == Path("gpt2")
