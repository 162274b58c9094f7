"""Do 50 slow tasks one after the other, then with a queue and 10 workers, and compare."""

import argparse
import queue
import threading
import time


def send_email(number: int, seconds: float) -> str:
    time.sleep(seconds)  # the mail server takes its time; the processor does nothing meanwhile
    return f"email_{number}"


def synchronous(tasks: int, seconds: float) -> list[str]:
    return [send_email(number, seconds) for number in range(tasks)]


def queued(tasks: int, seconds: float, workers: int) -> list[str]:
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    results: list[str] = []

    def worker() -> None:
        while (number := waiting.get()) is not None:
            results.append(send_email(number, seconds))

    threads = [threading.Thread(target=worker) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for number in range(tasks):
        waiting.put(number)
    for _ in threads:
        waiting.put(None)  # one for each worker: nothing more to do
    for thread in threads:
        thread.join()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.1, help="that one task takes (0.1)")
    options = parser.parse_args()
    if min(options.tasks, options.workers) < 1 or options.seconds < 0:
        parser.error("--tasks and --workers must be at least 1, and --seconds at least 0")

    start = time.perf_counter()
    results = synchronous(options.tasks, options.seconds)
    synchronous_s = time.perf_counter() - start
    print(f"Synchronous:  {synchronous_s:5.2f} s, {len(results)} results")

    start = time.perf_counter()
    results = queued(options.tasks, options.seconds, options.workers)
    queued_s = time.perf_counter() - start
    print(f"{options.workers} workers:   {queued_s:5.2f} s, {len(results)} results")
    print(f"Speed-up:     {synchronous_s / queued_s:.1f}x")


if __name__ == "__main__":
    main()
