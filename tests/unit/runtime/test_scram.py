"""Whether the coordinator has PgBouncer's password."""

from citus_cluster.runtime.scram import opens

# Of the password "pencil", with the salt of RFC 7677.
SECRET = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def test_a_secret_tells_its_password_from_others() -> None:
    assert opens(SECRET, "pencil")
    assert not opens(SECRET, "pencil2")
    for broken in ("", "md5abc", "SCRAM-SHA-256$4096:salt", "None"):
        assert not opens(broken, "pencil")
