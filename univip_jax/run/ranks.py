"""The processes of a run on this machine: how they start, how their output is passed on, how they end."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from selectors import EVENT_READ, BaseSelector
from typing import BinaryIO

# No rank may outlive a supervisor that was killed. Linux sees to it for a process that asks, so a small interpreter
# asks and then becomes the command; asking between fork and exec (preexec_fn) is what Python's manual warns of.
_BECOME = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != int(sys.argv[1]):  # it was killed before we asked
        sys.exit(137)
os.execvp(sys.argv[2], sys.argv[2:])
"""
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)")  # progress that overwrites itself ends with a carriage return alone
_CHUNK = 65536  # bytes


class Rank:
    """One process and its children: a group of its own, so that Ctrl-C reaches it once and nothing of it stays."""

    def __init__(self, index: int, command: Sequence[str], selector: BaseSelector | None):
        """Starts the command. Without a selector it writes to our stdout and stderr itself.

        With one its output comes through pipes that are registered there, with callbacks that pass on its lines, each
        with the prefix `[index] `.
        """
        self.index, self.seconds = index, 0.0
        self.code: int | None = None  # exit code, or minus the number of the signal that ended it
        self._started, self._selector = time.monotonic(), selector
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if selector else None,
            stderr=subprocess.PIPE if selector else None,
            bufsize=0,
            process_group=0,
            # Python writes to a pipe in blocks, not lines, unless told.
            env={**os.environ, "PYTHONUNBUFFERED": "1"} if selector else None,
        )
        self._pipes = []
        if selector:
            outputs = [(self._process.stdout, sys.stdout.buffer), (self._process.stderr, sys.stderr.buffer)]
            self._pipes = [_Pipe(source, sink, f"[{index}] ".encode()) for source, sink in outputs]
            for pipe in self._pipes:
                selector.register(pipe, EVENT_READ, partial(self._pass_on, pipe))

    def send(self, signum: int) -> None:
        """Sends the process a signal; without effect where it has ended."""
        if self.code is None:
            os.kill(self._process.pid, signum)

    def kill(self) -> None:
        """Ends the process and all its children at once; without effect where it has ended."""
        if self.code is None:
            # There is no such group where all have ended; macOS denies it while they are not waited for.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Whether the process has ended; then its children are ended, its output is passed on, its `code` is known."""
        if self.code is None and (code := self._process.poll()) is not None:
            self.kill()  # its children
            self.code, self.seconds = code, time.monotonic() - self._started
            for pipe in list(self._pipes):
                while pipe.pass_on():
                    pass
                self._drop(pipe)
        return self.code is not None

    def _pass_on(self, pipe: "_Pipe") -> None:
        if not pipe.pass_on() and pipe.closed:
            self._drop(pipe)

    def _drop(self, pipe: "_Pipe") -> None:
        self._pipes.remove(pipe)
        self._selector.unregister(pipe)
        pipe.close()


class _Pipe:
    """A process's stdout or stderr: whole lines are passed on as they come."""

    def __init__(self, source: BinaryIO, sink: BinaryIO, prefix: bytes):
        os.set_blocking(source.fileno(), False)
        self._source, self._sink, self._prefix, self._rest = source, sink, prefix, b""
        self.closed = False

    def fileno(self) -> int:
        """For selectors."""
        return self._source.fileno()

    def pass_on(self) -> bool:
        """Passes on what has come; False where nothing has, or the output is `closed`."""
        chunk = self._source.read(_CHUNK)
        self.closed = chunk == b""
        self._rest += chunk or b""
        lines = _LINE.findall(self._rest)
        self._rest = self._rest[sum(map(len, lines)) :]
        self._write(lines)
        return bool(chunk)

    def close(self) -> None:
        """Passes on a last line without an end, too."""
        self._write([self._rest + b"\n"] if self._rest else [])
        self._source.close()

    def _write(self, lines: list[bytes]) -> None:
        self._sink.write(b"".join(self._prefix + line for line in lines))
        self._sink.flush()
