"""Random requests to the admin API without a coordinator; test_with_cluster.py has those with one."""

from api_support import Api
from random_requests import check, operations_of


def test_without_a_coordinator(away: Api) -> None:
    statuses: set[int] = set()
    for operation in operations_of(away):
        statuses |= check(away, operation, 15)
    assert {422, 503} <= statuses
