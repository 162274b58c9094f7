"""This machine, if no Docker engine can be asked: its memory and processors, and the process that holds a port."""

import os
import platform
import shutil
import subprocess

_MACOS_ENGINE_MB = 8192  # Docker runs in a virtual machine there, of 8 GB by default


def memory_mb() -> int:
    """Physical memory in MB; on macOS at most what Docker's virtual machine gets."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * 1024)
    return min(total, _MACOS_ENGINE_MB) if platform.system() == "Darwin" else total


def cpus() -> int:
    return os.cpu_count() or 1


def port_owner(port: int) -> str | None:
    """Return the process that listens on a TCP port, if the user may see it; None if unknown."""
    lsof = shutil.which("lsof")
    if lsof:
        found = _output([lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"])
        fields = {line[0]: line[1:] for line in found.splitlines() if line}
        return f"{fields['c']} (process {fields['p']})" if {"c", "p"} <= fields.keys() else None
    ss = shutil.which("ss")
    if ss:
        found = _output([ss, "-Hltnp", f"sport = :{port}"])
        if 'users:(("' in found:
            name, rest = found.split('users:(("', 1)[1].split('"', 1)
            process = rest.split("pid=", 1)[1].split(",", 1)[0]
            return f"{name} (process {process})"
    return None


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
