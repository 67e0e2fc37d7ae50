"""Be a fork of fork_server.py's process: `forked_python.py SOCKET ARGUMENTS…`, with those of `python`.

Passes on standard files, folder, environment, the signals that ask a process to end, and its status. The
fork is killed if this process is; only to be stopped (SIGSTOP) is something that it does not share.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys

NUMBER = 8


def main() -> int:
    """Run from the command line; gives the status, negative for a signal."""
    fork: list[int] = []
    early: list[int] = []

    def pass_on(number: int, _: object) -> None:
        if not fork:  # it may run already, though this process does not know its number yet
            early.append(number)
            return
        with contextlib.suppress(ProcessLookupError):  # it may have just ended
            os.kill(fork[0], number)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, pass_on)
    server = socket.socket(socket.AF_UNIX)
    server.connect(sys.argv[1])
    request = json.dumps(
        {"arguments": sys.argv[2:], "folder": os.getcwd(), "environment": {**os.environ}}
    ).encode()
    socket.send_fds(server, [len(request).to_bytes(NUMBER, "little")], [0, 1, 2])
    server.sendall(request)
    fork.append(int.from_bytes(server.recv(NUMBER), "little"))
    for number in early:
        pass_on(number, None)
    status = server.recv(NUMBER)
    return int.from_bytes(status, "little", signed=True) if status else 1


if __name__ == "__main__":
    status = main()
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
