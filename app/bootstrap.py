"""The composition root: settings -> adapters -> features -> application. The only file that knows implementations."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

import structlog
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from starlette.types import ASGIApp, Receive, Scope, Send

from app.catalog import FEATURES
from app.features.audit.feature import register_audit
from app.features.audit.jobs import log_head, settle_record
from app.features.audit.metrics import install_metrics
from app.features.audit.write import event_writer
from app.features.auth.feature import register_auth
from app.features.files.bodies import register_bodies
from app.features.files.installation import claim_storage
from app.features.gateway.runtime import Gateway
from app.features.gateway.schemas import OWN_FRAMES
from app.features.sessions.feature import register_sessions
from app.features.updates.epoch import ensure_epoch
from app.features.updates.read import collect_update_kinds
from app.infra.bus.memory import MemoryBus
from app.infra.bus.port import Bus
from app.infra.bus.redis import RedisBus
from app.infra.cipher.blind_index import open_blind_index
from app.infra.cipher.kek import Kek, has_keys
from app.infra.cipher.keyring import Keyring, open_keyring
from app.infra.cipher.soundness import prove_data_keys
from app.infra.database.clock import open_database_and_clock, watch_clock
from app.infra.database.database import SCAN_SECONDS, Database, open_database
from app.infra.database.errors import CONNECT_ERRORS
from app.infra.database.migrate import migrate
from app.infra.database.process_lock import ProcessLock, SecondProcessError
from app.infra.database.tx import Tx
from app.infra.limits.memory import MemoryLimiter
from app.infra.limits.port import Limiter
from app.infra.limits.redis import RedisLimiter
from app.infra.logging.setup import configure_logging
from app.infra.media.processor import MediaProcessor
from app.infra.memory import return_memory_forever, settle_garbage_collector
from app.infra.presence.memory import MemoryPresence
from app.infra.presence.port import PresenceStore
from app.infra.presence.redis import RedisPresence
from app.infra.scanner.choose import choose_scanner
from app.infra.secrets import Secrets, disable_core_dumps, load_secrets
from app.infra.services import Services
from app.infra.sms.choose import choose_sms
from app.infra.storage.choose import choose_storage
from app.infra.storage.port import StorageFull, StorageUnavailable
from app.infra.supervisor import fail_supervisor, is_launched, stop_server, watch_supervisor
from app.infra.tokens.access import AccessTokens
from app.kernel.clock import SystemClock
from app.kernel.cursors import CursorCodec
from app.kernel.events import EventSink, SecurityEvent
from app.kernel.problems import Unavailable
from app.kernel.rules import Rules
from app.settings import Settings, SettingsError
from app.start_checks import ask_around, least_rounds, read_settings
from app.transport.feature import Job
from app.transport.http.bare_server import harden
from app.transport.http.cors import CorsMiddleware
from app.transport.http.health import CHECK_SECONDS, health_router
from app.transport.http.middleware import install_edge
from app.transport.http.pages import install_pages
from app.transport.http.problems import install_problem_handlers
from app.transport.http.security_headers import SecurityHeadersMiddleware
from app.transport.jobs import JobRunner
from app.transport.openings import OpeningsMiddleware
from app.transport.stopping import CLOSING_SECONDS, Stop, find_server
from app.transport.websocket.asyncapi import install_asyncapi

VERSION = "0.1.0"
API_PREFIX = "/api/v1"
_LAUNCHER_ADDS = "faster sockets, no deflate"

log = structlog.stdlib.get_logger("app.start")


def create_app() -> ASGIApp:
    """The application. Wrong settings refuse the start in the lifespan, never at import.

    A worker that dies at import would be started again for ever.
    """
    settings, faults = read_settings()
    if faults:
        return StartGuard(None, settings, faults)
    write_log_at_once = configure_logging(settings.log)
    return StartGuard(build_app(settings), settings, [], write_log_at_once)


class StartGuard:
    """Answers the start with one clear sentence a fault instead of a trace."""

    def __init__(
        self,
        app: FastAPI | None,
        settings: Settings,
        faults: Sequence[str],
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_stop` is called when the server begins to stop."""
        self._app = app
        self._settings = settings
        self._faults = list(faults)
        self._on_stop = on_stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            if self._app is not None:
                await self._app(scope, receive, send)
            return
        await receive()
        try:
            faults = await ask_around(self._settings, self._faults)
        except Exception:  # an edge, as below
            log.exception("start_failed")
            faults = [*self._faults, "The start failed, the log says why"]
        if faults or self._app is None:
            await _refuse("\n".join(faults), send)
            return
        await self._run(self._app, receive, send)

    async def _run(self, app: FastAPI, receive: Receive, send: Send) -> None:
        context = run_server(app)
        try:
            await context.__aenter__()
        except (SettingsError, SecondProcessError) as error:
            await _refuse(str(error), send)
            return
        except (*CONNECT_ERRORS, DBAPIError, Unavailable) as error:
            reason = type(error).__name__
            await _refuse(f"DATABASE_URL: the database does not answer ({reason})", send)
            return
        except Exception:  # an edge: uvicorn would take a trace for "no lifespan" and serve on
            log.exception("start_failed")
            await _refuse("The start failed, the log says why", send)
            return
        watch_supervisor()
        stop: Stop = app.state.stop
        server = find_server()
        stop.watch()
        if not is_launched():
            if server is not None:
                harden(server, max_connections=app.state.settings.server.max_connections)
            log.warning("started_without_launcher", python_m_app_adds=_LAUNCHER_ADDS)
        settle_garbage_collector()
        trimming = asyncio.create_task(return_memory_forever(), name="return-memory")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        trimming.cancel()
        stop.has_begun = True
        self._on_stop()
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await context.__aexit__(None, None, None)
        except TimeoutError:
            log.warning("stop_hurried", seconds=CLOSING_SECONDS)
        await send({"type": "lifespan.shutdown.complete"})


async def _refuse(message: str, send: Send) -> None:
    await send({"type": "lifespan.startup.failed", "message": message})
    fail_supervisor()


def build_app(settings: Settings) -> FastAPI:
    """Routes, pages and the edge; everything that connects comes in `run_server`."""
    app = FastAPI(
        title="Telegram Clone Backend",
        version=VERSION,
        description="A messenger backend: sign in by phone, talk in real time.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A redirect would be built from the caller's Host header.
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.stop = stop = Stop()
    # Without Redis the log is read instead, so readiness does not hang on it.
    checks = {"stop": lambda: _check_stop(stop), "database": lambda: _check_database(app)}
    app.include_router(health_router(checks))
    # Not by way of a router in between: each level tries its routes twice a request.
    for feature in FEATURES:
        for router in feature.routers:
            app.include_router(router, prefix=API_PREFIX)
    install_metrics(app, allowed=settings.audit.metrics_allowed)
    install_problem_handlers(app)
    install_pages(app, enabled=settings.server.enable_docs)
    install_asyncapi(app, FEATURES, own_frames=OWN_FRAMES, enabled=settings.server.enable_docs)
    install_edge(
        app,
        trusted_proxies=settings.server.trusted_proxies,
        max_body_size=settings.server.max_body_size,
        logged_addresses=settings.log.addresses,
    )
    if settings.browser.cors_origins:
        app.add_middleware(
            CorsMiddleware,
            origins=settings.browser.cors_origins,
            trusted_proxies=settings.server.trusted_proxies,
        )
    if settings.server.enable_security_headers:
        app.add_middleware(
            SecurityHeadersMiddleware, trusted_proxies=settings.server.trusted_proxies
        )
    # In front of all: a crowd must not even be looked at all at once.
    app.add_middleware(OpeningsMiddleware, paths=[f"{API_PREFIX}/auth/ws-ticket"])
    return app


@asynccontextmanager
async def run_server(app: FastAPI) -> AsyncGenerator[None]:
    """Everything that runs beside the requests, started in order and stopped in reverse."""
    settings: Settings = app.state.settings
    disable_core_dumps()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(ProcessLock(settings, on_lost=stop_server))
        secrets, kek = await prove_keys(settings, rounds=least_rounds(settings))
        await migrate(settings)
        services = await open_services(settings, secrets, stack, kek=kek)
        app.state.services = services
        await _claim_storage(services)
        stack.push_async_callback(settle_record, services)
        await log_head(services)
        kinds = collect_update_kinds(FEATURES)
        frames = {frame.type: frame for feature in FEATURES for frame in feature.frames}
        epoch = await ensure_epoch(services.db)
        gateway = Gateway(services, kinds=kinds, frames=frames, epoch=epoch)
        app.state.gateway = gateway
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        await services.bus.start()
        stack.push_async_callback(services.bus.stop)
        jobs = (job for feature in FEATURES for job in feature.jobs)
        runner = JobRunner((_WATCH_KEYS, _WATCH_CLOCK, *jobs), services)
        await runner.start()
        stack.push_async_callback(runner.stop)
        log.info(
            "server_started",
            database=settings.database.type,
            redis=settings.redis.use,
            version=VERSION,
        )
        yield
        log.info("server_stopping")


async def prove_keys(settings: Settings, *, rounds: int = 1) -> tuple[Secrets, Kek | None]:
    """The keys, before anything is written, a migration included; of a new database nothing is to prove.
    `rounds`: fewer refuse; a change of MASTER_KEY, which mends that, asks for none.

    Raises:
        SettingsError: one is missing, weak, or not the one of this database.
    """
    db = open_database(settings, SystemClock())
    try:
        if not await has_keys(db):
            return load_secrets(settings), None
        secrets = load_secrets(settings, may_generate=False)
        kek = await prove_data_keys(db, secrets.data_keys, least_rounds=rounds)
    finally:
        await db.close()
    return secrets, kek


async def open_services(
    settings: Settings, secrets: Secrets, stack: AsyncExitStack, *, kek: Kek | None = None
) -> Services:
    """All adapters; closed by `stack` in reverse order. `kek`: see `prove_keys`."""
    db, clock = await open_database_and_clock(settings)
    stack.push_async_callback(db.close)
    keyring = await open_keyring(
        db,
        secrets.master_key,
        rounds=settings.secrets.pbkdf2_rounds,
        personal=settings.secrets.encrypt_personal_data,
        messages=settings.secrets.encrypt_messages,
        least_rounds=least_rounds(settings),
        kek=kek,
    )
    index = await open_blind_index(db, secrets.index_key, secrets.index_key_new)
    bus = _make_bus(settings, keyring)
    rules = Rules()
    events = register_audit(rules, clock)
    db.write_events = event_writer(keyring)
    keyring.on_invalid = partial(_record_invalid, events)
    await _note_forms(db, keyring)
    await db.read(keyring.watch)
    tokens = AccessTokens(
        secrets.secret_key,
        previous_keys=secrets.previous_secret_keys,
        lifetime=timedelta(minutes=settings.tokens.access_minutes),
        clock=clock,
    )
    register_sessions(rules, bus, access_lifetime=tokens.lifetime)
    register_auth(
        rules,
        keyring,
        code_hash_rounds=settings.sms.code_hash_rounds,
        password_hash_rounds=settings.two_step.hash_rounds,
    )
    register_bodies(rules, settings.files)
    for feature in FEATURES:
        for entry in feature.rules:
            rules.register(entry.kind, entry.rule)
    presence = _make_presence(settings)
    stack.push_async_callback(presence.close)
    limiter = _make_limiter(settings)
    stack.push_async_callback(limiter.close)
    sms = choose_sms(settings)
    stack.push_async_callback(sms.close)
    storage = choose_storage(settings)
    stack.push_async_callback(storage.close)
    media = MediaProcessor(processes=settings.files.media_processes)
    stack.push_async_callback(media.close)
    return Services(
        settings=settings,
        clock=clock,
        db=db,
        keyring=keyring,
        index=index,
        cursors=CursorCodec(keyring.derive("cursors")),
        tokens=tokens,
        sms=sms,
        bus=bus,
        presence=presence,
        limiter=limiter,
        events=events,
        rules=rules,
        storage=storage,
        media=media,
        scanner=choose_scanner(settings.files),
    )


async def _claim_storage(services: Services) -> None:
    """One that is away or full is asked again before anything in it is taken for left over.

    Raises:
        SettingsError: it is another database's.
    """
    try:
        await claim_storage(services.db, services.storage, services.settings.files)
    except (StorageFull, StorageUnavailable) as problem:
        log.warning("storage_not_claimed", code=problem.code)


async def _note_forms(db: Database, keyring: Keyring) -> None:
    mixed = await db.write(keyring.note_forms, timeout_seconds=SCAN_SECONDS)
    if mixed:
        log.warning("rows_stored_otherwise", kinds=mixed, mend="python -m app.admin keys convert")


def _record_invalid(events: EventSink, table: str, column: str, row: int | str) -> None:
    details = {"table": table, "column": column, "row": row}
    place = f"{table}.{column}:{row}"
    events.record(SecurityEvent("ciphertext_invalid", details=details, subject=place))


async def _watch_keys(services: Services) -> None:
    await services.db.read(services.keyring.watch)


_WATCH_KEYS = Job("watch_keys", timedelta(seconds=1), _watch_keys)


async def _watch_clock(services: Services) -> None:
    await watch_clock(services.db, services.clock)


_WATCH_CLOCK = Job("watch_clock", timedelta(seconds=10), _watch_clock)


def _make_bus(settings: Settings, keyring: Keyring) -> Bus:
    if settings.redis.use:
        return RedisBus(settings.redis.url.get_secret_value(), keyring.derive("bus"))
    return MemoryBus()


def _make_presence(settings: Settings) -> PresenceStore:
    if settings.redis.use:
        return RedisPresence(settings.redis.url.get_secret_value())
    return MemoryPresence()


def _make_limiter(settings: Settings) -> Limiter:
    if settings.redis.use:
        return RedisLimiter(settings.redis.url.get_secret_value())
    return MemoryLimiter()


async def _check_stop(stop: Stop) -> None:
    if stop.has_begun:
        raise Unavailable


async def _check_database(app: FastAPI) -> None:
    db: Database = app.state.services.db

    async def work(tx: Tx) -> None:
        await tx.execute(text("SELECT 1"))

    await db.read(work, timeout_seconds=CHECK_SECONDS)
