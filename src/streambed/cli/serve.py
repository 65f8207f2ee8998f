"""`streambed serve`: from flags to a listening server."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from streambed.cli.addresses import urls
from streambed.cli.interrupt import stop_at_once
from streambed.cli.options import Command, load_engine, option, setting_option
from streambed.errors import SettingsError
from streambed.settings import Settings, groups

if TYPE_CHECKING:
    from streambed.server.keyring import Keyring
    from streambed.server.metrics import Metrics
    from streambed.streams.store.store import Store

logger = logging.getLogger("streambed")

_ALIASES = {"model": ["--model-path"]}


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """One flag and one environment variable for each field of Settings."""
    for heading, settings in reversed(groups().items()):
        for field in reversed(settings):
            command = setting_option(field.name, heading, *_ALIASES.get(field.name, []))(command)
    return command


@click.command(cls=Command)
@_options
@option(
    "--is-embedding",
    is_flag=True,
    help="Accepted for compatibility with SGLang; has no effect.",
    group="Of other servers",
)
@click.argument("served", metavar="[MODEL]", required=False)
@click.pass_context
def serve(context: click.Context, /, served: str | None, is_embedding: bool, **values: Any) -> None:
    """Serve a model behind the OpenAI embeddings API: MODEL, or that of --model.

    Brackets show the default of a flag and its environment variable. A flag wins over its variable; a variable of a
    repeatable flag holds its values separated by spaces.
    """
    if served is not None:
        by_flag = context.get_parameter_source("model") is ParameterSource.COMMANDLINE
        if by_flag and values["model"] != served:
            raise click.UsageError(f"MODEL is {served} and --model is {values['model']}; give one of them", context)
        values["model"] = served
    run(Settings(**values))


def run(settings: Settings) -> None:
    """Binds, loads, serves until a signal, drains. Raises SettingsError and CheckpointError before serving."""
    from streambed.server.logs import set_up
    from streambed.vectors.reducers import Reducer

    set_up(settings.log_format)
    # While it loads there is nothing to close, and an exception may go astray in the import of an extension module.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, stop_at_once)
    _check_tls(settings)
    reducers = {name: Reducer.read(path) for name, path in settings.reducers}  # whichever model they are for
    _raise_file_limit()
    listener = _listen(settings.host, settings.port)  # before the model is loaded: a taken port is known at once
    journal = _open_journal(settings)
    keyring, reload = _open_keyring(settings)
    metrics = _serve_metrics(settings)

    from streambed.server.app import create_app
    from streambed.server.listener import Listener

    logger.info("Loading %s ...", settings.model)
    engine = load_engine(settings)
    info = engine.info
    names = settings.served_model_name or (info.model,)
    logger.info("Model: %s, served as %s, fingerprint %s", info.model, ", ".join(names), info.fingerprint)
    logger.info(
        "Compute: %s on %s with %d threads, steps of %d rows",
        info.dtype,
        info.device,
        info.threads,
        info.max_batch_tokens,
    )
    logger.info("Kernels: %s", info.kernels)
    if info.quantize != "none":
        logger.info("Matrices: %s, but for %d that it would distort", info.quantize, info.full_matrices)
    if info.kv_dtype != info.dtype:
        logger.info("KV: %s", info.kv_dtype)
    if info.single_thread_rows:
        logger.info(
            "Steps of up to %d rows run on one thread, which was measured to be as fast", info.single_thread_rows
        )
    logger.info("Vectors: %d dimensions; texts of up to %s tokens", info.default_dimensions, f"{info.max_tokens:,}")
    if info.default_prompt_name is not None:
        logger.info("Prompt where a request names none: %r, as the checkpoint says", engine.prompt())
    if info.max_tokens < info.window:
        logger.warning(
            "The model's window is %s tokens, but --kv-memory holds %s", f"{info.window:,}", f"{info.max_tokens:,}"
        )
    logger.info(
        "Memory: %.2f GiB for KV, %.1f KiB a token", info.kv_memory / (1 << 30), info.kv_bytes_per_token / (1 << 10)
    )
    here, elsewhere = urls("https" if settings.tls_cert else "http", *listener.getsockname()[:2])
    logger.info("Address: %s%s%s", here, settings.root_path, " (no key needed)" if keyring.is_open else "")
    if elsewhere is not None:
        logger.info("Listening on every address of this machine; others reach it at %s, say", elsewhere)
    logger.info("Page: %s%s/playground/", here, settings.root_path)
    # Until uvicorn's own handlers are there, and again after them, a signal is an orderly end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    try:
        for name, path in settings.reducers:
            reducers[name].check(path, info.fingerprint)
            card, mark = reducers[name].card, reducers[name].fingerprint
            logger.info("Reducer: %s, %s to %d dimensions, fingerprint %s", name, card.method, card.dimensions, mark)
        app = create_app(engine, settings, keyring, journal, reducers, metrics)
        # What is there now stays. To look through all of it for garbage, again and again, would hold everybody up for a
        # fifth of a second each time.
        gc.collect()
        gc.freeze()
        # Whoever holds the interpreter's lock gives way to whoever waits for it after a tenth of a millisecond, not five. A
        # step gives the lock away in each of its operations, and beside a busy loop it would wait so long for each of them.
        sys.setswitchinterval(0.0001)
        Listener(app, settings, reload).run(sockets=[listener])
    finally:
        engine.close(timeout=5.0)


def _listen(host: str, port: int, flag: str = "") -> socket.socket:
    from streambed.server.listener import listen

    try:
        return listen(host, port)
    except OSError as error:
        raise SettingsError(f"{flag}cannot listen on {host}:{port}: {error.strerror or error}") from None


def _serve_metrics(settings: Settings) -> Metrics:
    from starlette.applications import Starlette
    from starlette.routing import Route

    from streambed.server.listener import MetricsListener
    from streambed.server.metrics import Metrics

    metrics = Metrics()
    if settings.metrics_port is not None:
        listener = _listen(settings.metrics_host, settings.metrics_port, "--metrics-port: ")
        MetricsListener(Starlette(routes=[Route("/metrics", metrics.serve)])).start(listener)
        logger.info("Metrics: http://%s:%d/metrics", settings.metrics_host, listener.getsockname()[1])
    return metrics


def _check_tls(settings: Settings) -> None:
    if settings.tls_cert is None or settings.tls_key is None:
        return
    for flag, path in (("--tls-cert", settings.tls_cert), ("--tls-key", settings.tls_key)):
        try:
            open(path, "rb").close()
        except OSError as error:
            raise SettingsError(f"{flag} {path}: cannot be read: {error.strerror}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = " ".join(str(error).split())
        raise SettingsError(f"--tls-cert {settings.tls_cert}, --tls-key {settings.tls_key}: {reason}") from None


def _open_journal(settings: Settings) -> Store | None:
    if settings.journal is None:
        return None
    from streambed.streams.store.sqlite import SQLiteStore

    return SQLiteStore(settings.journal, settings.journal_sync)


def _open_keyring(settings: Settings) -> tuple[Keyring, Callable[[], None] | None]:
    """The keys, and what SIGHUP does where they have a file: it has it read again, now too, and ends nothing."""
    from streambed.server.keyring import Keyring

    keyring = Keyring(settings, _choose_keys(settings))
    if settings.api_keys is None or not hasattr(signal, "SIGHUP"):
        return keyring, None
    signal.signal(signal.SIGHUP, lambda *_: keyring.reload())
    return keyring, keyring.reload


def _choose_keys(settings: Settings) -> tuple[str, ...]:
    """The keys without names to ask for: those given; none with a file of others, on loopback or with --no-auth; else a new
    one, which is printed and which a journal keeps beside it."""
    if settings.api_key or settings.api_keys is not None or settings.no_auth or settings.is_loopback:
        return settings.api_key
    from streambed.server.keyfile import keep_key, make_key

    path = None if settings.journal is None else Path(f"{settings.journal}.key")
    key = make_key() if path is None else keep_key(path)
    kept = "" if path is None else f" (kept in {path}, since the journal's sessions belong to it)"
    logger.warning(
        "The address is not loopback and no --api-key was given. Requests must carry this key: %s%s", key, kept
    )
    return (key,)


def _raise_file_limit() -> None:
    """Each connection takes a descriptor, and many systems allow a process 1,024 unless it asks for more."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every platform, and not for everybody
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
