"""Where settings come from, and what is said when they are wrong."""

from pathlib import Path

import pytest

from nbx.errors import SetupError
from nbx.settings import SOCKET_PATH_BYTES, Settings, load_settings, without_secrets


def faults(environ: dict[str, str], file: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(SetupError) as caught:
        load_settings(environ, file)
    return caught.value.faults


def test_defaults() -> None:
    assert load_settings({"HOME": "/root", "NBX_WORKER": "3", "NBX_SUPERVISOR": "1"}) == Settings()


def test_variables_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "nbx.toml"
    file.write_text('port = 9000\ngrpc_port = 9001\nredis_fsync = "always"\n')
    for loaded in (
        load_settings({"NBX_PORT": "9002"}, file),
        load_settings({"NBX_PORT": "9002", "NBX_CONFIG": str(file)}),
    ):
        assert (loaded.port, loaded.grpc_port, loaded.redis_fsync) == (9002, 9001, "always")


def test_all_faults_at_once_with_place_value_and_what_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "nbx.toml"
    file.write_text('prot = 1\nworkers = "2"\npartitions = true\nsalt = ""\n')
    found = faults(
        {
            "NBX_PORT": "0",
            "NBX_GRPC_PORT": "eighty",
            "NBX_HOST": "0.0.0.0",  # noqa: S104
            "NBX_AUTH": "off",
            "NBX_TLS_CERT": str(tmp_path / "no.pem"),
            "NBX_REDIS_URL": "redis+cluster://app:s3cret@a:6379",
            "NBX_PARTITION": "4",
            "NBX_LOG_LEVEL": "loud",
        },
        file,
    )
    assert found == (
        f"{file}:prot: unknown key; did you mean port?",
        f"{file}:workers: '2' is not allowed; allowed: 1 to 256",
        f"{file}:partitions: True is not allowed; allowed: 1 to 1024",
        f"{file}:salt: '' is not allowed; allowed: 1 to 16 printable ASCII characters",
        "NBX_PORT: 0 is not allowed; allowed: 1 to 65535",
        "NBX_GRPC_PORT: 'eighty' is not allowed; allowed: 1 to 65535",
        "NBX_PARTITION: unknown variable; did you mean NBX_PARTITIONS?",
        "NBX_LOG_LEVEL: 'loud' is not allowed; allowed: `debug`, `info`, `warning`, `error`",
        (
            "NBX_REDIS_URL: 'redis+cluster://app:***@a:6379': Redis Cluster is not supported by this version; "
            "allowed: redis://host:port/db, rediss://host:port/db, unix:///path, or empty for the embedded one"
        ),
        "NBX_AUTH: 'off' is refused when host is '0.0.0.0'; allowed: 'keys', or a loopback host (127.0.0.1)",
        "NBX_TLS_KEY (default): is empty, but tls_cert is given; TLS needs both",
        f"NBX_TLS_CERT: {str(tmp_path / 'no.pem')!r} is no file",
    )


@pytest.mark.parametrize("content", [None, b"port = \n", b"\xff\xfe"], ids=["missing", "syntax", "bytes"])
def test_a_bad_file_does_not_hide_a_bad_variable(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "nbx.toml"
    if content is not None:
        file.write_bytes(content)
    first, second = faults({"NBX_WORKERS": "none"}, file)
    assert first.startswith(f"{file}: ")
    assert second.startswith("NBX_WORKERS: 'none'")


@pytest.mark.parametrize(
    "url", ["http://a", "redis://", "unix://", "redis://a:port", "rediss://a:99999", "localhost:6379"]
)
def test_refused_redis_urls(url: str) -> None:
    (fault,) = faults({"NBX_REDIS_URL": url})
    assert fault.startswith("NBX_REDIS_URL: ")
    assert "allowed: redis://" in fault


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_auth_may_be_off_on_loopback(host: str) -> None:
    assert load_settings({"NBX_AUTH": "off", "NBX_HOST": host}).auth == "off"


def test_ports_must_differ() -> None:
    (fault,) = faults({"NBX_PORT": "8081"})
    assert fault.startswith("NBX_GRPC_PORT (default): 8081 is the port of HTTP too")


def test_environment_reproduces_the_settings(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_bytes(b"")
    settings = Settings(
        data_dir=tmp_path / "some data",
        redis_url="redis://app:p%40ss@h:1/2?x=1",
        host="::1",
        port=1,
        tls_cert=tmp_path / "cert.pem",
        tls_key=tmp_path / "key.pem",
        salt="a!~",
        redis_fsync="always",
    )
    assert load_settings(settings.environment()) == settings
    assert load_settings(Settings().environment()).data_dir == Path("data").absolute()


def test_socket_path_always_fits() -> None:
    short = Settings(data_dir=Path("/srv/nbx"))
    assert short.redis_socket == Path("/srv/nbx/redis.sock")
    assert short.effective_redis_url == "unix:///srv/nbx/redis.sock"
    limit = SOCKET_PATH_BYTES - len("/redis.sock")
    assert Settings(data_dir=Path("/" + "x" * (limit - 1))).redis_socket.parent.name == "x" * (limit - 1)
    long = Settings(data_dir=Path("/" + "x" * limit))
    assert len(bytes(long.redis_socket)) <= SOCKET_PATH_BYTES
    assert long.redis_socket != Settings(data_dir=Path("/" + "y" * limit)).redis_socket


def test_passwords_are_not_shown() -> None:
    url = "rediss://:p@ss:word@redis.example:6380/0?password=more"
    assert without_secrets(url) == "rediss://:***@redis.example:6380/0"
    assert Settings(redis_url=url).redis_label == "rediss://:***@redis.example:6380/0"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8080"),  # noqa: S104
        ("::", "http://[::1]:8080"),
        ("nbx.example", "http://nbx.example:8080"),
    ],
)
def test_url_reaches_this_machine(host: str, url: str) -> None:
    assert Settings(host=host).url == url
