"""Receive the gateway's webhooks: verify each request, store it once, acknowledge it.

WEBHOOK_SECRET is what `bamboo webhooks create` printed.
"""

import os
import sqlite3
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["WEBHOOK_SECRET"])
database = os.environ.get("WEBHOOK_DATABASE", "webhooks.db")


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            message = webhook.verify(body, dict(self.headers))
        except WebhookVerificationError as error:
            self.send_error(400, str(error))
            return
        if store_once(self.headers["Webhook-Id"], body):
            data = message["data"]
            print(message["type"], data.get("session_id"), data["status"], flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


def store_once(message_id, body):
    """Return whether the message is new. It may come again: then it has the same id."""
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY, body BLOB)")
        added = connection.execute(
            "INSERT OR IGNORE INTO messages VALUES (?, ?)", (message_id, body)
        )
        return added.rowcount == 1


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "9000"))
    ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()
