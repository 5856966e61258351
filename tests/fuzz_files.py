"""
Files as a broken disk, a half download or a hostile stranger leaves them:

    python tests/fuzz_files.py --checkpoints 5000 --tokenizers 2000 --runs 1000 --seed 1

Each case is a folder that works, changed in one to three places, and a command that reads it. The command must work, or
say one line and end with status 2: no traceback, no wait of more than ten seconds, no file read that an index names
outside of its folder, and no more memory than twice the folder's size (and a fixed amount). Cases run in a child
process under a limit of memory; one that takes too long is killed, and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 10.0
ADDRESS_SPACE = 4 << 30  # bytes
SLACK = 64 << 20  # bytes that a command may take whatever the folder: what is imported when first needed, one page each
TEXT = "The hen said good night to the moon, and the moon said good night to the hen. " * 40
IMPORTS = [
    "generation.completion", "gpt2.memory_estimate", "gpt2.model", "quantization", "runtime.memory_limit",
    "study.inspection_pictures", "text.streaming", "text.token_file", "tokenizer.explain", "files.fetch",
    "training.evaluate", "training.train",
]  # fmt: skip


# The folders that work


def make_bases(folder: Path) -> None:
    """One folder of each kind that can be opened."""
    import numpy as np

    from tinygpt import GPT, GPTConfig, Tokenizer
    from tinygpt.files.safetensors_file import write_tensors
    from tinygpt.text.token_file import write_token_file
    from tinygpt.tokenizer.pattern import PATTERNS
    from tinygpt.training.settings import TrainingSettings
    from tinygpt.training.train import train

    tokenizer = Tokenizer.train(TEXT, 270, progress=False)
    model = GPT(GPTConfig(vocab_size=272, n_positions=8, n_embd=8, n_layer=2, n_head=2))
    state = {f"transformer.{name}": array for name, array in model.state_dict().items()}

    def checkpoint(name: str) -> Path:
        model.save_pretrained(folder / "checkpoints" / name, tokenizer)
        return folder / "checkpoints" / name

    checkpoint("whole")
    write_tensors(checkpoint("half") / "model.safetensors", {name: a.astype(np.float16) for name, a in state.items()})
    shards = checkpoint("shards")
    (shards / "model.safetensors").unlink()
    names = sorted(state)
    places = {name: f"model-0000{1 + number % 3}-of-00003.safetensors" for number, name in enumerate(names)}
    for shard in set(places.values()):
        write_tensors(shards / shard, {name: state[name] for name in names if places[name] == shard})
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    one = checkpoint("one-file")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (one / name).unlink()
    tokenizer.to_tokenizer_json(one / "tokenizer.json")

    tokenizer.save_pretrained(folder / "tokenizers" / "two-files")
    shutil.copytree(folder / "tokenizers" / "two-files", folder / "tokenizers" / "openai")
    (folder / "tokenizers/openai/vocab.json").rename(folder / "tokenizers/openai/encoder.json")
    (folder / "tokenizers/openai/merges.txt").rename(folder / "tokenizers/openai/vocab.bpe")
    (folder / "tokenizers" / "json").mkdir()
    Tokenizer.train(TEXT, 270, progress=False, pattern=PATTERNS["cl100k"]).to_tokenizer_json(
        folder / "tokenizers/json/tokenizer.json"
    )
    (folder / "tokenizers" / "ranks").mkdir()
    tokenizer.to_tiktoken(folder / "tokenizers/ranks/ranks.tiktoken")

    for kind in ("text", "tokens"):
        base = folder / "runs" / kind
        base.mkdir(parents=True)
        tokenizer.save_pretrained(base / "tokenizer")
        (base / "text.txt").write_text(TEXT)
        data = "text.txt"
        if kind == "tokens":
            write_token_file(base / "text.bin", tokenizer.encode_to_numpy(TEXT), tokenizer.fingerprint)
            data = "text.bin"
        settings = TrainingSettings.from_preset("tiny", steps=4, eval_every=2, batch_size=1, context=8, eval_tokens=16,
                                                data=data, tokenizer="tokenizer")  # fmt: skip
        with contextlib.chdir(base) if hasattr(contextlib, "chdir") else _chdir(base):
            train(settings, "run", stop_after=2, progress=False)

    outside = folder / "outside"  # what no command may read
    outside.mkdir()
    write_tensors(outside / "model.safetensors", state)
    for name in ("whole", "half"):
        assert (folder / "checkpoints" / name).is_dir()


@contextlib.contextmanager
def _chdir(folder: Path):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# Changes


ODD_NAMES = [
    "a\nb",
    "\x1b[2J",
    "..",
    "../outside/model.safetensors",
    "/etc/passwd",
    "",
    "\u202e",
    "ß" * 300,
    "x\0y",
    "é",
]
Rng = random.Random


def odd_value(rng: Rng) -> Any:
    """A JSON value that nobody expects."""
    numbers = [0, 1, -1, 2**31, 2**32, 10**9, 10**12, 2**63, 10**30, 10**90, 0.5, -0.0, 1e308, 1e-320]
    texts = ["", "a", "gpt2", "1", "a" * 100_000, rng.choice(ODD_NAMES), "\ud800"]
    holders = [[], {}, [0], [[]], {"a": 1}, [None] * 3, list(range(2000)), dict.fromkeys(map(str, range(2000)), 7)]
    deep = nested(rng.choice([5, 40, 900]))
    return rng.choice([None, True, False, float("nan"), float("inf"), *numbers, *texts, *holders, deep])


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def change_json(rng: Rng, value: Any) -> Any:
    """One place of a JSON value, changed; objects and lists are changed in place."""
    holders = [value]
    for holder in holders:
        if len(holders) < 5000:
            holders += [item for item in (holder.values() if isinstance(holder, dict) else holder)
                        if isinstance(item, (dict, list)) and item]  # fmt: skip
    holder = rng.choice(holders[: rng.choice([1, 2, 5, 5000])])
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    if not keys:
        return odd_value(rng)
    key, kind = rng.choice(keys), rng.randrange(9)
    if kind < 4:
        holder[key] = odd_value(rng)
    elif kind == 4:
        del holder[key]
    elif kind == 5 and isinstance(holder, dict):
        holder[rng.choice([*ODD_NAMES, str(key) + " ", str(rng.choice(keys))])] = holder.pop(key)
    elif kind == 6:
        other = rng.choice(keys)
        holder[key], holder[other] = holder[other], holder[key]
    elif kind == 7 and type(holder[key]) in (int, float):
        holder[key] = rng.choice(
            [holder[key] + 1, holder[key] * 2, -holder[key], str(holder[key]), float(holder[key]), 10**9]
        )
    elif isinstance(holder, dict):
        holder[rng.choice([*ODD_NAMES, "n_layer", "dtype", "extra"])] = odd_value(rng)
    return value


def json_file(rng: Rng, path: Path) -> None:
    value = json.loads(path.read_text())
    for _ in range(rng.choice([1, 1, 1, 3])):
        value = change_json(rng, value) if value else odd_value(rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.9)
    kind = rng.randrange(12)
    if kind == 0:
        text = rng.choice(["[", '{"a":']) * rng.choice([10, 1000, 100_000]) + text
    elif kind == 1:
        text = text.replace(":", ": " + "1" * rng.choice([30, 5000]), 1)
    elif kind == 2 and text.startswith("{") and len(text) > 2:
        text = "{" + text[1:].split(",", 1)[0].rstrip("}") + "," + text[1:]  # the first name twice
    elif kind == 3:
        text = "\ufeff" + text
    path.write_bytes(text.encode(rng.choice(["utf-8"] * 8 + ["utf-16", "utf-8-sig"]), "surrogatepass"))


def safetensors(rng: Rng, path: Path) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    kind = rng.randrange(10)
    if kind == 0:
        new = rng.choice([0, 1, 2, length - 1, length + 1, len(data) - 8, len(data), 2**31, 2**62, 2**64 - 1])
        path.write_bytes(struct.pack("<Q", new % 2**64) + data[8:])
    elif kind == 1:
        with path.open("r+b") as file:
            file.truncate(rng.choice([len(data) + 1, len(data) + 4096, 1 << 30, 40 << 30]))
    elif kind == 2:  # one array of a size that nothing can hold, in a file with holes
        size = rng.choice([1 << 20, 1 << 33, 40 << 30])
        name = rng.choice(list(json.loads(data[8 : 8 + length])))
        head = json.dumps({name: {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
        path.write_bytes(struct.pack("<Q", len(head)) + head)
        with path.open("r+b") as file:
            file.truncate(8 + len(head) + size)
    else:
        header = json.loads(data[8 : 8 + length])
        for _ in range(rng.choice([1, 1, 2, 5])):
            header = change_json(rng, header) if header else odd_value(rng)
        head = json.dumps(header).encode("utf-8", "surrogatepass")
        if kind == 3:
            head = rng.choice([b"[", b'{"a":', b'{"__metadata__":']) * rng.choice([10, 100_000]) + head
        head += b" " * (-len(head) % 8)
        path.write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])


def lines(rng: Rng, path: Path) -> None:
    found = path.read_bytes().split(b"\n")
    place, kind = rng.randrange(len(found)), rng.randrange(9)
    if kind == 0:
        found[place] = rng.choice(
            [b"", b" ", b"a", b"a b c", b"{}", b"1", b"[]", b"null", b"\xff\xfe", b"\0" * 9, b"a b\r"]
        )
    elif kind == 1:
        found[place] = rng.choice([b"a", b" ", b"a ", b"[", b"=", b"9"]) * rng.choice([100, 5000, 300_000])
    elif kind == 2:
        rng.shuffle(found)
    elif kind == 3:
        found = found[:place]
    elif kind == 4:
        found.insert(place, rng.choice(found))
    elif kind == 5:
        del found[place]
    elif kind == 6:
        found[place] = rng.choice(["é", "a\u2028b c", "\x1b[2J x", "Ġ \ud800"]).encode("utf-8", "surrogatepass")
    elif kind == 7:
        found[place] = found[place].replace(b":", b": " + b"9" * rng.choice([1, 30, 5000]))
    else:
        found = found * rng.choice([2, 50])
    path.write_bytes(b"\n".join(found))


def any_bytes(rng: Rng, path: Path) -> None:
    data = bytearray(path.read_bytes())
    kind, place = rng.randrange(7), rng.randrange(len(data) + 1)
    if kind == 0:
        del data[place:]
    elif kind == 1:
        for _ in range(rng.choice([1, 1, 8, 64]) if data else 0):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[place : place + rng.choice([1, 8, 512])] = bytes(rng.choice([1, 8, 512]))
    elif kind == 3:
        data[place:place] = rng.randbytes(rng.choice([1, 8, 512]))
    elif kind == 4:
        data = bytearray(rng.randbytes(rng.choice([0, 1, 8, 100, 5000])))
    elif kind == 5:
        data += data[: rng.choice([1, 100, len(data)])]
    else:
        data[place : place + 8] = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**63, 2**64 - 1]))
    path.write_bytes(data)


def no_file(rng: Rng, path: Path) -> None:
    """Something else under the same name."""
    other = rng.choice([child for child in path.parent.iterdir() if child.is_file()])
    with other.open("rb") as file:
        data = file.read(1 << 20)  # it may be large by now
    path.unlink()
    kind = rng.randrange(9)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(
            rng.choice(["/dev/zero", "/dev/full", "/dev/null", "/dev/urandom", "/dev/tty", "/proc/self/mem"])
        )
    elif kind == 3:
        path.symlink_to(path.name)
    elif kind == 4:
        path.symlink_to("nowhere")
    elif kind == 5 and len(str(path)) < 100:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == 6:
        path.write_bytes(data)  # another file of the folder
    elif kind == 7:
        path.write_bytes(b"")


def index(rng: Rng, path: Path) -> None:
    """An index that leads out of its folder, by a name or by a link."""
    value, outside = json.loads(path.read_text()), path.parents[1] / "bases" / "outside" / "model.safetensors"
    name = rng.choice(list(value["weight_map"]))
    shard = path.parent / value["weight_map"][name]
    way = rng.randrange(3)
    if way == 0:
        value["weight_map"][name] = rng.choice([str(outside), f"../bases/outside/{outside.name}", *ODD_NAMES])
        path.write_text(json.dumps(value))
    elif way == 1:
        shard.unlink()
        shard.symlink_to(rng.choice([outside, f"../bases/outside/{outside.name}"]))
    else:
        (path.parent / "link").symlink_to(outside.parent)
        value["weight_map"] = dict.fromkeys(value["weight_map"], f"link/{outside.name}")
        path.write_text(json.dumps(value))


def change(rng: Rng, folder: Path) -> str:
    """One file of a folder, changed; what was done."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    paths = sorted(path for path in files if path.stat().st_size < 1 << 26)  # not what was made huge before
    if not paths:  # earlier changes left none
        return "nothing"
    path = rng.choice(paths)
    fitting: list[Callable[[Rng, Path], None]] = [any_bytes, no_file]
    if path.name.endswith(".index.json"):
        fitting += [index] * 4
    if path.suffix == ".json":
        fitting += [json_file] * 6
    elif path.suffix == ".safetensors":
        fitting += [safetensors] * 6
    else:
        fitting += [lines] * 3
    way = rng.choice(fitting)
    try:
        way(rng, path)
    except (
        ValueError,
        struct.error,
        IndexError,
        AttributeError,
        TypeError,
        RecursionError,
    ):  # an earlier change was there
        any_bytes(rng, path) if path.is_file() and not path.is_symlink() else None
    return f"{way.__name__} {path.relative_to(folder)}"


# Commands


def command(rng: Rng, kind: str, folder: Path) -> list[str]:
    if kind == "checkpoints":
        return rng.choice([
            *[["generate", str(folder), "--prompt", "the hen", "--max-tokens", "1"]] * 4,
            ["generate", str(folder), "--prompt", "a", "--max-tokens", "1", "--weights", "int8"],
            ["train", "--dry-run", "--init-from", str(folder)],
        ])  # fmt: skip
    if kind == "tokenizers" and folder.name.startswith("ranks"):
        return ["ranks"]
    if kind == "tokenizers":
        return rng.choice([["tokenizer", "info", str(folder)],
                           ["tokenizer", "explain", "the hen 's 12345 é", "--tokenizer", str(folder)]])  # fmt: skip
    return ["train", "--resume", "--out", "run", "--quiet"]


def run(arguments: list[str], folder: Path) -> int:
    from tinygpt import Tokenizer
    from tinygpt.cli.main import MISTAKES, main

    if arguments != ["ranks"]:
        return main(arguments)
    try:
        print(Tokenizer.from_tiktoken(folder / "ranks.tiktoken").encode("the hen 's 12345 é"))
    except MISTAKES as error:
        print(f"tinygpt: {error}", file=sys.stderr)
        return 2
    return 0


# One case


def peak_memory() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def forget_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def one_case(kind: str, number: int, seed: int, bases: Path, opened: list[str]) -> tuple[str, str]:
    """Outcome, and what to say of it."""
    rng = Rng(f"{seed} {kind} {number}")
    base = rng.choice(sorted((bases / kind).iterdir()))
    folder = bases.parent / f"{base.name}-{kind[0]}{number}"
    shutil.copytree(base, folder)
    try:
        done = "; ".join(change(rng, folder) for _ in range(rng.choice([1, 1, 1, 2, 3])))
        size = sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
        arguments = command(rng, kind, folder)
        out, err = io.StringIO(), io.StringIO()
        opened.clear()
        forget_peak()
        before, start, busy = peak_memory(), time.monotonic(), -time.process_time()
        status: Any = "?"
        with _chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = run(arguments, folder)
            except SystemExit as error:
                status = error.code
            except BaseException as error:
                return f"traceback {type(error).__name__}", f"{done}: {error!r}"[:300]
        busy += time.process_time()
        seconds, grown = time.monotonic() - start, peak_memory() - before
        told = [line for line in err.getvalue().splitlines() if not line.startswith("tinygpt: warning: ")]
        outside = str(bases / "outside")
        if any(os.path.realpath(path).startswith(outside) for path in opened):
            return "read outside", done
        if seconds > SECONDS and (busy > SECONDS / 2 or seconds > 2 * SECONDS):  # else others had the processor
            return "hang", f"{done}: {seconds:.1f} s"
        if grown > 2 * size + SLACK:
            return "memory", f"{done}: {grown:,} bytes for {size:,}"
        if status == 2 and len(told) == 1 and told[0].startswith("tinygpt: ") and told[0].isprintable():
            return "refused", f"{done}: {told[0]}"
        if status == 0 and not told:
            return "opened", done
        return "several lines", f"{done}: {status} {told[:3]}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def child(kind: str, start: int, stop: int, seed: int, bases: Path) -> None:
    """Run cases, telling each before and after on standard output."""
    os.environ["TINYGPT_IMPLEMENTATION"] = "numpy"
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    opened: list[str] = []
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    tell = os.fdopen(os.dup(1), "w")
    import tinygpt.training.train

    for name in IMPORTS:
        importlib.import_module(f"tinygpt.{name}")  # what commands import: not memory of the first case

    sys.modules["matplotlib.backends.backend_agg"] = None  # type: ignore[assignment]  # pictures take most of the time
    tinygpt.training.train.STORY_TOKENS = 4
    for number in range(start, stop):
        print(json.dumps([number]), file=tell, flush=True)
        print(json.dumps([number, *one_case(kind, number, seed, bases, opened)]), file=tell, flush=True)


class Watch:
    """Kills a process that has told nothing for long; what is slow without hanging ends by itself, and is told."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.seen, self.finished = process, time.monotonic(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.finished.wait(0.5):
            if time.monotonic() - self.seen > SECONDS + 20:
                self.process.kill()


def fuzz(kind: str, count: int, seed: int, bases: Path, show: Callable[[str], None]) -> Counter[str]:
    """How often each outcome was."""
    outcomes: Counter[str] = Counter()
    number = 0
    while number < count:
        arguments = [sys.executable, __file__, "--child", kind, str(number), str(count), str(seed), str(bases)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            watch = Watch(process)
            assert process.stdout and process.stderr
            for line in process.stdout:
                watch.seen = time.monotonic()
                found = json.loads(line)
                if len(found) == 1:
                    number = found[0]
                    continue
                _, outcome, what = found
                outcomes[outcome] += 1
                if outcome not in ("refused", "opened") or os.environ.get("FUZZ_SHOW_ALL"):
                    show(f"{kind} {number}: {outcome}: {what}")
                number += 1
            watch.finished.set()
            error = process.stderr.read()[-300:]
            process.wait()
        if number < count:
            outcomes["killed"] += 1
            show(f"{kind} {number}: killed, status {process.returncode}: {error}")
            number += 1
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fuzz everything that reads files.")
    for kind in ("checkpoints", "tokenizers", "runs"):
        parser.add_argument(f"--{kind}", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one case alone, and what it says")
    options = parser.parse_args(arguments)
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        bases = Path(temporary).resolve() / "bases"
        os.environ["TINYGPT_IMPLEMENTATION"] = "numpy"
        make_bases(bases)
        for kind in ("checkpoints", "tokenizers", "runs"):
            count = getattr(options, kind)
            if options.only is not None and count:
                print(one_case(kind, options.only, options.seed, bases, []))
                continue
            start = time.monotonic()
            outcomes = fuzz(kind, count, options.seed, bases, lambda line: print(line, flush=True))
            bad += sum(outcomes.values()) - outcomes["refused"] - outcomes["opened"]
            told = ", ".join(f"{outcome} {times}" for outcome, times in sorted(outcomes.items()))
            print(f"{kind}: {count} cases in {time.monotonic() - start:.0f} s: {told}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), Path(sys.argv[6]))
    else:
        sys.exit(main())
