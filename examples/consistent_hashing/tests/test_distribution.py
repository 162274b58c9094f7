"""The picture of the shards. Row G-14."""

from xml.etree import ElementTree

from consistent_hashing.distribution import draw_svg, draw_text, report

RING = {"shard_1": 0.304, "shard_2": 0.331, "shard_3": 0.365}


def test_a_bar_for_each_shard_in_the_terminal() -> None:
    lines = draw_text(report({"shard_1": 3063, "shard_2": 3201, "shard_3": 3736}, RING)).splitlines()
    assert lines[0] == "shard_1  " + "█" * 32 + "▊" + " " * 9 + "3063  30.6%  (ring 30.4%)"
    assert lines[2] == "shard_3  " + "█" * 40 + "  3736  37.4%  (ring 36.5%)"
    assert lines[3] == "total    10000"


def test_empty_shards_and_one_that_does_not_answer() -> None:
    drawn = draw_text(report({"shard_1": 0, "shard_3": 0}, RING)).splitlines()
    assert drawn[0].split() == ["shard_1", "0", "-", "(ring", "30.4%)"]
    assert drawn[1] == "shard_2  does not answer"
    assert "does not answer" in draw_svg(report({"shard_1": 0}, RING))


def test_the_svg_has_a_bar_for_each_shard_of_its_length() -> None:
    found = report({"shard_1": 100, "shard_2": 200, "shard_3": 100}, RING)
    root = ElementTree.fromstring(draw_svg(found))
    bars = [
        float(one.attrib["width"])
        for one in root.iter("{http://www.w3.org/2000/svg}rect")
        if one.attrib["height"] == "24"
    ]
    assert bars == [150.0, 300.0, 150.0]
    texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "200 (50.0%)" in texts
    assert "400 users; red: the share of the ring" in texts


def test_names_are_escaped() -> None:
    ElementTree.fromstring(draw_svg(report({"a<b&c": 1}, {"a<b&c": 1.0})))
