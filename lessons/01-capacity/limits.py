"""The limits of this machine: open files, processors, memory, load.

By hand: ulimit -n; nproc; free -g; top -bn1 | head
on macOS: ulimit -n; sysctl -n hw.ncpu hw.memsize; top -l 1 -n 0
"""

import argparse
import os
import resource

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    open_files, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    print(f"open files per process  {open_files} (ulimit -n; can be raised to {hard_limit})")
    print(f"processors              {os.cpu_count()}")
    print(f"memory                  {memory_bytes / 1024**3:.1f} GB")
    print(f"load, 1 minute          {os.getloadavg()[0]:.2f} (processes that run or want to run)")
