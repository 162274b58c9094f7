"""Reading the parameters of changes and views."""

import pytest
from pydantic import SecretStr

from citus_cluster.errors import UsageError
from citus_cluster.model.parameters import parameters, read_parameters


@parameters
class Given:
    name: str = ""
    others: tuple[str, ...] = ()
    password: SecretStr | None = None


@pytest.mark.parametrize("values", [{"name": "a\0b"}, {"others": ["a", "\0"]}, {"password": "se\0cret"}])
def test_a_text_that_postgresql_cannot_have_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(values))}: it contains the character NUL"):
        read_parameters(Given, values)


def test_every_problem_is_named() -> None:
    with pytest.raises(UsageError) as refused:
        read_parameters(Given, {"name": 1, "unknown": 2})
    assert [one.partition(":")[0] for one in refused.value.details] == ["name", "unknown"]
