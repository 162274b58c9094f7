"""nginx in a container as load balancer in front of the workers, in the foreground: its error log is what you see.

python nginx_lb.py [--port 8080] [--workers 8081 8082 8083] [--test] writes lb-nginx.conf below the temporary directory.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ON_LINUX = sys.platform == "linux"
# On Linux the container shares the network of this machine; elsewhere Docker runs in a machine of its own.
HOST = "127.0.0.1" if ON_LINUX else "host.docker.internal"
CONFIGURATION = """\
worker_processes 1;  # with more, each would count its own rounds
error_log /dev/stderr warn;
pid /tmp/nginx.pid;
events {{ worker_connections 128; }}
http {{
    access_log off;
    upstream backend {{
{servers}
    }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://backend;
            proxy_set_header X-Real-IP $remote_addr;
        }}
        location /health {{
            default_type text/plain;
            return 200 'ok';
        }}
    }}
}}
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8080"), help="default: PORT, or 8080")
    parser.add_argument("--workers", type=int, nargs="+", default=[8081, 8082, 8083], metavar="PORT")
    parser.add_argument("--method", choices=["least_conn", "ip_hash"], help="default: round robin")
    parser.add_argument("--rest-s", type=int, default=10, help="no requests to a worker that failed (default: 10)")
    parser.add_argument("--test", action="store_true", help="only check the configuration (nginx -t)")
    options = parser.parse_args()
    if shutil.which("docker") is None:
        sys.exit("Docker is not installed or not in PATH. Use the balancer in Python instead: python balancer.py")
    servers = [f"        {options.method};"] * bool(options.method)
    servers += [f"        server {HOST}:{port} fail_timeout={options.rest_s}s;" for port in options.workers]
    listen = f"127.0.0.1:{options.port}" if ON_LINUX else "8080"
    path = Path(tempfile.gettempdir()) / "lb-nginx.conf"
    path.write_text(CONFIGURATION.format(servers="\n".join(servers), listen=listen))
    name = f"lessons-nginx-{options.port}"
    if not options.test:
        running = subprocess.run(["docker", "ps", "-q", "-f", f"name=^{name}$"], capture_output=True, text=True)
        if running.stdout:
            sys.exit(f"nginx already runs for port {options.port}. Use it, or end it: docker rm -f {name}")
    network = ["--network", "host"] if ON_LINUX else ["-p", f"127.0.0.1:{options.port}:8080"]
    mount = f"{path}:/etc/lb-nginx.conf:ro"
    command = ["docker", "run", "--rm", *network, "-v", mount, "--entrypoint", "nginx"]
    command += [] if options.test else ["--name", name]
    command += [os.environ.get("NGINX_IMAGE", "nginx:1.28"), "-c", "/etc/lb-nginx.conf"]
    command += ["-t"] if options.test else ["-g", "daemon off;"]
    os.execvp("docker", command)  # so that Ctrl-C and the exit status are nginx's own
