"""The engine on its own: a prompt in, tokens on stdout as they are generated, no HTTP."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import asdict, fields

from service.engine.cli import STARTER, _parser
from service.engine.llama.model import Model, features
from service.protocol.deaths import by_signal
from service.protocol.options import Options
from tests.engine.child import ROOT, environment
from tests.patience import PATIENCE_S


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service.engine", "--n-threads", "1", *arguments]


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(**env), capture_output=True, timeout=PATIENCE_S, check=False
    )


@pytest.fixture(scope="module")
def endless(write: Callable[..., Path]) -> Path:
    return write("main-endless", n_ctx_train=1 << 15, endless=True)


def test_an_answer(endless: Path) -> None:
    """The answer alone is on stdout; what was loaded, the finish reason and the figures are on stderr."""
    done = run("Hello world", "--model", str(endless), "--max-tokens", "30", "--temperature", "0", "--n-ctx", "512")
    assert done.returncode == 0, done.stderr.decode()
    model = Model(endless)
    prompt = "<|im_start|>user\nHello world<|im_end|>\n<|im_start|>assistant\n"
    n_prompt = len(model.tokenize(prompt, add_special=True, parse_special=True))
    log = done.stderr.decode()
    assert "engine: tiny (" in log and "KV cache of 512 cells" in log
    assert f"engine: length; {n_prompt} prompt tokens, 30 generated" in log
    assert done.stdout.decode()
    again = run("Hello world", "--model", str(endless), "--max-tokens", "30", "--temperature", "0", "--n-ctx", "512")
    assert again.stdout == done.stdout


def test_speculation(endless: Path) -> None:
    """It can be switched off, and if results are exact that changes no answer."""
    arguments = ("a b c a b c a b", "--model", str(endless), "--max-tokens", "60", "--temperature", "0")
    exact = ("--n-ctx", "512", "--kv-type", "bf16", "--flash-attention", "on", "--raw")
    auto, off = (run(*arguments, *exact, "--speculation", mode) for mode in ("auto", "off"))
    assert auto.returncode == off.returncode == 0, auto.stderr.decode()
    assert auto.stdout == off.stdout != b""


def test_raw_and_system(endless: Path) -> None:
    """--raw completes the prompt as it stands; --system puts a message before it."""
    model = Model(endless)
    for arguments, prompt in [
        (["--raw"], "fox"),
        (
            ["--system", "hello"],
            "<|im_start|>system\nhello<|im_end|>\n<|im_start|>user\nfox<|im_end|>\n<|im_start|>assistant\n",
        ),
    ]:
        done = run("fox", "--model", str(endless), "--max-tokens", "1", "--n-ctx", "512", *arguments)
        n = len(model.tokenize(prompt, add_special=True, parse_special=True))
        assert f"; {n} prompt tokens, 1 generated" in done.stderr.decode()


def test_it_streams(endless: Path) -> None:
    """Text arrives while the answer is still being generated, however little of it there is."""
    arguments = ["fox", "--model", str(endless), "--max-tokens", "2500", "--temperature", "0", "--n-ctx", "4096"]
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        # More than the pipe holds, so the engine waits for its reader; less than Python would hold back by itself.
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        first = os.read(process.stdout.fileno(), 1)
        os.set_blocking(process.stderr.fileno(), False)
        assert b"prompt tokens" not in (process.stderr.read() or b"")  # its last line is still to come
        rest = process.stdout.read()
        assert 4096 + 1 < len(first + rest) < 8192
        assert process.wait(PATIENCE_S) == 0


def test_a_seed_repeats(endless: Path) -> None:
    """--seed and --temperature reach the sampler: a seed repeats an answer, another seed changes it."""
    one, again, other = (
        run("fox", "--model", str(endless), "--max-tokens", "20", "--n-ctx", "512", "--temperature", "2", "--seed", s)
        for s in ("1", "1", "2")
    )
    assert one.stdout == again.stdout != other.stdout


def test_a_missing_model(tmp_path: Path) -> None:
    """It is one line on stderr and status 1, no traceback."""
    done = run("x", "--model", str(tmp_path / "absent.gguf"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith("engine: there is no model file at ")
    assert "Traceback" not in done.stderr.decode()


def test_too_large_a_budget(endless: Path) -> None:
    """A KV cache that does not fit is one line, too, with the status of an invalid setting."""
    done = run("x", "--model", str(endless), "--n-ctx", str(2**31 - 1))
    assert done.returncode == 2
    assert "RILL_N_CTX" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_too_long_a_prompt(endless: Path) -> None:
    """A prompt that does not fit is an error with the counts."""
    done = run("x" * 1000, "--model", str(endless), "--n-ctx", "256")
    assert done.returncode == 1
    assert "maximum context length is 256 tokens" in done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--n-seq", "0"],
        ["--n-seq", "257"],
        ["--kv-type", "f8"],
        ["--flash-attention", "maybe"],
        ["--prefix-scope", "some"],
    ],
)
def test_arguments_out_of_range(arguments: list[str]) -> None:
    """What llama.cpp does not support is refused with the allowed values."""
    done = run(*arguments)
    assert done.returncode == 2
    assert b"usage:" in done.stderr


def test_each_option_is_a_flag() -> None:
    """With the option's default and type; without a named model it is the starter."""

    def options(*arguments: str) -> dict[str, object]:
        args = vars(_parser().parse_args(arguments))
        return {option.name: args[option.name] for option in fields(Options)}

    default = asdict(Options(model=str(STARTER)))
    assert options() == default
    given = ("--model", "m.gguf", "--n-threads", "2", "--step-ms", "50", "--split-mode", "row")
    assert options(*given) == default | {"model": "m.gguf", "n_threads": 2, "step_ms": 50.0, "split_mode": "row"}


def watched(script: str) -> subprocess.CompletedProcess[str]:
    """What `python -m service.engine` does with a child that runs this."""
    watch = (
        f"import sys; from service.engine.__main__ import _watch; sys.exit(_watch([sys.executable, '-c', {script!r}]))"
    )
    return subprocess.run([sys.executable, "-c", watch], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", [signal.SIGILL, signal.SIGKILL, signal.SIGSEGV])
def test_a_death_by_a_signal_is_reported(number: signal.Signals) -> None:
    """With the front's text and a shell's status, whatever the child itself could report."""
    done = watched(f"import os; os.kill(os.getpid(), {int(number)})")
    told = by_signal(number, features=features())
    assert done.stderr.splitlines()[-1] == f"engine: {told}"
    assert done.returncode == 128 + number


def test_another_exit_is_passed_on() -> None:
    """The child's status and output are unchanged."""
    done = watched("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_sigterm_ends_the_child() -> None:
    """Even before anything is loaded it leaves no child behind."""
    with subprocess.Popen(
        command("x", "--max-tokens", "1000000", "--n-ctx", "1024"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
        assert not Path(f"/proc/{child}").exists()


def test_the_starter() -> None:
    """Without --model the embedded starter answers the default prompt, in words."""
    done = run("--temperature", "0", "--n-ctx", "1024", "--max-tokens", "60")
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout.decode().split()) >= 20
