"""How long to wait before the next attempt."""

import random


def backoff_s(attempts: int, *, base_s: float = 1, cap_s: float = 300, dice: random.Random | None = None) -> float:
    """Return the seconds to wait after this many failed attempts (1 or more).

    The wait doubles with every attempt up to ``cap_s``. Half of it is random, so that jobs which failed together,
    because a service was away, do not come back together.
    """
    # 2 ** 1000 is still a float, and far above any cap.
    longest = min(cap_s, base_s * 2.0 ** min(attempts - 1, 1000))
    return longest / 2 + (dice or random).uniform(0, longest / 2)
