"""Asks the load balancer several times, and prints which worker answered.

python ask.py [http://127.0.0.1:8080] [-n 9]
"""

import argparse
import json
import os
import urllib.error
import urllib.request
from collections import Counter

if __name__ == "__main__":
    default = f"http://127.0.0.1:{os.environ.get('PORT', '8080')}"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default=default, help=f"default: {default}")
    parser.add_argument("-n", "--requests", type=int, default=9, help="default: 9")
    options = parser.parse_args()
    answers = []
    for _ in range(options.requests):
        try:
            with urllib.request.urlopen(options.url, timeout=10) as answer:
                answers.append(str(json.load(answer)["worker"]))
        except urllib.error.HTTPError as error:
            answers.append(f"status {error.code}")
        except OSError as error:
            answers.append(f"no answer: {getattr(error, 'reason', error)}")
    print(*answers, sep="\n")
    print("in all: " + ", ".join(f"{name} {count} times" for name, count in sorted(Counter(answers).items())))
