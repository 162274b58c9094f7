"""Changes over HTTP: plans, operations, idempotency, conflicts, and the stream of events."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_support import ADMIN_TOKEN, Api, ApiFiles, serve
from fake_coordinator import ADDRESS, in_place
from painting import Painted, Painter, Painting
from waiting import eventually

from admin_api.app import create_app
from admin_api.routes import operations as operations_route
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Preview
from citus_cluster.operations.cluster import Cluster
from citus_cluster.runtime.store.operations import OperationStore

PAINT = "/api/v1/walls/paint"
OPERATIONS = "/api/v1/operations"


@dataclass
class House:
    """An API that offers to paint walls; it can be restarted."""

    api: Api
    painter: Painter

    def paint(self, wall: str, *, prefer: str | None = None, key: str | None = None, **more: Any) -> httpx.Response:
        headers = self.api.admin | {"X-Request-ID": "mine"}
        headers |= {"Prefer": prefer} if prefer else {}
        headers |= {"Idempotency-Key": key} if key else {}
        return self.api.client.post(PAINT, headers=headers, json={"wall": wall, **more})

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.api.client.get(path, headers=self.api.read | headers)

    def post(self, path: str) -> httpx.Response:
        return self.api.client.post(path, headers=self.api.admin)

    def state(self, number: int) -> str:
        return str(self.get(f"{OPERATIONS}/{number}").json()["state"])


@pytest.fixture
def house(files: ApiFiles) -> Iterator[House]:
    painter = Painter()
    with serve(create_app(settings_of(files), [painter.change()], [])) as api:
        yield House(api, painter)
        if painter.started.is_set():
            painter.release()


def settings_of(files: ApiFiles) -> Any:
    folder = files.folder / "data"
    folder.mkdir(exist_ok=True)
    return files.settings(data_folder=folder, reconciler=False)


def problem_of(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert (found["status"], found["code"]) == (status, code)
    assert found["request_id"] == response.headers["x-request-id"]
    return found


def test_a_change_that_is_done_answers_with_its_operation(house: House) -> None:
    done = house.paint("north", coats=2)
    assert done.status_code == 201
    assert done.headers["location"] == f"{OPERATIONS}/1"
    found = done.json()
    assert (found["state"], found["kind"], found["attempts"]) == ("done", "walls-paint", 1)
    assert found["result"] == {"wall": "north", "coats": 2, "is_new": True}
    assert found["by"] | {"client": None} == {
        "program": "admin-api",
        "request": f"POST {PAINT}",
        "role": "admin",
        "name": "admin",
        "via": "token",
        "client": None,
        "request_id": "mine",
    }
    assert found["created_at"].endswith("+00:00")
    assert house.get(f"{OPERATIONS}/1").json() == found


def test_a_dry_run_answers_with_the_plan_and_starts_nothing(house: House) -> None:
    shown = house.api.client.post(PAINT, headers=house.api.admin, params={"dry_run": "true"}, json={"wall": "wet"})
    assert shown.status_code == 200
    assert shown.json() == {
        "dry_run": True,
        "kind": "walls-paint",
        "command": "citus-cluster walls paint wet",
        "plan": {
            "steps": ["Paint wet."],
            "findings": [{"severity": "blocks", "message": "the wall is wet", "fix": "DRY WALL;"}],
            "details": {"litres": 1},
        },
    }
    assert house.get(OPERATIONS).json()["items"] == []


def test_what_is_refused_says_why_and_what_mends_it(house: House) -> None:
    blocked = problem_of(house.paint("wet"), 409, "blocked")
    assert "DRY WALL;" in blocked["hint"]
    problem_of(house.paint("missing"), 404, "not-found")
    problem_of(house.paint("north", coats=4), 422, "invalid-request")
    problem_of(house.paint("north", colour="red"), 422, "invalid-request")
    loose = problem_of(house.paint("north", coats="2"), 422, "invalid-request")
    assert [one["location"] for one in loose["errors"]] == [["body", "coats"]]
    assert house.get(OPERATIONS).json()["total"] == 0
    failed = problem_of(house.paint("full"), 409, "wall-full")
    assert failed["operation"] == f"{OPERATIONS}/1"
    assert house.state(1) == "failed"
    broken = problem_of(house.paint("bug"), 500, "internal-error")
    assert "a bug" not in json.dumps(broken)


def test_a_long_change_answers_202_and_the_loser_of_two_409_with_the_winner(house: House) -> None:
    started = house.paint("slow", prefer="respond-async")
    assert started.status_code == 202
    assert started.headers["location"] == f"{OPERATIONS}/1"
    assert started.json()["state"] == "running"
    lost = problem_of(house.paint("slow"), 409, "operation-running")
    assert lost["operation"] == f"{OPERATIONS}/1"
    assert house.paint("slow", prefer="wait=1").status_code == 409
    house.painter.release()
    eventually(lambda: house.state(1) == "done", "the end of the operation")
    assert house.paint("slow", prefer="wait=30").status_code == 201


def test_the_answer_to_a_long_change_waits_as_long_as_its_client_wants(files: ApiFiles) -> None:
    painter = Painter()
    with serve(create_app(settings_of(files), [painter.change(lasts=True)], [])) as api:
        house = House(api, painter)
        assert house.paint("slow").status_code == 202
        house.post(f"{OPERATIONS}/1/cancel")
        painter.started.clear()
        with ThreadPoolExecutor(1) as other:
            waiting = other.submit(house.paint, "slow", prefer="wait=30")
            eventually(painter.started.is_set, "the start of the operation")
            time.sleep(0.5)
            painter.release()
            assert waiting.result().status_code == 201


def test_a_long_change_that_waits_for_another_says_for_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painter, files = Painter(), ApiFiles.of_cluster(tmp_path, ADDRESS)

    async def run(cluster: Cluster, wanted: Painting, preview: Preview, emit: Emit) -> Painted:
        return await cluster.on_coordinator(lambda _: painter.run(cluster, wanted, preview, emit))

    change = replace(painter.change(lasts=True), run=run)
    with in_place(monkeypatch), serve(create_app(settings_of(files), [change], [])) as api:
        house = House(api, painter)
        house.paint("slow")
        eventually(painter.started.is_set)
        house.paint("north")
        eventually(lambda: house.get(f"{OPERATIONS}/2/events").json()["items"])
        (event,) = house.get(f"{OPERATIONS}/2/events").json()["items"]
        assert event["message"].startswith("waiting for operation 1 (walls-paint)")
        painter.release()
        eventually(lambda: house.state(2) == "done")
        messages = [one["message"] for one in house.get(f"{OPERATIONS}/2/events").json()["items"]]
        assert messages[1:] == ["no longer waiting", "painting north", "north is painted", "done"]


def test_the_answer_that_shows_a_secret_waits_for_it(files: ApiFiles) -> None:
    painter = Painter()
    with serve(
        create_app(settings_of(files), [painter.change(shows_once=lambda wanted: wanted.coats == 2)], [])
    ) as api:
        house = House(api, painter)
        with ThreadPoolExecutor(1) as other:
            waiting = other.submit(house.paint, "slow", prefer="respond-async", coats=2)
            eventually(painter.started.is_set, "the start of the operation")
            time.sleep(0.5)
            painter.release()
            assert waiting.result().status_code == 201
        painter.go.clear()
        assert house.paint("slow", prefer="respond-async").status_code == 202
        painter.release()


def test_a_client_that_leaves_does_not_end_its_operation(house: House) -> None:
    with pytest.raises(httpx.ReadTimeout):
        house.api.client.post(PAINT, headers=house.api.admin, json={"wall": "slow"}, timeout=0.5)
    assert house.state(1) == "running"
    house.painter.release()
    eventually(lambda: house.state(1) == "done", "the end of the operation")


def test_an_idempotency_key_starts_one_operation(house: House) -> None:
    first, again = house.paint("north", key="a-1"), house.paint("north", key="a-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert house.painter.painted == ["north"]
    problem_of(house.paint("south", key="a-1"), 422, "idempotency-key-reused")
    problem_of(house.paint("south", key="a b"), 422, "invalid-request")
    assert house.paint("south", key="a-2").json()["id"] == 2


def test_a_repeated_request_fails_like_the_first(house: House) -> None:
    first, again = house.paint("full", key="b-1"), house.paint("full", key="b-1")
    found = problem_of(again, 409, "wall-full")
    assert found | {"request_id": ""} == problem_of(first, 409, "wall-full") | {"request_id": ""}
    assert house.paint("bug", key="b-2").status_code == house.paint("bug", key="b-2").status_code == 500
    house.paint("slow", key="b-3", prefer="respond-async")
    house.post(f"{OPERATIONS}/3/cancel")
    problem_of(house.paint("slow", key="b-3"), 409, "not-running")
    assert house.get(OPERATIONS).json()["total"] == 3


def test_a_mistyped_parameter_changes_nothing(house: House) -> None:
    typo = house.api.client.post(PAINT, headers=house.api.admin, params={"dryrun": "true"}, json={"wall": "north"})
    assert "dry_run" in problem_of(typo, 422, "usage")["hint"]
    assert house.painter.painted == []
    house.paint("slow", prefer="respond-async")
    problem_of(house.post(f"{OPERATIONS}/1/cancel?dryrun=true"), 422, "usage")
    assert house.state(1) == "running"


def test_a_text_with_nul_is_refused(house: House) -> None:
    problem_of(house.paint("a\0b"), 422, "usage")


def test_an_operation_is_cancelled_and_resumed(house: House) -> None:
    house.paint("slow", prefer="respond-async")
    cancelled = house.post(f"{OPERATIONS}/1/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    problem_of(house.post(f"{OPERATIONS}/1/cancel"), 409, "not-running")
    resumed = house.post(f"{OPERATIONS}/1/resume")
    assert (resumed.status_code, resumed.json()["attempts"]) == (202, 2)
    house.painter.release()
    eventually(lambda: house.state(1) == "done", "the end of the operation")
    problem_of(house.post(f"{OPERATIONS}/1/resume"), 409, "cannot-resume")
    problem_of(house.post(f"{OPERATIONS}/2/resume"), 404, "not-found")
    problem_of(house.post(f"{OPERATIONS}/0/resume"), 422, "invalid-request")
    refused = house.api.client.post(f"{OPERATIONS}/1/resume", headers=house.api.read)
    problem_of(refused, 403, "forbidden")


def test_the_plan_of_cancelling_and_resuming_changes_nothing(house: House) -> None:
    house.paint("slow", prefer="respond-async")
    found = house.post(f"{OPERATIONS}/1/cancel?dry_run=true").json()
    assert (found["dry_run"], found["command"]) == (True, "citus-cluster operations cancel 1")
    assert found["plan"]["steps"] == ["Cancel operation 1, walls-paint: what it has done stays done."]
    assert house.state(1) == "running"
    problem_of(house.post(f"{OPERATIONS}/1/resume?dry_run=true"), 409, "cannot-resume")
    house.post(f"{OPERATIONS}/1/cancel")
    problem_of(house.post(f"{OPERATIONS}/1/cancel?dry_run=true"), 409, "not-running")
    found = house.post(f"{OPERATIONS}/1/resume?dry_run=true").json()
    assert (found["kind"], found["plan"]["steps"]) == (
        "operations-resume",
        house.get(f"{OPERATIONS}/1").json()["plan"]["steps"],
    )
    assert house.state(1) == "cancelled"


def test_a_repeated_request_does_not_cancel_or_resume_twice(house: House) -> None:
    house.paint("slow", prefer="respond-async")

    def post(what: str, key: str) -> httpx.Response:
        headers = {**house.api.admin, "Idempotency-Key": key}
        return house.api.client.post(f"{OPERATIONS}/1/{what}", headers=headers)

    assert [post("cancel", "c-1").json()["state"] for _ in range(2)] == ["cancelled", "cancelled"]
    problem_of(post("cancel", "c-2"), 409, "not-running")
    assert [post("resume", "c-1").json()["attempts"] for _ in range(2)] == [2, 2]
    # The first one of the key ended the first attempt: it does not end the second one.
    assert (post("cancel", "c-1").json()["state"], house.state(1)) == ("running", "running")
    house.painter.release()
    eventually(lambda: house.state(1) == "done", "the end of the operation")
    assert post("resume", "c-1").json()["state"] == "done"
    problem_of(post("resume", "c-2"), 409, "cannot-resume")


def test_operations_are_listed_the_newest_first_and_filtered(house: House) -> None:
    for wall in ("north", "full", "east"):
        house.paint(wall)
    listed = house.get(f"{OPERATIONS}?fields=id,state&limit=2").json()
    assert listed["items"] == [{"id": 3, "state": "done"}, {"id": 2, "state": "failed"}]
    following = house.get(f"{OPERATIONS}?fields=id&limit=2&cursor={listed['next_cursor']}").json()
    assert (following["items"], following["next_cursor"], following["total"]) == ([{"id": 1}], None, 3)
    assert [one["id"] for one in house.get(f"{OPERATIONS}?state=failed").json()["items"]] == [2]
    problem_of(house.get(f"{OPERATIONS}?state=lost"), 422, "usage")
    problem_of(house.get(f"{OPERATIONS}?nothing=1"), 422, "usage")


def events_of(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return id, name and data of each server-sent event."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in lines:
            found.append((lines.get("id", ""), lines["event"], json.loads(lines["data"])))
    return found


def test_an_operation_shows_the_wanted_fields(house: House) -> None:
    house.paint("north")
    assert house.get(f"{OPERATIONS}/1?fields=state,id").json() == {"state": "done", "id": 1}
    assert house.get(f"{OPERATIONS}/1?fields=state&fields=id").json() == {"state": "done", "id": 1}
    assert "plan" in house.get(f"{OPERATIONS}/1").json()
    assert "state" in problem_of(house.get(f"{OPERATIONS}/1?fields=colour"), 422, "usage")["hint"]
    assert "fields" in problem_of(house.get(f"{OPERATIONS}/1?feilds=id"), 422, "usage")["hint"]


@pytest.mark.parametrize("path", [OPERATIONS, f"{OPERATIONS}/1"])
def test_operations_that_did_not_change_are_not_sent_again(house: House, path: str) -> None:
    house.paint("slow", prefer="respond-async")
    eventually(lambda: house.get(f"{OPERATIONS}/1?fields=events").json()["events"], "its first event")
    first = house.get(path)
    again = house.get(path, **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    house.post(f"{OPERATIONS}/1/cancel")
    changed = house.get(path, **{"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.headers["etag"] != first.headers["etag"]) == (200, True)


def test_the_newest_operations_are_read_without_all_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for wall in ("north", "south", "wet", "east"):
        house.paint(wall)
    every = [one["id"] for one in house.get(f"{OPERATIONS}?sort=-id,kind").json()["items"]]
    assert every == sorted(every, reverse=True)

    def refuse(*_: object) -> None:
        raise AssertionError("all operations were read")

    monkeypatch.setattr(OperationStore, "latest", refuse)
    found: list[int] = []
    cursor = ""
    while cursor is not None:
        page = house.get(f"{OPERATIONS}?limit=2{cursor and f'&cursor={cursor}'}").json()
        assert page["total"] == len(every)
        found += [one["id"] for one in page["items"]]
        cursor = page["next_cursor"]
    assert found == every
    for place in (10**30, -(10**30), None):
        text = json.dumps([["-id"], [place]]).encode()
        assert house.get(f"{OPERATIONS}?cursor={base64.urlsafe_b64encode(text).decode().rstrip('=')}").is_success
    assert house.get(f"{OPERATIONS}?cursor=x").status_code == 422
    house.api.client.post("/login", data={"token": ADMIN_TOKEN})
    assert f"/operations/{every[0]}" in house.get("/operations").text


def test_events_are_streamed_and_a_cut_stream_goes_on(house: House) -> None:
    house.paint("slow", prefer="respond-async")
    path = f"{OPERATIONS}/1/events"
    headers = house.api.read | {"Accept": "text/event-stream"}
    with house.api.client.stream("GET", path, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = ""
        for part in response.iter_text():
            text += part
            if "painting slow" in text:
                break
    assert [one[:2] for one in events_of(text)] == [("1", "started")]
    house.painter.release()
    rest = house.api.client.get(path, headers=headers | {"Last-Event-ID": "1"})
    assert [one[:2] for one in events_of(rest.text)] == [("2", "done"), ("3", "done"), ("", "end")]
    assert events_of(rest.text)[-1][2]["state"] == "done"
    listed = house.get(f"{path}?after=2").json()["items"]
    assert [one["number"] for one in listed] == [3]
    problem_of(house.get(path, **{"Last-Event-ID": "x"}), 422, "usage")
    problem_of(house.get(f"{OPERATIONS}/9/events", Accept="text/event-stream"), 404, "not-found")


def test_a_stream_ends_before_its_operation_so_that_its_token_is_checked_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations_route, "STREAM_S", 0.0)
    house.paint("slow", prefer="respond-async")
    path, headers = f"{OPERATIONS}/1/events", house.api.read | {"Accept": "text/event-stream"}
    eventually(lambda: house.get(path).json()["items"], "the first event")
    first = house.api.client.get(path, headers=headers, timeout=5)
    assert [one[:2] for one in events_of(first.text)] == [("1", "started")]
    assert house.api.client.get(path, headers={"Accept": "text/event-stream"}).status_code == 401


def test_operations_survive_a_restart(files: ApiFiles) -> None:
    painter = Painter()
    with serve(create_app(settings_of(files), [painter.change()], [])) as api:
        House(api, painter).paint("north")
        House(api, painter).paint("slow", prefer="respond-async")
        eventually(painter.started.is_set, "the start")
    later = Painter()
    with serve(create_app(settings_of(files), [later.change()], [])) as api:
        house = House(api, later)
        assert [house.state(number) for number in (1, 2)] == ["done", "interrupted"]
        assert house.post(f"{OPERATIONS}/2/resume").status_code == 202
        eventually(later.started.is_set, "the start")
        later.release()
        eventually(lambda: house.state(2) == "done", "the end of the operation")


def test_without_a_volume_operations_work_until_the_process_ends(
    files: ApiFiles, run_api: Callable[[Any], Api], caplog: pytest.LogCaptureFixture
) -> None:
    settings = files.settings(data_folder=files.folder / "missing", reconciler=False)
    painter = Painter()
    house = House(run_api(create_app(settings, [painter.change()], [])), painter)
    assert house.paint("north").status_code == 201
    assert house.state(1) == "done"
    assert "operations are forgotten" in caplog.text


def test_a_broken_record_leaves_the_rest_working(files: ApiFiles, run_api: Callable[[Any], Api]) -> None:
    settings = settings_of(files)
    (settings.data_folder / "operations.sqlite").write_bytes(b"not a database" * 100)
    painter = Painter()
    house = House(run_api(create_app(settings, [painter.change()], [])), painter)
    problem_of(house.paint("north"), 503, "operations-unavailable")
    assert painter.painted == []
    assert house.get("/openapi.json").status_code == 200
