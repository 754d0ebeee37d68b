"""A whole running service for tests: `python -m nbx up` on free ports with its own data directory, real all through."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import msgspec
import psutil
import redis
import redis.asyncio

from nbx.api.auth import create_key, revoke_key
from nbx.bandits.learner import Learner
from nbx.experience.entries import DecisionEntry, Entry, EventEntry, Outcome, TimerEntry, decode_entry
from nbx.features.keys import MODEL_CHECKPOINT, partition_keys
from nbx.runtime.learner_process import Checkpoint
from nbx.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
START_S = 180.0
STOP_S = 60.0
LOOK_S = 0.01

OFFERS = frozenset({"alpha", "beta", "gamma", "delta"})
_OFFER = """
  {name}:
    group: offers
    value: 60
    gives: [something]
    asks: [time]
    treatments:
      card: {{placements: [web], content: {{say: hello}}}}
      script: {{placements: [desk], content: {{say: hello}}}}"""
_FAST = """
  {name}:
    group: quick
    value: 80
    treatments: {{card: {{placements: [quick]}}}}"""


def catalog_with(offers: Iterable[str] = sorted(OFFERS)) -> str:
    """Write a catalog with room for every test of the edges."""
    return f"""
catalog: tests
attribution: 7d
correction: 7d
journeys:
  opening: {{steps: {{opened: {{event: account_opened, does: [deposit], owes: {{events: [card_sent], within: 1d}}}}}}}}
features:
  age: {{type: number, encode: {{standard: {{mean: 42, sd: 15}}}}, default: 42}}
  hour: {{type: number, from: context, encode: {{standard: {{mean: 13, sd: 5}}}}, default: 13}}
  is_mobile: {{type: boolean, from: context}}
  call_reason: {{type: category, from: context, encode: {{onehot: [card, payment, other]}}}}
  visits: {{type: number, from: {{event: page_view, count: 7d}}, encode: {{log: 20}}}}
placements:
  # windows are long where nothing is to happen by itself, and a second where it is
  web: {{channel: web, impressions: reported, slots: 3, delivery: 2h, attention: 2h,
        default: {{action: help, treatment: card}}}}
  quick: {{channel: web, impressions: reported, slots: 3, delivery: 1s, attention: 1s}}
  desk: {{channel: phone, impressions: implicit, slots: 3, attention: 2h}}
  silent: {{channel: web, impressions: reported}}
groups:
  offers: {{topic: offers, pause: {{declined: 30d}}}}
  quick: {{topic: offers}}
  service: {{topic: service}}
actions:{"".join(_OFFER.format(name=name) for name in offers)}
  grown_up:
    group: offers
    value: 20
    eligible: customer.age >= 150.0
    treatments: {{card: {{placements: [web, silent]}}}}
  help:
    group: service
    class: service
    value: 5
    treatments: {{card: {{placements: [web], content: {{say: help}}}}}}{
        "".join(_FAST.format(name=name) for name in ("fast", "faster", "fastest"))
    }
exploration: {{floor: 0.01, scale: 1.0}}
"""


CATALOG = catalog_with()
WEB_ACTIONS = OFFERS | {"help"}


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def eventually(look: Callable[[], T], within_s: float, what: str) -> T:
    """Look until it is truthy; fail after `within_s` seconds with the last thing seen."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what} (last seen: {found!r})"
        time.sleep(LOOK_S)
    return found


async def eventually_async(look: Callable[[], bool], within_s: float, what: str) -> None:
    """Let the loop go on until something is so; fail after `within_s` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not look():
        assert loop.time() < deadline, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(LOOK_S)


class Running:
    """A started service. `http` carries the key; what it needs of Redis is read from Redis itself."""

    def __init__(self, environment: dict[str, str], log: Path, arguments: tuple[str, ...]) -> None:
        self.environment = environment
        self.settings: Settings = load_settings(environment)
        self.data_dir = self.settings.data_dir
        self.url = self.settings.url
        self.grpc_target = f"127.0.0.1:{self.settings.grpc_port}"
        self.redis: Any = redis.Redis.from_url(self.settings.effective_redis_url)
        self.key = ""
        self.http = httpx.Client()
        self._log = log
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    # life

    def start(self) -> None:
        """Start, and return when every worker is ready to decide."""
        said = len(self.said())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nbx", "up", *self._arguments],
                env=self.environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        process = self._process

        def runs() -> bool:
            assert process.poll() is None, f"nbx up ended:\n{self.said()}"
            return "nbx runs:" in self.said()[said:]

        eventually(runs, START_S, "nbx runs")
        path = self.data_dir / "cli.key"
        self.key = path.read_text().strip() if path.exists() else ""
        self.http.close()
        self.http = self.client()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return when every worker is ready to decide."""

        def ready() -> bool:
            try:
                with self.workers() as clients:
                    answers = [client.get("/health/ready").status_code for client in clients.values()]
            except (httpx.HTTPError, psutil.Error):
                return False
            return len(answers) == self.settings.workers and set(answers) == {200}

        if self._arguments:
            eventually(ready, START_S, "every worker is ready")

    def stop(self) -> None:
        """Stop as an operator does, and see that it ended well and left nothing behind."""
        process = self._process
        assert process is not None
        self.http.close()
        self.redis.close()
        try:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            code = process.wait(STOP_S)
        finally:
            self.kill_tree()
        assert code == 0, f"nbx up ended with {code}:\n{self.said()[-4000:]}"
        assert not self.settings.redis_socket.exists(), "the socket of Redis is still there"

    def kill_tree(self) -> list[int]:
        """SIGKILL everything that has this data directory, supervisor first; returns whom."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        left = self.left()
        for each in left:
            with contextlib.suppress(psutil.Error):
                each.kill()
        psutil.wait_procs(left, STOP_S)
        return [each.pid for each in left]

    def left(self) -> list[psutil.Process]:
        """Processes that have this data directory, without the supervisor."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environ = process.environ()
                ours = environ.get("NBX_DATA_DIR") == str(self.data_dir) and "NBX_SUPERVISOR" in environ
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    # looking at it

    def said(self) -> str:
        """Everything `nbx up` wrote."""
        return self._log.read_text() if self._log.exists() else ""

    def child_log(self, name: str) -> str:
        """Log of a child."""
        return (self.data_dir / "logs" / f"{name}.log").read_text()

    def pids(self) -> dict[str, int]:
        """Process id of each child that was started last, by name: redis, api-0, …, learner, keeper."""
        found = re.findall(r"Z (\S+): starting pid (\d+)", self.said())
        return {name: int(pid) for name, pid in found}

    def client(self, key: str | None = None) -> httpx.Client:
        """Make a client with one connection of its own: it speaks to one worker."""
        return httpx.Client(
            base_url=self.url, headers=self.headers(key), timeout=30.0, limits=httpx.Limits(max_connections=1)
        )

    def headers(self, key: str | None = None) -> dict[str, str]:
        """Return headers with a key, this one's own by default; an empty key sends none."""
        key = self.key if key is None else key
        return {"authorization": f"Bearer {key}"} if key else {}

    @contextlib.contextmanager
    def workers(self) -> Iterator[dict[str, httpx.Client]]:
        """Give a client for every worker that answers, found by connecting until each was met."""
        found: dict[str, httpx.Client] = {}
        with contextlib.ExitStack() as opened:
            for _ in range(200):
                client = self.client()
                with contextlib.ExitStack() as unwanted:
                    unwanted.enter_context(client)
                    answer = client.get("/health/live")
                    port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
                    name = self._worker_at(port)
                    if name and name not in found:
                        found[name] = client
                        opened.push(unwanted.pop_all())
                if len(found) == self.settings.workers:
                    break
            yield found

    def _worker_at(self, client_port: int) -> str:
        for name, pid in self.pids().items():
            if name.startswith("api-"):
                with contextlib.suppress(psutil.Error):
                    for connection in psutil.Process(pid).net_connections("tcp"):
                        if connection.raddr and connection.raddr.port == client_port:
                            return name
        return ""

    def entries(self) -> list[Entry]:
        """Decode the whole log, partition by partition, each in its order."""
        return [decode_entry(fields[b"e"]) for _, fields in self._rows()]

    def entries_of(self, customer_id: str) -> list[Entry]:
        """Return the log entries of a customer, oldest first."""
        return [entry for entry in self.entries() if entry.customer_id == customer_id]

    def _rows(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        rows: list[tuple[bytes, dict[bytes, bytes]]] = []
        for partition in range(self.settings.partitions):
            rows += self.redis.xrange(partition_keys(partition).log)
        return rows

    def dump(self) -> dict[bytes, bytes]:
        """Serialise every key of customers, decisions, logs and timers; the learner's sites are not among them."""
        keys = sorted(key for key in self.redis.scan_iter("nbx:{p*", count=1000) if b":s:" not in key)
        pipe = self.redis.pipeline(transaction=False)
        for key in keys:
            pipe.dump(key)
        return dict(zip(keys, pipe.execute(), strict=True))

    def timers(self) -> int:
        """Count the timers that are armed."""
        return sum(int(self.redis.zcard(partition_keys(p).timers)) for p in range(self.settings.partitions))

    def checkpoint(self) -> Checkpoint | None:
        """Return the learner's last checkpoint."""
        packed = self.redis.get(MODEL_CHECKPOINT)
        return msgspec.msgpack.decode(packed, type=Checkpoint) if packed else None

    def settled_checkpoint(self, within_s: float = 30.0) -> Checkpoint:
        """Wait until a checkpoint covers the whole log, and return it."""

        def covered() -> Checkpoint | None:
            checkpoint = self.checkpoint()
            for partition in range(self.settings.partitions):
                last = self.redis.xrevrange(partition_keys(partition).log, count=1)
                if last and (checkpoint is None or checkpoint.offsets.get(partition) != last[0][0].decode()):
                    return None
            return checkpoint

        found = eventually(covered, within_s, "the learner's checkpoint covers the log")
        assert found is not None
        return found

    # doing things

    def post(self, path: str, body: Any, client: httpx.Client | None = None) -> Any:
        """POST something that must succeed."""
        answer = (client or self.http).post(path, content=msgspec.json.encode(body))
        assert answer.is_success, answer.text
        return answer.json()

    def new_key(self, *scopes: str, origins: Iterable[str] = ()) -> tuple[str, str]:
        """Make a key; returns its text and id once every worker takes it."""
        text, record = self._on_redis(lambda client: create_key(client, "test", scopes, 1, origins=tuple(origins)))
        self._wait_for_key(text, known=True)
        return text, record.id

    def revoke(self, key_id: str, text: str, within_s: float) -> None:
        """Revoke a key and see every worker refuse it in time."""
        self._on_redis(lambda client: revoke_key(client, key_id, 2))
        self._wait_for_key(text, known=False, within_s=within_s)

    def _wait_for_key(self, text: str, *, known: bool, within_s: float = 5.0) -> None:
        def so(client: httpx.Client) -> bool:
            answer = client.get("/v1/decisions/x", headers=self.headers(text))
            return (answer.status_code != httpx.codes.UNAUTHORIZED) == known

        with self.workers() as clients:
            for client in clients.values():
                eventually(partial(so, client), within_s, f"the key is known: {known}")

    def _on_redis(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            async with redis.asyncio.Redis.from_url(self.settings.effective_redis_url) as client:
                return await work(client)

        return asyncio.run(run())

    def decide(self, customer_id: str, placement: str = "web", client: httpx.Client | None = None, **more: Any) -> Any:
        """Ask for a decision that must be had."""
        return self.post("/v1/decisions", {"customer_id": customer_id, "placement": placement, **more}, client)

    def decide_shown(self, stem: str, placement: str = "web", **more: Any) -> tuple[str, Any]:
        """Decide for one new customer after another until slot 0 holds an action; returns customer and reply."""
        for number in range(200):
            reply = self.decide(f"{stem}-{number}", placement, **more)
            if reply["slots"][0].get("action"):
                return f"{stem}-{number}", reply
        raise AssertionError("200 customers and always silence")

    def record(self, *events: dict[str, Any], client: httpx.Client | None = None) -> Any:
        """Record events; returns their results."""
        return self.post("/v1/events", list(events), client)


@contextlib.contextmanager
def running(
    tmp_path: Path, catalog: str | Path | None = CATALOG, workers: int = 1, **settings: Any
) -> Iterator[Running]:
    """Run a service for the length of a block.

    Parameters
    ----------
    tmp_path
        Directory for its data and logs.
    catalog
        Text or path of the catalog to publish; None: none.
    workers
        Number of api processes.
    **settings
        Further settings by their name. The deadline is two seconds unless given: a loaded machine must not turn answers
        into degraded ones.
    """
    port, grpc_port = free_ports(2)
    chosen = {
        "data_dir": tmp_path / "data",
        "port": port,
        "grpc_port": grpc_port,
        "workers": workers,
        "deadline_ms": 2_000,
        "checkpoint_interval_ms": 200,
        **settings,
    }
    arguments: tuple[str, ...] = ()
    if isinstance(catalog, str):
        path = tmp_path / "catalog.yaml"
        path.write_text(catalog)
        catalog = path
    if catalog is not None:
        arguments = ("--catalog", str(catalog))
    service = Running(environment_of(chosen), tmp_path / "up.log", arguments)
    try:
        service.start()
        yield service
    except BaseException:
        service.kill_tree()
        raise
    service.stop()


def environment_of(settings: dict[str, Any]) -> dict[str, str]:
    """Return this process's variables, without nbx's own, and the given settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NBX_")}
    own = {f"NBX_{name.upper()}": str(value) for name, value in settings.items()}
    return {**inherited, **own, "PYTHONPATH": str(ROOT)}


def outcomes_of(entries: Iterable[Entry]) -> dict[tuple[str, int], list[Outcome]]:
    """Collect the outcomes of each slot in the order of the log."""
    found: dict[tuple[str, int], list[Outcome]] = {}
    for entry in entries:
        if isinstance(entry, EventEntry | TimerEntry):
            for outcome in entry.outcomes:
                found.setdefault((outcome.decision_id, outcome.slot), []).append(outcome)
    return found


def evidence_in_log(entries: Iterable[Entry], *, reported: bool = False) -> dict[str, float]:
    """Recompute the evidence per action: each slot counts once, with its last revision.

    `reported`: the channels are known to report exposures, so an answer without one counts for nothing.
    """
    evidence: dict[str, float] = {}
    for revisions in outcomes_of(entries).values():
        last = revisions[-1]
        if last.x:
            counts = last.response is not None and (last.seen_reported or not reported)
            weight = last.response_weight if counts else 0.0
            evidence[last.action] = evidence.get(last.action, 0.0) + weight
    return evidence


def evidence_learned(checkpoint: Checkpoint) -> dict[str, float]:
    """Read the evidence per action that a checkpoint holds."""
    return Learner.restore(checkpoint.learner).evidence


def decisions_in(entries: Iterable[Entry]) -> list[DecisionEntry]:
    """Pick the decisions."""
    return [entry for entry in entries if isinstance(entry, DecisionEntry)]


def event_ids_in(entries: Iterable[Entry]) -> list[str]:
    """Pick the ids of events, as often as they stand there."""
    return [entry.event.event_id for entry in entries if isinstance(entry, EventEntry)]
