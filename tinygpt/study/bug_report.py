"""
The facts that a bug report needs, as `tinygpt doctor --report` prints them: never an error, and nothing private.

Each fact is found by a function of its own, whose failure becomes its line: a report is needed most where something
is broken, NumPy and Numba included, which are imported only inside. The user's home is written as ``~``, and of
variables that may hold a password or a key it is said only that they are set.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import tinygpt
from tinygpt.files.one_line import one_line

_SHOWN = re.compile(
    r"(TINYGPT|NUMBA|OMP|GOMP|KMP|OPENBLAS|MKL|VECLIB)_.*|XDG_CACHE_HOME|HF_(HOME|ENDPOINT|HUB_OFFLINE)"
    r"|PYTHON(PATH|HOME|OPTIMIZE|UTF8)"
)
_SECRET = re.compile(r".*(TOKEN|KEY|SECRET|PASSWORD)(?!IZER).*|HTTPS?_PROXY|ALL_PROXY", re.IGNORECASE)
_LONGEST = 600  # characters of a line
_CHECK_SECONDS = 300.0  # for the self-check, which may have to compile
_ROOT = Path(tinygpt.__file__).resolve().parents[1]


def bug_report() -> dict[str, str]:
    """
    The facts, each in one line.

    Returns
    -------
    dict of str to str
        From what a line is about to what it says.

    Examples
    --------
    >>> bug_report()["tinygpt"].split(",")[0] == tinygpt.__version__
    True
    """
    variables = dict(os.environ)  # before an import adds some
    parts: dict[str, Callable[[], str]] = {
        "tinygpt": _tinygpt,
        "Python": _python,
        "system": _system,
        "terminal": _terminal,
        "processor": _processor,
        "cores": _cores,
        "memory": _memory,
        "NumPy": _numpy,
        "Numba": _numba,
        "packages": lambda: _packages(""),
        "extras": _extras,
        "environment": lambda: environment(variables),
        "cache": _cache,
        "kernels": _kernels,
        "self-check": _run_self_check,
    }
    return {name: _line(find) for name, find in parts.items()}


def as_markdown(found: Mapping[str, str]) -> str:
    """
    The facts as a list in Markdown.

    Examples
    --------
    >>> print(as_markdown({"Python": "3.11.2", "memory": "16 GB"}))
    - Python: `3.11.2`
    - memory: `16 GB`
    """
    return "\n".join(f"- {name}: `{text.replace('`', chr(39))}`" for name, text in found.items())


def _line(find: Callable[[], str]) -> str:
    try:
        text = find()
    except Exception as error:  # whatever it is, it is part of the report
        text = f"failed: {type(error).__name__}: {error}"
    text = one_line(_without_home(text))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _without_home(text: str) -> str:
    with contextlib.suppress(RuntimeError):
        home = str(Path.home())
        if len(home) > 1:
            return re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
    return text


def _tinygpt() -> str:
    return f"{tinygpt.__version__}, {_installation()}{_commit()}"


def _installation() -> str:
    try:
        distribution = metadata.distribution("tinygpt")
    except metadata.PackageNotFoundError:
        return f"not installed, run from {_ROOT}"
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    editable = source.get("dir_info", {}).get("editable", False)
    place = url2pathname(urlsplit(source["url"]).path) if editable else str(distribution.locate_file(""))
    kind = "editable" if editable else "from a folder or a wheel" if source else "from a package index"
    if Path(place).resolve() != _ROOT:
        return f"run from {_ROOT}, besides an installation ({kind}, in {place})"
    return f"{kind}, in {_ROOT}"


def _commit() -> str:
    if not (_ROOT / ".git").exists():
        return ""
    try:
        return f", commit {_output('git', '-C', str(_ROOT), 'describe', '--always', '--dirty', '--exclude=*')}"
    except (OSError, subprocess.SubprocessError):
        return ", a clone whose commit git does not tell"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _python() -> str:
    kind = "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
    return f"{platform.python_version()}, {platform.python_implementation()}, {sys.executable}, {kind}"


def _system() -> str:
    name = ""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        name = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, "
    return name + platform.platform()


def _terminal() -> str:
    kind = os.environ.get("TERM", "no TERM") if sys.stderr is not None and sys.stderr.isatty() else "none"
    encoding = getattr(sys.stdout, "encoding", "no standard output")
    return f"{kind}, {shutil.get_terminal_size().columns} columns, {encoding}, LANG={os.environ.get('LANG', '')}"


def _processor() -> str:
    """The name even where Numba is broken: what follows it then says so."""
    from tinygpt.runtime.processor import identity

    name = identity().text
    try:
        from llvmlite.binding import get_host_cpu_name

        from tinygpt.kernels.simd.cpu import FEATURES
    except Exception as error:
        return f"{name}; its features: failed: {type(error).__name__}: {error}"
    features = [name for name in ("avx2", "fma", "avx512f", "avx512bf16", "amx-bf16", "neon") if name in FEATURES]
    return f"{name}, {' '.join(features) or 'no features that matter'} (LLVM: {get_host_cpu_name()})"


def _cores() -> str:
    from tinygpt.runtime.settings import available_cores, num_threads

    text = f"{os.cpu_count()}, this process may use {available_cores()}, threads {num_threads()}"
    for name in ("cpu.max", "cpu/cpu.cfs_quota_us"):
        with contextlib.suppress(OSError):
            text += f", cgroup {name} {Path('/sys/fs/cgroup', name).read_text(encoding='ascii').strip()}"
    if hasattr(os, "getloadavg"):
        text += f", load {os.getloadavg()[0]:.1f}"
    return text


def _memory() -> str:
    from tinygpt.runtime.memory_limit import memory_limit

    limit = memory_limit()
    text = f"this process can have {limit / 1e9:.3g} GB" if limit else "the system does not say how much"
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 / 1e9 for name, _, rest in (line.partition(":") for line in lines)}
        text += "".join(f", {name} {sizes[name]:.3g} GB" for name in ("MemTotal", "MemAvailable", "SwapTotal"))
    return text


def _numpy() -> str:
    import numpy

    blas = numpy.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return f"{numpy.__version__}, BLAS {blas.get('name', 'unknown')} {blas.get('version', '')}"


def _numba() -> str:
    import llvmlite
    import numba

    return f"{numba.__version__}, llvmlite {llvmlite.__version__}"


def _packages(extra: str) -> str:
    """The installed versions of what tinygpt needs, or of what an extra adds."""
    found = []
    for requirement in metadata.requires("tinygpt") or []:
        name, of_extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([\w-]+)", requirement)
        below = re.search(r"python_version < ['\"]3\.(\d+)", requirement)
        if below is not None and sys.version_info >= (3, int(below[1])):
            continue  # part of this Python
        if name is not None and extra == (of_extra[1] if of_extra else ""):
            try:
                found.append(f"{name[0]} {metadata.version(name[0])}")
            except metadata.PackageNotFoundError:
                found.append(f"{name[0]} missing")
    return ", ".join(found)


def _extras() -> str:
    extras = metadata.metadata("tinygpt").get_all("Provides-Extra") or []
    return "; ".join(f"{extra}: {_packages(extra)}" for extra in extras)


def environment(variables: Mapping[str, str]) -> str:
    """
    The variables that matter to tinygpt, without what is secret.

    Examples
    --------
    >>> environment({"OMP_NUM_THREADS": "2", "HF_TOKEN": "hf_1234", "PATH": "/bin"})
    'HF_TOKEN is set, OMP_NUM_THREADS=2'
    >>> environment({"TINYGPT_TOKENIZER_URL": "https://me:password@example.org/gpt2"})
    'TINYGPT_TOKENIZER_URL=https://...@example.org/gpt2'
    >>> environment({"HF_ENDPOINT": "https://me:pass@word@example.org?key=1234"})
    'HF_ENDPOINT=https://...@example.org?...'
    """
    shown = []
    for name, value in sorted(variables.items()):
        if _SECRET.fullmatch(name) and (
            _SHOWN.fullmatch(name) or name == "HF_TOKEN" or name.upper().endswith("_PROXY")
        ):
            shown.append(f"{name} is set")
        elif _SHOWN.fullmatch(name):
            value = re.sub(r"//.*@", "//...@", value)  # to the last @: a password may have one
            shown.append(f"{name}={re.sub(r'[?].*', '?...', value)}")
    return ", ".join(shown) or "nothing that matters is set"


def _cache() -> str:
    from tinygpt.files.cache_contents import contents
    from tinygpt.files.user_cache import cache_root

    root = cache_root()
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    state = "is there" if there == root else "is not there yet"
    state += ", can be written" if os.access(there, os.W_OK) else ", cannot be written"
    sizes: dict[str, int] = {}
    for entry in contents(set()):
        sizes[entry.kind] = sizes.get(entry.kind, 0) + entry.bytes
    held = "".join(f", {kind} {size / 1e6:.3g} MB" for kind, size in sizes.items() if size)
    return f"{root} {state}{held}; {shutil.disk_usage(there).free / 1e9:.3g} GB free on its disk"


def _kernels() -> str:
    from tinygpt.kernels.jit import compiler

    return f"not kept: {compiler.trouble()}" if compiler.trouble() else f"kept in {compiler.folder}"


def _run_self_check() -> str:
    """`self_check` in a process of its own: what a report is about may be that kernels crash, or never end."""
    code = f"import sys; sys.path[:] = {sys.path}; from {__name__} import self_check; print(self_check())"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        return f"failed: did not end within {_CHECK_SECONDS:g} s"
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return f"failed: exit status {done.returncode}, {said[-1] if said else 'without a message'}"
    return done.stdout.strip()


def self_check() -> str:
    """
    Compare kernels with their references, forward and backward, in both precisions, and say what was found.

    Raises
    ------
    Exception
        Whatever the comparison or the kernels raise.
    """
    import numpy as np

    import tinygpt.functional as F
    from tinygpt.autograd.tensor import Tensor
    from tinygpt.runtime.settings import float32_matmul_precision, implementation

    rng = np.random.default_rng(1)
    shapes = [(37, 48), (48, 33), (33,), (33,), (33,)]
    for precision in ("highest", "medium"):
        inputs = [Tensor(rng.standard_normal(shape, np.float32), requires_grad=True) for shape in shapes]
        x, weight, bias, scale, shift = inputs
        with implementation("check"), float32_matmul_precision(precision):
            F.gelu(F.layernorm(F.linear(x, weight, bias), scale, shift)).sum().backward()
        if not all(np.isfinite(np.asarray(each.grad)).all() for each in inputs):
            return f"WRONG: gradients that are not finite, in precision {precision}"
    return "linear, layernorm and gelu agree with their references, forward and backward, in float32 and bfloat16"
