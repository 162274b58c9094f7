"""A URL shortener: SQLite stores the links, Redis caches them for an hour, a thread stores the clicks.

Try: curl -d '{"url": "https://example.com"}' localhost:8080/shorten; curl -i localhost:8080/c984d06
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import sqlite3
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

DATABASE = f"{tempfile.gettempdir()}/url_shortener.db"
TABLES = {
    "urls": "code TEXT PRIMARY KEY, original_url TEXT, created_at TEXT DEFAULT CURRENT_TIMESTAMP",
    "clicks": "id INTEGER PRIMARY KEY, code TEXT REFERENCES urls (code), "
    "clicked_at TEXT DEFAULT CURRENT_TIMESTAMP, referrer TEXT, ip TEXT",
}
cache = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379/15"), decode_responses=True)
clicks = ThreadPoolExecutor(1)  # a queue, and the thread that empties it; a killed process loses what is in it


def sql(statement: str, *values: str | None) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(DATABASE)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def shorten(url: str, attempt: int = 0) -> str:
    """Give the first 7 digits of the address' MD5; if another address has them, of the address and a number."""
    code = hashlib.md5((f"{url}#{attempt}" if attempt else url).encode()).hexdigest()[:7]
    sql("INSERT OR IGNORE INTO urls (code, original_url) VALUES (?, ?)", code, url)
    return code if resolve(code) == url else shorten(url, attempt + 1)


def resolve(code: str) -> str:
    url = str(cache.get(f"url:{code}") or "")
    if not url and (found := sql("SELECT original_url FROM urls WHERE code = ?", code)):
        cache.set(f"url:{code}", url := found[0][0], ex=3600)
    return url


class Handler(BaseHTTPRequestHandler):
    def answer(self, status: int, body: str, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        url = ""
        with contextlib.suppress(ValueError, TypeError, KeyError):  # not JSON, or without a url
            url = str(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["url"])
        if re.fullmatch("https?://[!-~]+", url):
            self.answer(201, json.dumps({"short_url": f"http://localhost:{PORT}/{shorten(url)}"}))
        else:
            self.answer(400, 'Send {"url": "https://..."}. Other schemes are refused.')

    def do_GET(self) -> None:
        code = self.path[1:]
        if code == "stats":
            clicks.submit(int).result()  # wait until the clicks so far are stored
            self.answer(200, json.dumps({table: sql(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}))
        elif url := resolve(code):
            values = code, self.headers["Referer"], self.client_address[0]
            clicks.submit(sql, "INSERT INTO clicks (code, referrer, ip) VALUES (?, ?, ?)", *values)
            self.answer(302, "", url)
        else:
            self.answer(404, "Not found")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8080"), help="default: PORT, or 8080")
    PORT = parser.parse_args().port
    try:
        cache.ping()
        server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    except (redis.RedisError, OSError) as error:
        sys.exit(f"Cannot start: {error}. Start Redis or set REDIS_URL, or choose another port: --port 8090")
    for table, columns in TABLES.items():
        sql(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
