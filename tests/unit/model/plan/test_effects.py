from citus_cluster.model.plan.effects import Effect, EffectKind, effects, read_settings

CONF = "# a comment = no\nwork_mem = 4MB\nshared_buffers = '128MB'\ncitus.shard_count = 32\n"


def one(old: dict[str, object], new: dict[str, object], old_conf: str = "", new_conf: str = "") -> tuple[Effect, ...]:
    return effects({"s": old}, {"s": new}, {"s": old_conf}, {"s": new_conf})


def test_settings_are_read_with_their_quotes_and_without_comments() -> None:
    assert read_settings(CONF) == {"work_mem": "4MB", "shared_buffers": "'128MB'", "citus.shard_count": "32"}


def test_nothing_changes() -> None:
    assert one({"image": "a"}, {"image": "a"}, CONF, CONF) == ()


def test_comments_in_the_settings_are_no_change() -> None:
    assert one({}, {}, "# x\n" + CONF, "# y\n" + CONF) == ()


def test_new_and_removed_services() -> None:
    found = effects({"a": {}, "b": {}}, {"b": {}, "c": {}}, {}, {})
    assert found == (Effect("c", EffectKind.ADD, ()), Effect("a", EffectKind.REMOVE, ()))


def test_a_reload_is_enough_for_most_settings() -> None:
    (effect,) = one({"image": "a"}, {"image": "a"}, CONF, CONF.replace("4MB", "8MB"))
    assert effect == Effect("s", EffectKind.RELOAD, ("work_mem 4MB → 8MB",))


def test_a_setting_that_comes_or_goes() -> None:
    (effect,) = one({}, {}, CONF, CONF.replace("work_mem = 4MB\n", "jit = off\n"))
    assert effect.reasons == ("jit default → off", "work_mem 4MB → default")


def test_a_restart_setting_recreates_by_the_label() -> None:
    new = CONF.replace("'128MB'", "'256MB'")
    (effect,) = one({"labels": {"h": "1"}}, {"labels": {"h": "2"}}, CONF, new)
    assert effect == Effect("s", EffectKind.RECREATE, ("shared_buffers '128MB' → '256MB' (restart)",))


def test_changed_keys_recreate_and_are_told() -> None:
    (effect,) = one({"image": "a", "ports": ["1:1"]}, {"image": "b", "ports": ["2:1"]})
    assert effect == Effect("s", EffectKind.RECREATE, ("image a → b", "ports"))
