"""A back-of-the-envelope estimate: how much load and storage a photo service needs."""

import argparse
from dataclasses import dataclass

DAY_S = 86_400
SSD_IOPS = 10_000  # random reads and writes per second of one ordinary SSD


@dataclass(frozen=True)
class Estimate:
    active_users: float  # per day
    uploads_per_day: float
    uploads_per_s: float
    reads_per_s: float
    tb_per_day: float
    pb_per_year: float

    @property
    def one_ssd_is_fast_enough(self) -> bool:
        return self.uploads_per_s + self.reads_per_s <= SSD_IOPS


def estimate(
    users: float, active_part: float, uploads_each: float, mb_each: float, reads_per_write: float = 10
) -> Estimate:
    active = users * active_part
    uploads = active * uploads_each
    tb_per_day = uploads * mb_each / 1e6  # 1 TB is 1,000,000 MB
    return Estimate(
        active_users=active,
        uploads_per_day=uploads,
        uploads_per_s=uploads / DAY_S,
        reads_per_s=uploads / DAY_S * reads_per_write,
        tb_per_day=tb_per_day,
        pb_per_year=tb_per_day * 365 / 1000,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=float, default=10e6, help="default: 10 million")
    parser.add_argument("--active", type=float, default=0.1, help="part that is active on a day (default: 0.1)")
    parser.add_argument("--uploads", type=float, default=2, help="photos of each on a day (default: 2)")
    parser.add_argument("--mb", type=float, default=2, help="size of a photo in MB (default: 2)")
    parser.add_argument("--reads-per-write", type=float, default=10, help="default: 10")
    options = parser.parse_args()
    found = estimate(options.users, options.active, options.uploads, options.mb, options.reads_per_write)
    print(f"active users  {found.active_users:,.0f} a day")
    print(f"uploads       {found.uploads_per_day:,.0f} a day, {found.uploads_per_s:.2f} a second")
    print(f"reads         {found.reads_per_s:.1f} a second")
    print(f"storage       {found.tb_per_day:g} TB a day, {found.pb_per_year:.2f} PB a year")
    answer = "yes" if found.one_ssd_is_fast_enough else "no"
    print(f"Is one SSD with {SSD_IOPS:,} operations a second fast enough? {answer}")
