"""The console behind a proxy that changes the header Host: only the configured public origins may log in and change."""

import html
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_support import ADMIN_TOKEN, Api, ApiFiles
from cluster_support import require_images
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from painting import Painter
from waiting import eventually

from admin_api.app import create_app
from admin_api.sessions import CSRF_HEADER
from bench.measure import free_base_port
from citus_cluster.model.api_config import ApiConfig

NGINX = "nginx:1.28"
ORIGIN = "https://citus.example.com"
HTML = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
WALL = {"wall": "north"}


def configure(files: ApiFiles, *origins: str, cors: tuple[str, ...] = ()) -> None:
    current = ApiConfig.from_json((files.folder / "cluster.json").read_bytes())
    files.write_cluster(replace(current, public_origins=origins, cors_origins=cors))


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
def api(files: ApiFiles, run_api: Callable[[Any], Api], painter: Painter) -> Api:
    data = files.folder / "data"
    data.mkdir()
    settings = files.settings(reconciler=False, connect_timeout_s=0.3, data_folder=data)
    return run_api(create_app(settings, [painter.change()], []))


def log_in(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post("/login", data={"token": ADMIN_TOKEN}, headers=HTML | headers)


def paint(client: httpx.Client, page: str, **headers: str) -> tuple[int, int]:
    """Send a change as the form of a page, and as its script. Returns both statuses."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    form = {"csrf": found[1], **WALL, "do": "run"}
    by_form = client.post("/changes/walls-paint", data=form, headers=HTML | headers)
    by_script = client.post("/api/v1/walls/paint", json=WALL, headers={CSRF_HEADER: found[1]} | headers)
    return by_form.status_code, by_script.status_code


def test_a_public_origin_may_log_in_and_change(api: Api, files: ApiFiles, painter: Painter) -> None:
    configure(files, "http://citus.lan:8080", ORIGIN)
    answer = log_in(api.client, Origin=ORIGIN)
    assert answer.status_code == 303
    assert "; Secure" in answer.headers["set-cookie"]
    plain = log_in(api.client, Origin="http://citus.lan:8080")
    assert plain.status_code == 303
    assert "Secure" not in plain.headers["set-cookie"]
    assert paint(api.client, api.client.get("/all").text, Origin=ORIGIN) == (303, 201)
    assert painter.painted == ["north", "north"]
    # The address of the machine itself stays valid.
    assert log_in(api.client, Origin=f"http://127.0.0.1:{api.port}").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://citus.example.com"},
        {"Origin": "https://citus.example.com:8443"},
        {"Origin": "https://citus.example.com.evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "null", "Host": ""},
        {"Origin": "https://console.example.com"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"},
        {"Origin": "https://evil.example", "Forwarded": "host=evil.example;proto=https"},
    ],
)
def test_no_other_origin_may(api: Api, files: ApiFiles, painter: Painter, headers: dict[str, str]) -> None:
    configure(files, ORIGIN, cors=("https://console.example.com",))
    assert log_in(api.client, Origin=f"http://127.0.0.1:{api.port}").status_code == 303
    page = api.client.get("/all").text
    assert log_in(api.client, **headers).status_code == 403
    assert paint(api.client, page, **headers) == (403, 403)
    assert painter.painted == []


def test_the_refusal_names_the_origin_to_add_and_the_file_is_read_again(api: Api, files: ApiFiles) -> None:
    refused = log_in(api.client, Origin=ORIGIN)
    assert refused.status_code == 403
    told = html.unescape(refused.text)
    assert f"came from a page of {ORIGIN}, but its header Host is '127.0.0.1:{api.port}'" in told
    assert f"add {ORIGIN} to admin_api.public_origins in cluster.yaml and run setup_citus_cluster.py" in told
    # Nobody is told to add what a browser knows to be another site, or what is no origin.
    for headers in ({"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}, {"Origin": "https://<b>"}):
        assert "public_origins" not in log_in(api.client, **headers).text
    configure(files, ORIGIN)
    assert log_in(api.client, Origin=ORIGIN).status_code == 303


def certify(folder: Path) -> None:
    """Write a key and a certificate for localhost, which it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    (folder / "localhost.pem").write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "localhost.key").write_bytes(secret)


@contextmanager
def nginx(folder: Path, api: Api) -> Iterator[tuple[int, int]]:
    """Run nginx with TLS; yield the port where it changes the header Host, and the one where it keeps it."""
    changes, keeps = (port := free_base_port(2)), port + 1
    certify(folder)
    server = """server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate /etc/proxy/localhost.pem;
        ssl_certificate_key /etc/proxy/localhost.key;
        location / {{ proxy_pass http://127.0.0.1:{api}; {header} }}
    }}"""
    servers = [
        server.format(port=changes, api=api.port, header=""),
        server.format(port=keeps, api=api.port, header="proxy_set_header Host $http_host;"),
    ]
    (folder / "nginx.conf").write_text("events {} http { access_log off; " + " ".join(servers) + " }")
    folder.chmod(0o755)
    name = f"proxy-{changes}"
    run = ["docker", "run", "--rm", "-d", "--name", name, "--network=host", "-v", f"{folder}:/etc/proxy:ro"]
    arguments = ["--entrypoint=nginx", NGINX, "-c", "/etc/proxy/nginx.conf", "-g", "daemon off;"]
    subprocess.run([*run, *arguments], check=True, capture_output=True)
    try:
        yield changes, keeps
    finally:
        subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True)


def is_alive(client: httpx.Client) -> bool:
    return client.get("/health/live").status_code == 200


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="the container shares the network of this machine only on Linux")
def test_through_nginx_with_tls(api: Api, files: ApiFiles, painter: Painter, tmp_path: Path) -> None:
    require_images(NGINX)
    folder = tmp_path / "proxy"
    folder.mkdir()
    with nginx(folder, api) as ports:
        trusted = ssl.create_default_context(cafile=folder / "localhost.pem")
        for port, needs_setting in zip(ports, (True, False), strict=True):
            origin = f"https://localhost:{port}"
            with httpx.Client(base_url=origin, verify=trusted, trust_env=False) as client:
                eventually(partial(is_alive, client), ignoring=httpx.HTTPError, timeout_s=10)
                if needs_setting:
                    assert log_in(client, Origin=origin).status_code == 403
                    configure(files, origin)
                answer = log_in(client, Origin=origin)
                assert (answer.status_code, answer.headers["location"]) == (303, "/")
                assert "; Secure" in answer.headers["set-cookie"]
                assert paint(client, client.get("/all").text, Origin=origin) == (303, 201)
            configure(files)
    assert painter.painted == ["north"] * 4
