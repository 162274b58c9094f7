"""The container's health check: exit 0 if GET /health returns 200, else print the reason and exit 1.

Run as ``python -I -S /app/admin_api/healthcheck.py [PORT]``. It runs every few seconds as long as the cluster
runs, so it imports very little: neither this package nor http.client.
"""

import socket
import sys

HOST = "127.0.0.1"
PORT = 8000
TIMEOUT_S = 4


def main() -> int:
    """Send one request; ``docker inspect`` shows the output in the health log."""
    try:
        answer = _ask(int(sys.argv[1]) if len(sys.argv) > 1 else PORT)
    except OSError as error:
        print(f"the admin API does not answer: {error}")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) > 1 and words[1] == b"200":
        return 0
    print(_reason(body) or head.decode("latin-1").partition("\r\n")[0] or "the admin API gave no answer")
    return 1


def _ask(port: int) -> bytes:
    with socket.create_connection((HOST, port), TIMEOUT_S) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def _reason(body: bytes) -> str:
    import json  # takes longer than everything else together, and is needed only after a failure

    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    return f"{answer.get('status')}: {answer.get('reason')}" if isinstance(answer, dict) else ""


if __name__ == "__main__":
    sys.exit(main())
