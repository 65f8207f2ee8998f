"""The thread that computes: scheduler, KV and device."""

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from streambed.engine.backlog import Backlog
from streambed.engine.compute import ComputeInfo
from streambed.engine.kv import KVMemory
from streambed.engine.options import EngineOptions
from streambed.engine.prefix_cache import PrefixCache
from streambed.engine.scheduler import Scheduler
from streambed.engine.sequence import Lane, Step, Task
from streambed.engine.sequence import Sequence as TokenSequence
from streambed.engine.stats import EngineStats, LaneStats, StepReport
from streambed.engine.step_budget import StepBudget
from streambed.errors import Internal, NotReady, Overloaded, SettingsError
from streambed.limits import MAX_QUEUED_TOKENS
from streambed.machine import usable_memory
from streambed.model.checkpoint import Checkpoint
from streambed.model.choice import open_device
from streambed.model.device import Memory
from streambed.process import ProcessBound

logger = logging.getLogger(__name__)

UNSEEN_ROWS = 64
"""As so many rows, at most, a text counts until it is known how much of it is computed already: a step's time at most."""
MAX_FAILURES = 3
"""Steps that may fail one after another before the engine gives up."""


class Core(ProcessBound):
    """See `Compute`. Everything but the counters of waiting work belongs to its thread."""

    _instead = "load an engine in each process that needs one, or serve one to all and use Client"

    def __init__(self, checkpoint: Checkpoint, options: EngineOptions, end_id: int) -> None:
        """Loads the weights and starts the thread. Raises CheckpointError, SettingsError."""
        assert checkpoint.pipeline.causal, "the KV of a text serves every longer one"
        self._device = open_device(checkpoint, options.device, options.dtype, options.choices)
        kv_memory = options.kv_memory or choose_memory(self._device.memory())
        self._prefixes = PrefixCache()
        self._kv = KVMemory(self._device, checkpoint.window, kv_memory, self._prefixes.remove)
        self._budget = budget = StepBudget(options.max_batch_tokens)
        self._scheduler = Scheduler(self._kv, self._prefixes, budget, self._device.row_cost)
        self._lock = threading.Condition()
        self._inbox: list[Callable[[], None]] = []
        self._outstanding: set[Task] = set()
        self._calls: list[Future[None]] = []
        self._queued_tokens = 0
        self._backlog = Backlog()
        self._closing = False
        self._broken: str | None = None
        self._sessions = 0
        self._steps = self._rows = self._failures = 0
        self._progress = self._checked = time.monotonic()
        self._overtaken = self._resumed = 0.0
        self.step_listeners: list[Callable[[StepReport], None]] = []
        loaded: Future[str] = Future()

        def load() -> str:
            weights = self._device.load(checkpoint, end_id)
            budget.measure(self._device, checkpoint.window)
            return weights

        # The thread loads what it will run. OpenMP keeps a team of workers for each thread that ever computed, and where
        # all teams together outnumber the cores it puts them to sleep between loops: loading here cost 40 % of speed.
        self._thread = threading.Thread(target=self._serve, args=(load, loaded), name="streambed-engine", daemon=True)
        self._thread.start()
        super().__init__()
        self.weights = loaded.result()
        self.info = ComputeInfo(
            dtype=self._device.dtype,
            device=self._device.name,
            max_tokens=self._kv.max_slots,
            max_batch_tokens=budget.rows,
            kv_memory=kv_memory,
            kv_bytes_per_token=self._device.bytes_per_slot,
            threads=self._device.threads,
            single_thread_rows=self._device.single_thread_rows,
            kernels=self._device.kernels,
            quantize=options.quantize,
            kv_dtype=self._device.kv_dtype,
            full_matrices=self._device.full_matrices,
        )

    # From any thread

    def post(self, tasks: Sequence[Task]) -> None:
        """As `Compute.post`."""
        size = sum(task.work for task in tasks)
        with self._lock:
            self.check_open()
            if size and self._budget.rate is not None:
                for lane, owner in {(task.lane, task.sequence.owner) for task in tasks}:
                    self._backlog.check(lane, owner, size, self._budget.rate)
            if size and self._queued_tokens and self._queued_tokens + size > MAX_QUEUED_TOKENS:
                raise Overloaded(f"{self._queued_tokens:,} tokens are waiting already; try again later")
            if not self._outstanding:
                self._progress = time.monotonic()
            self._queued_tokens += size
            self._outstanding.update(tasks)
            for task in tasks:
                self._count(task, min(task.work, UNSEEN_ROWS))
            self._tell(lambda: self._submit(tasks))
        for task in tasks:
            task.future.add_done_callback(lambda _, task=task: self._release(task))  # type: ignore[misc]

    def _count(self, task: Task, rows: int) -> None:
        """A task counts for so many rows from now on. The caller holds the lock."""
        self._backlog.add(task.lane, task.sequence.owner, rows - task.counted)
        task.counted = rows

    def _submit(self, tasks: Sequence[Task]) -> None:
        self._scheduler.submit(tasks)
        with self._lock:
            for task in tasks:  # now it is known how much of them is computed already
                if task in self._outstanding and task.sequence.tasks and task.sequence.tasks[0] is task:
                    self._count(task, task.size + len(task.probes) if task.probes else 0)

    def opened(self) -> None:
        """As `Compute.opened`."""
        with self._lock:
            self._sessions += 1

    def forget(self, sequence: TokenSequence) -> None:
        """As `Compute.forget`."""
        with self._lock:
            self._sessions -= 1
            self._tell(lambda: self._scheduler.close(sequence))

    def evict(self, sequence: TokenSequence | None = None) -> None:
        """As `Compute.evict`."""
        self._call(lambda: self._scheduler.evict(sequence))

    def check_integrity(self) -> None:
        """As `Compute.check_integrity`."""
        self._call(lambda: self._scheduler.check_integrity())

    def check_open(self) -> None:
        """As `Compute.check_open`."""
        if not self.ready:
            raise NotReady(self._broken or "the engine is closing")

    @property
    def ready(self) -> bool:
        """As `Compute.ready`."""
        return self._broken is None and not self._closing

    def stats(self) -> EngineStats:
        """As `Compute.stats`."""
        with self._lock:
            idle = not self._outstanding
            now = time.monotonic()
            queued: dict[Lane, list[float]] = {lane: [] for lane in Lane}
            for task in self._outstanding:
                if task.started is None and task.probes:
                    queued[task.lane].append(task.arrived)
            return EngineStats(
                steps=self._steps,
                rows=self._rows,
                padding=self._device.padding,
                step_rows=self._scheduler.budget.rows,
                lanes={
                    lane.name.lower(): LaneStats(len(times), now - min(times, default=now))
                    for lane, times in queued.items()
                },
                rebuilds=self._scheduler.rebuilds,
                cached_tokens=self._scheduler.cached_tokens,
                waiting=len(self._outstanding),
                sessions=self._sessions,
                cached_texts=len(self._prefixes),
                evictions=self._kv.evictions,
                kv_bytes=self._kv.used,
                last_progress_s=0.0 if idle else now - self._progress,
            )

    def memory(self) -> Memory | None:
        """As `Compute.memory`."""
        return self._device.memory()

    def close(self, timeout: float | None = None) -> None:
        """As `Compute.close`. timeout: seconds to wait for the thread."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _after_fork(self) -> None:
        self._lock = threading.Condition()
        self._broken = f"the engine belongs to process {self._home}, which loaded it; {self._instead}"

    def _tell(self, work: Callable[[], None]) -> None:
        """Queues something for the thread to do between steps. The caller holds the lock."""
        self._inbox.append(work)
        self._lock.notify()

    def _call(self, work: Callable[[], None]) -> None:
        """Runs it on the thread and waits; its exception is raised here."""
        done: Future[None] = Future()

        def answer() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised in the caller
                done.set_exception(error)
            else:
                done.set_result(None)

        with self._lock:
            self.check_open()
            self._calls.append(done)
            self._tell(answer)
        try:
            done.result()
        finally:
            self._calls.remove(done)

    def _release(self, task: Task) -> None:
        with self._lock:
            if task in self._outstanding:
                self._outstanding.remove(task)
                self._queued_tokens -= task.work
                self._count(task, 0)
            if task.future.cancelled():
                self._lock.notify()  # let the thread drop it soon, even if it sleeps

    # The thread

    def _serve(self, load: Callable[[], str], loaded: Future[str]) -> None:
        try:
            try:
                loaded.set_result(load())
            except BaseException as error:  # noqa: BLE001 - raised in the call that loads the engine
                self._broken = "the engine could not start"
                loaded.set_exception(error)
                return
            while self._receive():
                self.step()
            self._end(NotReady("the engine was closed"))
        except BaseException as error:  # whatever ends this thread, waiting calls must get an error
            logger.critical("the engine died: %s", type(error).__name__, exc_info=error)
            self._broken = "the engine has died; restart the server"
            self._end(Internal("the engine has died"))

    def _receive(self) -> bool:
        """Waits for something to do and takes in what has come. False when it is time to end."""
        with self._lock:
            while not self._closing and not self._inbox:
                ready = self._scheduler.next_ready()
                wait = None if ready is None else ready - time.monotonic()
                if wait is not None and wait <= 0:
                    break
                if not self._lock.wait(wait) or self._scheduler.next_ready() is not None:
                    break
            if self._closing:
                return False
            inbox, self._inbox = self._inbox, []
        for work in inbox:
            work()
        return True

    def step(self) -> None:
        """One step: schedule -> run -> finish. On the engine's thread alone."""
        step = self._scheduler.schedule(time.monotonic(), not self._sessions, self._device.pauses)
        if step:
            self._run(step, functools.partial(self._overtake, step) if step.pauses else None)
        else:
            self._check_when_idle()

    def _overtake(self, paused: Step) -> None:
        """While a step is paused: takes in what has come, and runs what may go before it. One step at most, so that the
        paused one advances by a layer for each."""
        with self._lock:
            inbox, self._inbox = self._inbox, []
        for work in inbox:
            work()
        started = time.monotonic()
        self._scheduler.charge(paused, started - self._resumed)
        step = self._scheduler.overtake(started, paused)
        if step:
            self._run(step)
            self._overtaken += time.monotonic() - started
        self._resumed = time.monotonic()

    def _run(self, step: Step, between: Callable[[], None] | None = None) -> None:
        self._resumed = started = time.monotonic()
        overtaken = self._overtaken
        try:
            vectors = self._device.run(step.batch, between)
        except (RuntimeError, MemoryError, OSError) as error:  # the device's: out of memory, a failed kernel
            self._failures += 1
            logger.error("a step of %d rows failed: %s", step.rows, type(error).__name__, exc_info=error)
            if self._failures >= MAX_FAILURES:
                raise
            failed = Internal("computing this text failed; try again")
            # PyTorch says it in words: some of its allocators have no type of error for it.
            failed.out_of_memory = isinstance(error, MemoryError) or "memory" in str(error)
            self._scheduler.abandon(step, failed)
            return
        self._failures = 0
        self._steps += 1
        self._rows += step.rows
        self._scheduler.finish(step, vectors, time.monotonic())
        self._progress = time.monotonic()
        self._scheduler.charge(step, self._progress - self._resumed)
        own = self._progress - started - (self._overtaken - overtaken)
        report = StepReport(step.rows, len(vectors), own, step.owners)
        self._scheduler.budget.record(step.cost, report.seconds)
        for listener in self.step_listeners:
            listener(report)

    def _check_when_idle(self) -> None:
        if self._scheduler.next_ready() is None and time.monotonic() > self._checked + 1.0:
            self._scheduler.check_integrity()
            self._checked = time.monotonic()

    def _end(self, error: NotReady | Internal) -> None:
        with self._lock:
            self._closing = True
            outstanding, calls = list(self._outstanding), list(self._calls)
        for task in outstanding:
            task.fail(error)
        for call in calls:
            if not call.done():
                call.set_exception(error)


def choose_memory(own: Memory | None = None) -> int:
    """Bytes for KV by default: a quarter of what the machine has, or its container, or the device of its own. Raises
    SettingsError where the system does not say."""
    memory = usable_memory() if own is None else own.free
    if memory is None:
        raise SettingsError("is needed: this system does not say how much memory it has", "kv_memory")
    return memory // 4
