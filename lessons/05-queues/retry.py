"""Call a service that fails 70 % of the time, and wait longer after every failure."""

import argparse
import random
import time
from collections.abc import Callable


def flaky_service(failure_rate: float) -> str:
    if random.random() < failure_rate:
        raise ConnectionError("the service is overloaded")
    return "success"


def retry_with_backoff(
    call: Callable[[], str], max_retries: int = 5, base_delay: float = 0.1, sleep: Callable[[float], None] = time.sleep
) -> str:
    """Call until it succeeds, at most max_retries times; wait base_delay, then twice as long each time, plus jitter."""
    for attempt in range(max_retries):
        try:
            return call()
        except ConnectionError as error:
            print(f"Attempt {attempt + 1} failed: {error}")
            if attempt == max_retries - 1:
                raise TimeoutError(f"Failed after {max_retries} attempts") from error  # nothing to wait for any more
        delay = base_delay * 2**attempt + random.uniform(0, 0.1)
        print(f"  waiting {delay:.2f} s")
        sleep(delay)
    raise ValueError("max_retries must be at least 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--failure-rate", type=float, default=0.7, help="part of the calls that fail (0.7)")
    parser.add_argument("--base-delay", type=float, default=0.1, help="seconds after the first failure (0.1)")
    options = parser.parse_args()
    if options.base_delay < 0:
        parser.error("--base-delay must be at least 0")
    try:
        print(retry_with_backoff(lambda: flaky_service(options.failure_rate), base_delay=options.base_delay))
    except TimeoutError as error:
        print(error)


if __name__ == "__main__":
    main()
