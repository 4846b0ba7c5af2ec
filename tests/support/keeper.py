"""The process between a test and a server that it starts (see `kept`).

Its arguments: DIRECTORY END UID GID COMMAND…; a UID of -1 keeps the user. It prints the server's
process id, ends the server with the signal END when its own stdin closes, and removes DIRECTORY
when the tests are gone. It imports nothing but the standard library.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading

END_SECONDS = 20.0


def keep(directory: str, end: int, uid: int, gid: int, command: list[str]) -> None:
    """Start the command, and return when it has ended."""
    tests = os.getppid()
    stays = uid < 0
    server = subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        user=None if stays else uid,
        group=None if stays else gid,
        extra_groups=None if stays else [],
    )
    print(server.pid, flush=True)
    ended = threading.Event()

    def end_with_stdin() -> None:
        while os.read(0, 1):
            pass
        if not ended.is_set():
            server.send_signal(end)
        if not ended.wait(END_SECONDS):
            server.kill()

    threading.Thread(target=end_with_stdin, daemon=True).start()
    server.wait()
    ended.set()
    if os.getppid() != tests:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    # A terminal's interrupt is for the tests, which end the server in their order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
