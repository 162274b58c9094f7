import pytest

from citus_cluster.model import names


@pytest.mark.parametrize("name", ["citus", "a", "0shop", "shop_1-x", "a" * 40])
def test_project_names_that_compose_takes(name: str) -> None:
    assert names.project_problem(name) is None


@pytest.mark.parametrize("name", ["", "Shop", "-shop", "_shop", "shop.eu", "shöp", "a" * 41, "shop\n", "a b"])
def test_project_names_that_compose_refuses(name: str) -> None:
    assert repr(name) in (names.project_problem(name) or "")


@pytest.mark.parametrize("name", ["postgres", "Bob", "_x", "a-b", "x" * 63])
def test_users_and_databases(name: str) -> None:
    assert names.user_problem(name) is None
    assert names.database_problem(name) is None


@pytest.mark.parametrize("name", ["", "1a", "a b", "a'b", 'a"b', "a;b", "x" * 64, "ü", "a\n", "$a", "-a"])
def test_users_and_databases_that_need_quoting_are_refused(name: str) -> None:
    assert names.user_problem(name)
    assert names.database_problem(name)


@pytest.mark.parametrize("name", ["pg_monitor", "PG_x", "public", "None"])
def test_reserved_users(name: str) -> None:
    assert "reserved" in (names.user_problem(name) or "")


@pytest.mark.parametrize("name", ["template0", "template1"])
def test_template_databases(name: str) -> None:
    assert "template" in (names.database_problem(name) or "")


@pytest.mark.parametrize("password", ["a", " lead and trail ", "'\"$#\\`%{}", "pässwörd 密码 🔑", "x" * 1000])
def test_any_printable_password_is_taken(password: str) -> None:
    assert names.password_problem(password) is None


@pytest.mark.parametrize(
    "password", ["a\nsecretish", "a\rsecretish", "a\0secretish", "a\tsecretish", "secretish" * 200]
)
def test_other_passwords_are_refused_and_never_repeated(password: str) -> None:
    problem = names.password_problem(password)
    assert problem
    assert "secretish" not in problem


def test_the_empty_password_is_refused() -> None:
    assert "empty" in (names.password_problem("") or "")


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "::1", "192.168.1.5"])
def test_ports_are_published_on_addresses(address: str) -> None:
    assert names.bind_problem(address) is None


@pytest.mark.parametrize("address", ["localhost", "", "1.2.3", "300.1.1.1", "127.0.0.1:80"])
def test_ports_are_not_published_on_names(address: str) -> None:
    assert names.bind_problem(address)


@pytest.mark.parametrize("host", ["db1", "db1.example.org", "db_1", "10.0.0.1", "fd00::1", "a.b."])
def test_hosts(host: str) -> None:
    assert names.host_problem(host) is None
    assert names.advertise_problem(host) is None


@pytest.mark.parametrize("host", ["", "a b", "-a", "a..b", "a" * 64, "1.2.3", "db1:5432", "a;b", "a\n"])
def test_what_is_no_host(host: str) -> None:
    assert names.host_problem(host)
    assert names.advertise_problem(host)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::"])
def test_addresses_that_mean_another_machine_elsewhere(host: str) -> None:
    assert names.host_problem(host) is None
    assert names.advertise_problem(host)
