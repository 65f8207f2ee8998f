"""The `streambed` command: help, version, errors, and that every setting is a flag."""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import click
import pytest
from click.testing import CliRunner

import streambed
from streambed.cli import main as main_module
from streambed.cli import serve as serve_module
from streambed.cli.main import cli, main
from streambed.errors import ERROR_TABLE, CheckpointError, SettingsError, StreambedError
from streambed.settings import Settings


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The Settings that a command line of `serve` leads to, without serving."""
    for name in [field.name for field in fields(Settings)]:
        monkeypatch.delenv(f"STREAMBED_{name.upper()}", raising=False)
    seen: list[Settings] = []
    monkeypatch.setattr(serve_module, "run", seen.append)

    def settings(*arguments: str, **environment: str) -> Settings:
        result = CliRunner().invoke(cli, ["serve", *arguments], env=environment, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return seen.pop()

    return settings


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", [[], ["serve"], ["embed"]])
def test_help(command: list[str], flag: str) -> None:
    result = CliRunner().invoke(cli, [*command, flag])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    if not command:
        assert "serve" in result.output
        assert "embed" in result.output


def test_version() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.exit_code == 0
    assert streambed.__version__ in result.output
    assert importlib.metadata.version("streambed-embeddings") == streambed.__version__


def test_console_script() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="streambed")
    assert script.load() is main


@pytest.mark.parametrize("arguments", [["frobnicate"], ["serve", "--frobnicate"], ["embed", "--frobnicate"]])
def test_wrong_command_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "frobnicate" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"], ["serve", "--port", "70000"]])
def test_starts_without_torch(arguments: list[str]) -> None:
    """`--help` does not take seconds, and a wrong setting is known at once."""
    code = (
        "import atexit, sys; from streambed.cli.main import main;"
        "atexit.register(lambda: print('torch' in sys.modules)); sys.argv[0] = 'streambed'; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == b"False"


# Errors


@pytest.fixture(autouse=True)
def keep_the_handler() -> Iterator[None]:
    """main() takes Ctrl-C for the process; here that is pytest's."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "error",
    [
        SettingsError("--port is 70000"),
        CheckpointError("/a/b/config.json: missing"),
        StreambedError("something"),
        *(error("something") for error in ERROR_TABLE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_are_one_line(
    error: StreambedError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(main_module, "cli", fail)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"streambed: {error}\n"


def test_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(main_module, "cli", fail)
    with pytest.raises(ZeroDivisionError):
        main()


# Settings as flags


def options() -> dict[str, click.Option]:
    return {
        option.name: option for option in serve_module.serve.params if isinstance(option, click.Option) and option.name
    }


def test_every_setting_is_a_flag_with_help() -> None:
    text = CliRunner().invoke(cli, ["serve", "--help"], terminal_width=200).output
    for field in fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in text
        assert f"STREAMBED_{field.name.upper()}" in text
        assert field.metadata["help"].split(";")[0][:60] in text
    assert set(options()) == {field.name for field in fields(Settings)} | {"is_embedding"}


def test_defaults_are_those_of_the_class(settings_of: Any) -> None:
    assert settings_of() == Settings()


VALUES: dict[str, tuple[list[str], Any]] = {
    "model": (["./a"], "./a"),
    "revision": (["v1"], "v1"),
    "allow_unknown_config": ([], True),
    "served_model_name": (["a", "b"], ("a", "b")),
    "host": (["::1"], "::1"),
    "port": (["0"], 0),
    "api_key": (["one", "two"], ("one", "two")),
    "no_auth": ([], True),
    "allow_origin": (["https://a.example", "*"], ("https://a.example", "*")),
    "root_path": (["/sub"], "/sub"),
    "trusted_proxy": (["127.0.0.1", "10.0.0.0/8"], ("127.0.0.1", "10.0.0.0/8")),
    "keep_alive": (["90"], 90),
    "tls_cert": (["cert.pem"], "cert.pem"),
    "tls_key": (["key.pem"], "key.pem"),
    "reducer": (["a=./b", "c=d=e"], ("a=./b", "c=d=e")),
    "dtype": (["bfloat16"], "bfloat16"),
    "device": (["cuda:1"], "cuda:1"),
    "kernels": (["torch"], "torch"),
    "quantize": (["int8"], "int8"),
    "kv_dtype": (["int8"], "int8"),
    "threads": (["3"], 3),
    "kv_memory": (["1.5GiB"], 3 << 29),
    "max_batch_tokens": (["64"], 64),
    "special_tokens": (["parse"], "parse"),
    "long_input": (["error"], "error"),
    "instruction_template": (["Do: {instruction}"], "Do: {instruction}"),
    "accept_token_ids": ([], True),
    "ignore_unknown_fields": ([], True),
    "max_body": (["1MiB"], 1 << 20),
    "max_bodies": (["64MiB"], 64 << 20),
    "max_requests": (["5"], 5),
    "timeout": (["1.5"], 1.5),
    "session_ttl": (["30"], 30.0),
    "max_sessions": (["7"], 7),
    "max_sessions_per_socket": (["3"], 3),
    "max_session_characters": (["1000"], 1000),
    "max_sockets": (["0"], 0),
    "key_requests_per_second": (["2.5"], 2.5),
    "key_tokens_per_second": (["1000"], 1000.0),
    "key_sockets": (["0"], 0),
    "key_body_bytes": (["64MiB"], 64 << 20),
    "api_keys": (["keys.toml"], "keys.toml"),
    "socket_idle": (["60"], 60.0),
    "socket_life": (["3600"], 3600.0),
    "metrics_port": (["0"], 0),
    "metrics_host": (["::1"], "::1"),
    "log_format": (["json"], "json"),
    "journal": (["streams.db"], "streams.db"),
    "journal_sync": (["normal"], "normal"),
    "drain": (["2"], 2.0),
}


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_flag_and_environment(settings_of: Any, field: Any) -> None:
    given, expected = VALUES[field.name]
    flag, variable = f"--{field.name.replace('_', '-')}", f"STREAMBED_{field.name.upper()}"
    arguments = [part for value in given for part in (flag, value)] or [flag]
    more = {"tls_cert": {"tls_key": "k"}, "tls_key": {"tls_cert": "c"}}.get(field.name, {})
    also = [part for name, value in more.items() for part in (f"--{name.replace('_', '-')}", value)]
    wanted = Settings(**{field.name: expected} | more)
    assert settings_of(*arguments, *also) == wanted
    assert settings_of(*also, **{variable: " ".join(given) or "1"}) == wanted


def test_flag_goes_before_environment(settings_of: Any) -> None:
    assert settings_of("--port", "1", STREAMBED_PORT="2").port == 1


def test_flags_of_sglang(settings_of: Any) -> None:
    settings = settings_of("--model-path", "./a", "--is-embedding", "--host", "127.0.0.1", "--port", "30000")
    assert settings == Settings(model="./a")


def test_flags_of_other_servers(settings_of: Any) -> None:
    """`vllm serve MODEL`, and `sglang serve` with it."""
    assert settings_of("./a", "--port", "1") == Settings(model="./a", port=1)
    assert settings_of("--port", "1", "Qwen/Qwen3-Embedding-0.6B").model == "Qwen/Qwen3-Embedding-0.6B"
    assert settings_of("./a", "--model", "./a").model == "./a"
    assert settings_of("./a", STREAMBED_MODEL="./b").model == "./a", "as a flag wins over its variable"
    assert settings_of(STREAMBED_MODEL="./b").model == "./b"


@pytest.mark.parametrize("flag", ["--model", "--model-path"])
def test_two_models(flag: str) -> None:
    result = CliRunner().invoke(cli, ["serve", "./a", flag, "./b"])
    assert result.exit_code == 2
    assert "MODEL is ./a and --model is ./b; give one of them" in result.output


def test_keys_are_not_shown_in_help() -> None:
    text = CliRunner().invoke(cli, ["serve", "--help"], env={"STREAMBED_API_KEY": "secret"}).output
    assert "secret" not in text


@pytest.mark.parametrize(
    ("arguments", "environment", "keys"),
    [
        ({}, {}, None),
        ({"api_key": ("k",)}, {}, ("k",)),
        ({"host": "0.0.0.0", "api_key": ("k", "l")}, {}, ("k", "l")),
        ({"host": "0.0.0.0", "no_auth": True}, {}, ()),
        ({"host": "localhost"}, {}, ()),
        ({"host": "::1"}, {}, ()),
    ],
)
def test_keys(arguments: dict[str, Any], environment: dict[str, str], keys: tuple[str, ...] | None) -> None:
    assert serve_module._choose_keys(Settings(**arguments)) == (keys or ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "example.org"])
def test_key_is_made_where_others_can_reach_the_server(host: str, caplog: pytest.LogCaptureFixture) -> None:
    (first,), (second,) = (serve_module._choose_keys(Settings(host=host)) for _ in range(2))
    assert first != second
    assert first in caplog.text
    Settings(api_key=(first,))  # may be given as a key again


def test_absurd_size_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["serve", "--max-body", "9" * 400])
    assert result.exit_code == 2
