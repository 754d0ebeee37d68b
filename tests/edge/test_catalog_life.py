"""The life of a catalog on a running service: drafts, approval, examples, history, rollback, admin trail, CLI."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import httpx
import msgspec
import pytest

from nbx.cli import main
from nbx.features.keys import ADMIN_LOG
from nbx.limits import NOTE_LENGTH
from tests.service import CATALOG, Running, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RELEASES = "/v1/catalog/releases"
DRAFTS = "/v1/catalog/drafts"
FEWER = CATALOG.replace("slots: 3", "slots: 2", 1)
assert FEWER != CATALOG
GROWN_UPS = """
examples:
  "nobody is offered what is for the very old":
    given: {placement: web, customer: {age: 30}}
    expect: {blocked: {grown_up: not_eligible}}
"""
GREEN = CATALOG + GROWN_UPS
RED = GREEN.replace("grown_up: not_eligible", "help: not_eligible")


class Said(NamedTuple):
    """What a command printed."""

    out: str
    err: str

    def json(self) -> Any:
        return msgspec.json.decode(self.out)


class Cli(Protocol):
    def __call__(self, service: Running, *arguments: str, code: int = 0, key: str | None = None) -> Said: ...


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run a service where it takes two people to publish."""
    with running(tmp_path_factory.mktemp("two"), GREEN, approval="two") as started:
        yield started


@pytest.fixture(scope="module")
def other(two: Running) -> str:
    """Make a second person's key."""
    return two.new_key("catalog")[0]


def post(service: Running, path: str, body: str = "", key: str | None = None, **query: Any) -> httpx.Response:
    return service.http.post(path, content=body, params=query, headers=service.headers(key))


def kept(service: Running) -> dict[bytes, bytes]:
    """Everything that a change of the catalog may write."""
    keys = sorted(service.redis.scan_iter("nbx:catalog:*", count=1000))
    return {key: service.redis.dump(key) for key in [*keys, ADMIN_LOG.encode()]}


def refused(service: Running, answer: httpx.Response, status: int, code: str, before: dict[bytes, bytes]) -> Any:
    """See that something was refused with words and wrote nothing."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert kept(service) == before
    return answer.json()


def trail(service: Running, count: int = 1) -> list[dict[str, Any]]:
    answer = service.http.get("/v1/audit/changes", params={"count": count})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()
    return rows


def test_two_people_publish(two: Running, other: str) -> None:
    before = kept(two)
    problem = refused(two, post(two, RELEASES, FEWER), 403, "approval_needed", before)
    assert "nbx catalog draft FILE" in problem["detail"]
    made = post(two, DRAFTS, FEWER, note="fewer slots")
    assert made.status_code == 201, made.text
    draft = made.json()
    assert (draft["base"], draft["check"]["failing"]) == (1, [])
    assert draft["diff"][0] == "placement web: slots 3 → 2"
    assert [row["id"] for row in two.http.get(DRAFTS).json()] == [draft["id"]]
    assert two.http.get(f"{DRAFTS}/{draft['id']}").json() == draft
    assert two.http.get(f"{DRAFTS}/{draft['id']}/text").text == FEWER
    before = kept(two)
    refused(two, post(two, RELEASES, draft=draft["id"]), 403, "approval_needed", before)
    refused(two, post(two, f"{DRAFTS}/{draft['id']}/approve"), 403, "approval_own", before)
    wrong = post(two, f"{DRAFTS}/{draft['id']}/approve", key=other, sha256="0" * 64)
    refused(two, wrong, 409, "draft_differs", before)
    approved = post(two, f"{DRAFTS}/{draft['id']}/approve", key=other, sha256=draft["sha256"])
    assert approved.status_code == 200, approved.text
    published = post(two, RELEASES, draft=draft["id"])
    assert published.status_code == 201, published.text
    reply = published.json()
    first, second = (key.split("_")[1] for key in (two.key, other))
    assert (reply["release"], reply["note"], reply["changes"]) == (2, "fewer slots", draft["diff"])
    assert (reply["author"], reply["approved_by"]) == (f"first ({first})", f"test ({second})")
    assert two.decide("life-two", "web", slots=2)["release"] == 2
    assert two.http.get(f"{RELEASES}/2/text").text == FEWER
    assert two.http.get(f"{DRAFTS}/{draft['id']}").status_code == 404
    assert [(row["what"], row["who"]) for row in trail(two, 3)] == [
        ("published", f"first ({first})"),
        ("draft_approved", f"test ({second})"),
        ("draft_created", f"first ({first})"),
    ]


def test_an_approval_holds_for_the_release_it_was_given_on(two: Running, other: str) -> None:
    drafts = [post(two, DRAFTS, text).json()["id"] for text in (GREEN, FEWER)]
    for draft in drafts:
        assert post(two, f"{DRAFTS}/{draft}/approve", key=other).status_code == 200
    assert post(two, RELEASES, draft=drafts[0]).status_code == 201
    before = kept(two)
    refused(two, post(two, RELEASES, draft=drafts[1]), 409, "release_stale", before)
    assert two.http.delete(f"{DRAFTS}/{drafts[1]}").status_code == 204
    assert (trail(two)[0]["what"], two.http.get(DRAFTS).json()) == ("draft_deleted", [])


def test_going_back_takes_one(two: Running, other: str) -> None:
    assert post(two, RELEASES, FEWER, key=other).status_code == 403
    current = two.http.get("/health/ready").json()["release"]
    back = post(two, f"{RELEASES}/1/rollback", key=other, note="too few")
    assert back.status_code == 201, back.text
    assert (back.json()["release"], back.json()["rollback_of"]) == (current + 1, 1)
    assert two.decide("life-back", "web", slots=3)["release"] == current + 1
    assert two.http.get(f"{RELEASES}/{current + 1}/text").text == GREEN
    assert trail(two)[0]["what"] == "rolled_back"
    before = kept(two)
    refused(two, post(two, f"{RELEASES}/99/rollback"), 404, "release_unknown", before)
    refused(two, post(two, f"{RELEASES}/1/rollback", base=1), 409, "release_stale", before)


def test_the_first_start_is_in_history_and_trail(two: Running) -> None:
    (first,) = two.http.get(RELEASES, params={"before": 2}).json()
    assert (first["number"], first["author"], first["note"]) == (1, "nbx up", "first start")
    assert two.http.get(f"{RELEASES}/1/text").text == GREEN
    whats = [(row["what"], row["who"]) for row in trail(two, 1000)]
    assert ("key_created", "nbx up") in whats
    assert ("published", "nbx up") in whats
    assert ("key_created", "operator") in whats


def test_red_examples_stop_a_publication_and_nothing_else(service: Running) -> None:
    before = kept(service)
    problem = refused(service, post(service, RELEASES, RED), 422, "examples_failed", before)
    (fault,) = problem["faults"]
    assert fault["detail"].startswith("nobody is offered what is for the very old: ")
    checked = post(service, "/v1/catalog/check", RED).json()
    assert (checked["examples"], checked["failing"]) == (1, [fault["detail"]])
    tested = post(service, "/v1/catalog/test", RED).json()
    assert (tested["passed"], [row["passed"] for row in tested["examples"]]) == (False, [False])
    assert post(service, "/v1/catalog/test", GREEN).json()["passed"] is True
    assert kept(service) == before
    draft = post(service, DRAFTS, RED).json()
    assert draft["check"]["failing"] == [fault["detail"]]
    before = kept(service)
    refused(service, post(service, RELEASES, draft=draft["id"]), 422, "examples_failed", before)
    assert service.http.delete(f"{DRAFTS}/{draft['id']}").status_code == 204


def test_differences_are_told_in_words(service: Running) -> None:
    current = service.http.get("/health/ready").json()["release"]
    assert post(service, "/v1/catalog/diff", CATALOG).json() == {"against": current, "changes": []}
    told = post(service, "/v1/catalog/diff", FEWER).json()["changes"]
    assert told == ["placement web: slots 3 → 2"]
    release = post(service, RELEASES, FEWER).json()
    assert release["changes"] == told
    path = f"{RELEASES}/{release['release']}"
    assert service.http.get(f"{path}/diff").json() == {"against": current, "changes": told}
    assert service.http.get(f"{path}/diff", params={"against": 0}).json()["changes"][0].startswith("catalog: new, ")
    assert post(service, "/v1/catalog/diff", FEWER, against=current).json()["changes"] == told
    again = post(service, RELEASES, f"# with a comment\n{FEWER}").json()
    assert again["changes"] == [], "a release that changes nothing says so"
    assert service.http.get(f"{RELEASES}/{again['release']}/text").text.startswith("# with a comment\n")
    newest, *_ = service.http.get(RELEASES, params={"count": 2}).json()
    assert (newest["number"], newest["diff"]) == (again["release"], [])
    assert service.http.get(path).json()["catalog"]["name"] == "tests"
    assert post(service, f"{RELEASES}/{current}/rollback").status_code == 201


def test_what_is_wrong_is_said_and_nothing_written(service: Running) -> None:
    draft = post(service, DRAFTS, FEWER).json()["id"]
    before = kept(service)
    faulty = CATALOG.replace("type: boolean", "type: colour")
    for path in (RELEASES, DRAFTS, "/v1/catalog/check", "/v1/catalog/test", "/v1/catalog/diff"):
        problem = refused(service, post(service, path, faulty), 422, "catalog", before)
        assert problem["faults"][0]["line"] > 0
    not_text = service.http.post(DRAFTS, content=b"\xff")
    assert (not_text.status_code, not_text.json()["field"]) == (400, "body")
    refused(service, post(service, DRAFTS, CATALOG, base=1_000_000), 409, "release_stale", before)
    refused(service, post(service, RELEASES, CATALOG, draft=draft), 400, "invalid", before)
    refused(service, post(service, RELEASES, draft="nowhere"), 404, "draft_unknown", before)
    for path in (RELEASES, DRAFTS, f"{RELEASES}/1/rollback"):
        problem = refused(service, post(service, path, CATALOG, note="x" * (NOTE_LENGTH + 1)), 413, "too_large", before)
        assert problem["field"] == "note"
    for path in ("releases/0", "releases/99999", "drafts/x", "drafts/x/text", "releases/99999/diff"):
        assert service.http.get(f"/v1/catalog/{path}").status_code == 404, path
    assert service.http.delete(f"{DRAFTS}/nowhere").status_code == 404
    for query in ({"count": 0}, {"count": "x"}, {"before": -1}):
        assert service.http.get(RELEASES, params=query).status_code == 400
    assert kept(service) == before
    assert service.http.delete(f"{DRAFTS}/{draft}").status_code == 204


READS = [RELEASES, f"{RELEASES}/1", f"{RELEASES}/1/text", f"{RELEASES}/1/diff", DRAFTS]
WRITES = ["check", "test", "diff", "drafts", "releases", "releases/1/rollback", "drafts/x/approve"]


def test_scopes(service: Running) -> None:
    keys = {scope: service.new_key(scope)[0] for scope in ("decide", "events", "audit", "catalog")}
    before = kept(service)
    for scope, key in keys.items():
        headers = service.headers(key)
        for path in READS:
            allowed = scope in ("audit", "catalog")
            assert (service.http.get(path, headers=headers).status_code == 200) == allowed, (scope, path)
        assert (service.http.get("/v1/audit/changes", headers=headers).status_code == 200) == (scope == "audit")
        if scope != "catalog":
            for path in WRITES:
                assert post(service, f"/v1/catalog/{path}", CATALOG, key=key).status_code == 403, (scope, path)
            assert service.http.delete(f"{DRAFTS}/x", headers=headers).status_code == 403
    assert kept(service) == before


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process: starting twenty would take longer than all they do."""

    def run(service: Running, *arguments: str, code: int = 0, key: str | None = None) -> Said:
        with monkeypatch.context() as patched:
            for name, value in service.environment.items():
                patched.setenv(name, value)
            if key is not None:
                patched.setenv("NBX_API_KEY", key)
            patched.setattr(sys, "argv", ["nbx", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        said = Said(*capsys.readouterr())
        assert (ended.value.code or 0) == code, (arguments, said)
        return said

    return run


def test_a_file_is_tested_without_a_service(cli: Cli, service: Running, tmp_path: Path) -> None:
    green, red, faulty = (tmp_path / name for name in ("green.yaml", "red.yaml", "faulty.yaml"))
    green.write_text(GREEN)
    red.write_text(RED)
    faulty.write_text(CATALOG.replace("type: boolean", "type: colour"))
    before = kept(service)
    test = partial(cli, service, "catalog", "test", key="")
    assert test(str(green)).out == f"{green}: 1 of 1 examples hold\n"
    assert "fails: nobody is offered what is for the very old: " in test(str(red), code=1).out
    assert test(str(red), "--json", code=1).json()["passed"] is False
    assert "features.is_mobile.type" in test(str(faulty), code=1).err
    assert test(str(faulty), "--json", code=1).json()["faults"]
    test(str(tmp_path / "none.yaml"), code=2)
    assert kept(service) == before


def test_the_command_line_all_the_way(cli: Cli, two: Running, other: str, tmp_path: Path) -> None:
    file = tmp_path / "fewer.yaml"
    text = FEWER.replace("\n", "\r\n")
    file.write_bytes(text.encode())
    catalog = partial(cli, two, "catalog")
    current = two.http.get("/health/ready").json()["release"]
    assert catalog("diff", str(file)).out.splitlines()[0] == "  placement web: slots 3 → 2"
    assert catalog("diff", str(file), "--json", "--against", "1").json()["against"] == 1
    assert "approval_needed" in catalog("publish", str(file), code=1).err
    catalog("publish", code=2)
    made = catalog("draft", str(file), "--note", "fewer", "--base", str(current), "--json").json()
    assert f"{made['id']}  " in catalog("drafts").out
    assert catalog("drafts", "--json").json()[0]["id"] == made["id"]
    assert "approval_own" in catalog("approve", made["id"], code=1).err
    approved = catalog("approve", made["id"], "--sha256", made["sha256"], key=other)
    assert approved.out == f"draft {made['id']} is approved; text {made['sha256']}\n"
    assert "approved by test" in catalog("show", made["id"]).out
    published = catalog("publish", "--draft", made["id"])
    assert published.out.splitlines()[:2] == [
        f"release {current + 1} of tests is in force",
        "  placement web: slots 3 → 2",
    ]
    assert two.http.get(f"{RELEASES}/{current + 1}/text").text == text, "line ends too"
    assert catalog("show", str(current + 1), "--text").out == text
    assert catalog("show", str(current + 1), "--json").json()["number"] == current + 1
    back = catalog("rollback", str(current), "--note", "too few", "--json").json()
    assert back["rollback_of"] == current
    history = catalog("history", "--count", "2").out
    assert f"{current + 2}  " in history
    assert f"brought back release {current}" in history
    heads = catalog("history", "--json", "--count", "2").json()
    assert [head["number"] for head in heads] == [current + 2, current + 1]
    assert "rolled_back: release" in cli(two, "log", "changes").out
    assert cli(two, "log", "changes", "--count", "1", "--json").json()[0]["what"] == "rolled_back"
    unwanted = catalog("draft", str(file), "--json").json()["id"]
    assert catalog("drafts", "--delete", unwanted).out == f"draft {unwanted} is deleted\n"
    assert catalog("drafts", "--json").json() == []


def test_the_schema_names_the_calls(service: Running) -> None:
    paths = msgspec.json.decode(service.http.get("/schema").content)["paths"]
    for path in (DRAFTS, RELEASES, f"{RELEASES}/{{number}}/rollback", "/v1/audit/changes", "/v1/catalog/test"):
        assert path in paths
