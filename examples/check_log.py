"""Check every line of a session's log, with nothing but Python's own library.

    python3 examples/check_log.py ~/.bamboo/sessions/events/my-chat.jsonl

The page "The on-disk format" in docs/ describes the format.
"""

import json
import sys
from pathlib import Path
from zlib import crc32

PREFIX = len(b'{"crc":"00000000",')


def check(path: str) -> int:
    header, *lines = Path(path).read_bytes().splitlines()
    seq = 0
    for line in [header, *lines]:
        body = b"{" + line[PREFIX:]
        assert json.loads(line)["crc"] == f"{crc32(body):08x}", f"damaged: {line[:80]!r}"
        event = json.loads(body)
        assert event.get("seq", seq + 1) > seq
        seq = event.get("seq", seq)
    assert json.loads(header)["log"] == 1
    return seq


if __name__ == "__main__":
    print(f"All checksums fit. The last event has the seq {check(sys.argv[1])}.")
