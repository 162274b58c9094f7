"""Decisions about the figures for monitoring."""

from citus_cluster.model.citus.figures import TenantUse, busiest_tenants


def test_the_use_of_a_tenant_on_all_nodes_is_added_up_and_the_busiest_are_named() -> None:
    uses = [
        TenantUse(1, "a", 10, 5, 0.1),
        TenantUse(1, "b", 1, 1, 3.0),
        TenantUse(1, "a", 10, 5, 0.2),
        TenantUse(2, "a", 1, 0, 0.0),
    ]
    busiest = busiest_tenants(uses, limit=2)
    assert [(one.colocation_id, one.tenant, one.queries, one.reads) for one in busiest] == [
        (1, "b", 1, 1),
        (1, "a", 20, 10),
    ]
    assert abs(busiest[1].cpu_s - 0.3) < 1e-9


def test_the_number_of_tenants_and_the_length_of_a_name_are_bounded() -> None:
    """Applications choose both, and each name is a time series."""
    found = busiest_tenants(TenantUse(1, f"{number}" * 500, 1, 1, float(number)) for number in range(1000))
    assert len(found) == 20
    assert max(len(one.tenant) for one in found) == 80
