"""The health check of a container: exit 0 if ``GET /health`` answers 200, else print why and exit 1.

Run as ``python -I -S /app/service_kit/healthcheck.py``. It runs every few seconds, so it imports little.
"""

import http.client
import json
import sys

PORT = 8000
TIMEOUT_S = 4


def main() -> int:
    """Ask once; ``docker inspect`` shows the output."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health", headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read(65536)
    except (OSError, http.client.HTTPException) as error:
        print(f"the service does not answer: {error}")
        return 1
    finally:
        connection.close()
    if answer.status == http.client.OK:
        return 0
    try:
        print(json.loads(body)["reason"])
    except (ValueError, LookupError, TypeError):
        print(f"GET /health answers {answer.status}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
