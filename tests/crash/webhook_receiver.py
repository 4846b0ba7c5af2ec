"""A receiver of webhooks, in a process of its own: it verifies each request with two libraries.

It writes a line for each verified request, and acknowledges then. Some it refuses, some it writes
down and does not acknowledge.
"""

import json
import os
import random
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook
from svix.webhooks import Webhook as SvixWebhook
from typing_extensions import override

PORT, SECRET, PATH, SEED = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
CHANCE = random.Random(SEED)
LOG = os.open(PATH, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = dict(self.headers.items())
        told: Any = Webhook(SECRET).verify(body, headers)
        SvixWebhook(SECRET).verify(body, headers)
        fate = CHANCE.random()
        if fate < 0.1:
            self.send_response(500)
        else:
            line = {"id": self.headers["Webhook-Id"], "type": told["type"], **told["data"]}
            os.write(LOG, json.dumps(line).encode() + b"\n")
            if fate < 0.15:
                self.close_connection = True
                return
            self.send_response(204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    @override
    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True


Server(("127.0.0.1", PORT), Handler).serve_forever()
