"""Python processes that need not import torch: forks of one that has.

Most of what a short process costs are imports, seconds of them. This one has imported torch, torch_xla and
the package, and run nothing. For each request of `forked_python.py` it forks, and the fork becomes what
`python` would be with those arguments: with its environment, folder, standard files, `sys.argv` and
`sys.path`, and with a genuine end of the interpreter. An environment that is set before torch_xla would be
imported still counts: its runtime starts later.

    python fork_server.py DESCRIPTOR      of a socket that listens; ends when standard input does
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import types
import warnings
from pathlib import Path
from typing import Any

NUMBER = 8
"""Bytes of a number in a message."""


def receive(connection: socket.socket) -> dict[str, Any]:
    """A request, with the descriptors of its standard files."""
    size, descriptors, _, _ = socket.recv_fds(connection, NUMBER, 3)
    left, parts = int.from_bytes(size, "little"), []
    while left:
        parts.append(connection.recv(left))
        left -= len(parts[-1])
    found: dict[str, Any] = json.loads(b"".join(parts))
    return found | {"files": descriptors}


def reported(pid: int, connection: socket.socket) -> None:
    """Send a process's status, as `subprocess` has it, to the one who waits for it."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):  # nobody may wait any more
        connection.sendall(status.to_bytes(NUMBER, "little", signed=True))
    connection.close()


def serve(listener: socket.socket) -> dict[str, Any]:
    """Serve until the input ends; returns in forks alone, each with its request."""
    events = selectors.DefaultSelector()
    events.register(listener, selectors.EVENT_READ)
    events.register(0, selectors.EVENT_READ)
    processes: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready = {key.fd for key, _ in events.select()}
        if 0 in ready:
            for pid, _ in processes.values():
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        for ended in ready & processes.keys():
            pid, connection = processes.pop(ended)
            for each in (ended, connection):
                if each in events.get_map():
                    events.unregister(each)
            os.close(ended)
            reported(pid, connection)
        for pid, connection in processes.values():
            if connection.fileno() in ready:  # the one who waited was killed
                os.kill(pid, signal.SIGKILL)
                events.unregister(connection)
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            request = receive(connection)
            pid = os.fork()
            if not pid:
                events.close()
                for ended, (_, other) in processes.items():
                    os.close(ended)
                    other.close()
                listener.close()
                connection.close()
                return request
            for descriptor in request["files"]:
                os.close(descriptor)
            ended = os.pidfd_open(pid)
            processes[ended] = (pid, connection)
            events.register(ended, selectors.EVENT_READ)
            events.register(connection, selectors.EVENT_READ)
            connection.sendall(pid.to_bytes(NUMBER, "little"))


def open_standard_files(unbuffered: bool) -> None:
    """Make new objects for the standard files, as `python` and `python -u` do."""
    for target, name in enumerate(("stdin", "stdout", "stderr")):
        old, at_once = getattr(sys, name), unbuffered and target > 0
        file = open(target, "wb" if target else "rb", 0 if at_once else -1, closefd=False)  # noqa: SIM115
        lines = target == 2 or file.isatty()
        new = io.TextIOWrapper(
            file, old.encoding, old.errors, line_buffering=lines, write_through=at_once
        )
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def become(request: dict[str, Any], path: list[str]) -> None:
    """Run what `python` would run with these arguments."""
    # A shell's background job ignores SIGINT, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target, descriptor in enumerate(request["files"]):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    arguments, unbuffered = [*request["arguments"]], False
    while arguments[0] in ("-u", "-W"):
        if arguments.pop(0) == "-u":
            unbuffered = True
        else:
            warnings.simplefilter(arguments.pop(0))  # type: ignore[arg-type]
    open_standard_files(unbuffered)
    where = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    kind = arguments[0] if arguments[0] in ("-c", "-m") else ""
    first = "" if kind else str(Path(arguments[0]).resolve().parent)
    sys.path[:] = [os.getcwd() if kind == "-m" else first, *where, *path]
    if kind == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *arguments[2:]]
        main_module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), main_module.__dict__)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def main() -> None:
    """Run from the command line."""
    own = {str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    path = [each for each in sys.path if each not in own]
    import torch.distributed.launcher.api  # noqa: F401 (most of torchrun)
    import torch_xla  # noqa: F401

    import torch_tpu_embedding  # noqa: F401

    gc.freeze()  # else a fork's collections and its end would copy all of this
    become(serve(socket.socket(fileno=int(sys.argv[1]))), path)


if __name__ == "__main__":
    main()
