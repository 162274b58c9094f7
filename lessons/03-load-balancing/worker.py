"""A backend: answers with its own name, which is its port, so that one sees who answered.

python worker.py 8081 [--work-ms 0]
"""

import argparse
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT = 8081
WORK_S = 0.0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(WORK_S)
        body = json.dumps({"worker": PORT, "time": time.time()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log no requests."""


class Server(HTTPServer):
    request_queue_size = 128  # connections that wait

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that leave before they have their answer."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, nargs="?", default=PORT, help="default: 8081")
    parser.add_argument("--work-ms", type=float, default=0, help="how long each request takes (default: 0)")
    options = parser.parse_args()
    PORT, WORK_S = options.port, options.work_ms / 1000
    try:
        server = Server(("127.0.0.1", PORT), Handler)
    except OSError as error:
        sys.exit(f"Cannot listen on port {PORT}: {error.strerror}. Choose another one: python worker.py 8091")
    print(f"worker {PORT} on http://127.0.0.1:{PORT}; Ctrl-C ends it", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("Ended.")
