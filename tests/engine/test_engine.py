"""The engine as a whole: its thread, its limits, and what its users are told."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streambed import (
    CheckpointError,
    DeadlineExceeded,
    Engine,
    Internal,
    InvalidRequest,
    NotReady,
    Overloaded,
    SettingsError,
    TooLarge,
)
from streambed.engine import core as core_module
from streambed.engine.sequence import Lane, Sequence, Task
from streambed.model.device import Batch
from streambed.model.stock.slab import Slab
from tests.checkpoints import VOCABULARY, make_checkpoint


class Gate:
    """Holds an engine's steps back until it is opened."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.entered, self.opened = engine.compute._device.run, threading.Event(), threading.Event()
        monkeypatch.setattr(engine.compute._device, "run", self)

    def __call__(self, batch: Batch, *more: Any) -> np.ndarray:
        self.entered.set()
        assert self.opened.wait(60)
        return self.run(batch, *more)


def ids(engine: Engine, text: str) -> list[int]:
    return engine.tokenizer.encode(text)


def test_embed(tiny_engine: Engine) -> None:
    texts = ["one", "two words", "three words here", "one"]
    vectors = tiny_engine.embed(texts)
    assert (vectors.shape, vectors.dtype) == ((4, 64), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=-1), 1.0, atol=1e-6)
    assert vectors[0] @ vectors[3] >= 0.99999
    assert vectors[0] @ vectors[1] < 0.999
    assert tiny_engine.embed([]).shape == (0, 64)
    assert tiny_engine.embed([], dimensions=32).shape == (0, 32)
    assert tiny_engine.embed(texts, dimensions=32).shape == (4, 32)


def test_embed_refuses(tiny_engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match=r"texts\[1\] has a lone surrogate at character 4") as caught:
        tiny_engine.embed(["good", "bad \udfff"])
    assert caught.value.param == "input[1]"
    with pytest.raises(InvalidRequest, match="exclude each other"):
        tiny_engine.embed(["x"], instruction="a", input_type="query")
    for dimensions in (31, 65, 0, -1):
        with pytest.raises(InvalidRequest, match="32 to 64"):
            tiny_engine.embed(["x"], dimensions=dimensions)
    with pytest.raises(TooLarge, match=r"text 1 has 601 tokens .* limit is 512") as error:
        tiny_engine.embed(["good", " the" * 600])
    assert error.value.param == "input[1]"


def test_any_iterable_of_texts(tiny_engine: Engine) -> None:
    texts = ["one", "two words", "три"]
    wanted = tiny_engine.embed(texts)
    for given in (tuple(texts), iter(texts), (text for text in texts), dict.fromkeys(texts).keys(), np.array(texts)):
        assert (tiny_engine.embed(given) * wanted).sum(-1).min() >= 0.99999
    assert tiny_engine.embed("one").shape == (1, 64)
    assert tiny_engine.embed(iter(())).shape == (0, 64)


def test_empty_texts(tiny_engine: Engine) -> None:
    texts = ["", "one", "", " the" * 600, ""]
    steps = tiny_engine.stats().steps
    with pytest.raises(InvalidRequest, match=r"texts\[0\], texts\[2\] and texts\[4\] are empty") as caught:
        tiny_engine.embed(texts)
    assert caught.value.details == {"indexes": [0, 2, 4]}
    with pytest.raises(TooLarge, match="text 3 ") as too_large:  # the caller's number, not that of what is computed
        tiny_engine.embed(texts, empty="null")
    assert too_large.value.param == "input[3]"
    assert tiny_engine.stats().steps == steps
    vectors = tiny_engine.embed(texts, empty="null", long_input="truncate", dimensions=32)
    assert (vectors.shape, vectors.dtype) == ((5, 32), np.float32)
    assert np.isnan(vectors).all(axis=1).tolist() == [True, False, True, False, True]
    assert vectors[1] @ tiny_engine.embed("one", dimensions=32)[0] >= 0.99999
    assert np.isnan(tiny_engine.embed(["", ""], empty="null")).all()
    with pytest.raises(InvalidRequest, match="text is empty"):
        tiny_engine.prefix_embeddings("")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"input_type": "quary"}, "input_type is 'quary'; 'query' or 'document' is expected"),
        ({"long_input": "cut"}, "long_input is 'cut'; 'merge', 'truncate' or 'error' is expected"),
        ({"empty": None}, "empty is None; 'error' or 'null' is expected"),
        ({"dimensions": "64"}, "dimensions is '64'; an integer is expected"),
        ({"dimensions": 64.0}, "dimensions is 64.0; an integer is expected"),
        ({"dimensions": True}, "dimensions is True; an integer is expected"),
        ({"instruction": 3}, "instruction is int; a string is expected"),
        ({"prompt_name": b"code"}, "prompt_name is bytes; a string is expected"),
    ],
)
def test_wrong_arguments_of_embed(tiny_engine: Engine, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(named)):
        tiny_engine.embed([], **wrong)


def test_wrong_arguments_of_the_others(tiny_engine: Engine) -> None:
    for wrong, named in (
        ({"every": "word"}, "every is 'word'; 'sentence' or a number of tokens"),
        ({"every": 0}, "every is 0; 'sentence' or a number of tokens"),
        ({"every": 2.0}, "every is 2.0"),
        ({"offsets": 3}, "offsets is int; a list of integers"),
        ({"offsets": [1, "2"]}, r"offsets[1] is '2'; an integer"),
        ({"offsets": "12"}, "offsets is str"),
    ):
        with pytest.raises(InvalidRequest, match=re.escape(named)):
            tiny_engine.prefix_embeddings("a text", **wrong)  # type: ignore[arg-type]
    found = tiny_engine.prefix_embeddings("a text", offsets=np.array([2, 6]), dimensions=np.int64(32))  # type: ignore[arg-type]
    assert [offset for offset, _ in found] == [2, 6]
    assert tiny_engine.prefix_embeddings("a text", offsets=[]) == []
    for call, named in (
        (lambda: tiny_engine.prefix_embeddings(None), "text is None; a string is expected"),  # type: ignore[arg-type]
        (lambda: tiny_engine.open_session(b"a"), "text is bytes; a string is expected"),  # type: ignore[arg-type]
        (lambda: tiny_engine.open_session(overflow="grow"), "overflow is 'grow'; 'error' or 'segment'"),  # type: ignore[arg-type]
        (lambda: tiny_engine.open_session(input_type="q"), "input_type is 'q'"),
    ):
        with pytest.raises(InvalidRequest, match=re.escape(named)):
            call()
    with tiny_engine.open_session("abc") as session:
        for change, named in (
            (lambda: session.append(3), "text is int"),  # type: ignore[arg-type]
            (lambda: session.set(None), "text is None"),  # type: ignore[arg-type]
            (lambda: session.replace("0", 1, "x"), "start is '0'; an integer is expected"),  # type: ignore[arg-type]
            (lambda: session.replace(0, None, "x"), "end is None; an integer is expected"),  # type: ignore[arg-type]
            (lambda: session.embedding(dimensions="32"), "dimensions is '32'"),  # type: ignore[arg-type]
        ):
            with pytest.raises(InvalidRequest, match=re.escape(named)):
                change()
        assert (session.text, session.revision) == ("abc", 1)


def test_a_growing_text_is_computed_from_where_it_changed(open_engine: Callable[..., Engine]) -> None:
    engine = open_engine()
    whole = ids(engine, "The quick brown fox jumps over the lazy dog and runs far away from here today.")
    for end in range(1, len(whole) + 1):
        embedding = engine.submit_batch([whole[:end]])[0].result(60)
        assert embedding.cached_tokens == end - 1
        assert embedding.computed_tokens == 2
    edited = [*whole[:7], *whole[9:]]
    embedding = engine.submit_batch([edited])[0].result(60)
    assert embedding.cached_tokens == 7
    assert engine.stats().cached_tokens == sum(range(len(whole))) + 7


def test_texts_under_one_budget(open_engine: Callable[..., Engine]) -> None:
    """Many more texts than the KV memory holds: all are answered, and rightly."""
    engine = open_engine(kv_memory=600 * 2 * 2 * 2 * 16 * 4, max_batch_tokens=64)
    assert engine.info.max_tokens == 512
    texts = [f"{n} " + "word " * (7 * n % 300) for n in range(60)]
    whole = engine.embed(texts)
    with ThreadPoolExecutor(8) as pool:
        singles = np.concatenate(list(pool.map(lambda text: engine.embed([text]), texts)))
    assert (whole * singles).sum(-1).min() >= 0.99999
    assert engine.stats().evictions > 0
    assert engine.stats().kv_bytes <= engine.info.kv_memory


def test_less_memory_than_window(open_engine: Callable[..., Engine]) -> None:
    engine = open_engine(kv_memory=128 * 2 * 2 * 2 * 16 * 4)
    assert (engine.info.window, engine.info.max_tokens) == (512, 128)
    assert engine.embed([" the" * 127]).shape == (1, 64)
    with pytest.raises(TooLarge, match="129 tokens with its end token; the limit is 128"):
        engine.embed([" the" * 128])


def test_what_never_fits_is_not_tokenised(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a text of millions of characters, nor a long prompt once for each of many texts."""
    encoded = 0
    encode, encode_batch = tiny_engine.tokenizer.encode, tiny_engine.tokenizer.encode_batch

    def count(text: str) -> list[int]:
        nonlocal encoded
        encoded += len(text)
        return encode(text)

    def count_batch(texts: list[str]) -> list[list[int]]:
        nonlocal encoded
        encoded += sum(map(len, texts))
        return encode_batch(texts)

    monkeypatch.setattr(tiny_engine.tokenizer, "encode", count)
    monkeypatch.setattr(tiny_engine.tokenizer, "encode_batch", count_batch)
    limit = tiny_engine.documents.max_characters
    with pytest.raises(TooLarge, match=rf"text 1 has 3,000,000 characters .* {limit:,} never fit .* 512 tokens"):
        tiny_engine.embed(["good", "x" * 3_000_000])
    assert encoded == 0
    instruction = "word " * 1000
    with pytest.raises(TooLarge, match="the limit is 512"):
        tiny_engine.embed(["a"] * 500, instruction=instruction)
    assert encoded < 2 * len(instruction)
    encoded = 0
    cut = tiny_engine.embed([" the" * 1_000_000], long_input="truncate")
    assert encoded <= limit
    assert cut @ tiny_engine.embed([" the" * 511])[0] >= 0.99999


def test_interior_probes_equal_separate_texts(tiny_engine: Engine) -> None:
    """In one step, in several (steps hold 48 rows), on a warm sequence, and at places before what is cached."""
    whole = tiny_engine.tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 9)
    expected = {}
    for end in range(0, len(whole) + 1, 7):
        expected[end] = tiny_engine.submit_batch([whole[:end], [1]])[0].result(60).vectors[0]
    sequence = Sequence("")
    tiny_engine.compute.opened()
    for probes in (tuple(expected)[:3], tuple(expected), tuple(expected)[2:5]):
        task = Task(sequence, whole, probes, Lane.STREAM, time.monotonic())
        tiny_engine.compute.post([task])
        got = task.future.result(60).vectors
        for probe, vector in zip(probes, got, strict=True):
            assert vector @ expected[probe] / np.linalg.norm(vector) / np.linalg.norm(expected[probe]) >= 0.99999
    tiny_engine.compute.forget(sequence)


def test_ten_texts_that_fit_take_one_step(open_engine: Callable[..., Engine]) -> None:
    engine = open_engine(max_batch_tokens=200)
    engine.embed([f"{n} and some more words for each of these texts" for n in range(10)])
    assert engine.stats().rows < 190
    assert engine.stats().steps == 1


def test_settings_are_refused_before_loading(tiny_checkpoint: Path) -> None:
    for bad in (
        {"dtype": "float16"}, {"dtype": None}, {"dtype": 16}, {"device": "tpu"}, {"device": 0}, {"device": None},
        {"max_batch_tokens": 0}, {"max_batch_tokens": 1.5}, {"kv_memory": 1}, {"kv_memory": "4GB"}, {"kv_memory": True},
        {"special_tokens": "keep"}, {"special_tokens": None}, {"model": None}, {"model": 3}, {"kernels": "fast"},
        {"kernels": None}, {"quantize": "int4"}, {"quantize": None}, {"kv_dtype": "int4"}, {"kv_dtype": "float32"},
    ):  # fmt: skip
        (name,) = bad
        with pytest.raises(SettingsError, match=f"^{name} is ") as caught:
            Engine.load(**{"model": tiny_checkpoint} | bad)  # type: ignore[arg-type]
        assert caught.value.by_flag.startswith(f"--{name.replace('_', '-')} is ")
    with pytest.raises(SettingsError, match=r"sees \d CUDA devices"):
        Engine.load(str(tiny_checkpoint), device="cuda:7")


def test_a_vocabulary_larger_than_the_table(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "model", vocab_size=VOCABULARY - 1)
    with pytest.raises(
        CheckpointError, match=rf"tokenizer\.json: has token ids up to {VOCABULARY - 1}, .* {VOCABULARY - 1} rows"
    ):
        Engine.load(str(directory))


def test_fingerprints(tmp_path: Path, tiny_checkpoint: Path, open_engine: Callable[..., Engine]) -> None:
    engine = open_engine()
    same = open_engine(make_checkpoint(tmp_path / "same", prefix="model.", shards=2, lm_head=True))
    assert same.info.fingerprint == engine.info.fingerprint
    others = [
        open_engine(make_checkpoint(tmp_path / "weights", seed=1)),
        open_engine(make_checkpoint(tmp_path / "theta", rope_theta=1e5)),
        open_engine(tiny_checkpoint, dtype="bfloat16"),
        open_engine(tiny_checkpoint, special_tokens="parse"),
        open_engine(tiny_checkpoint, quantize="int8"),
        open_engine(tiny_checkpoint, kv_dtype="int8"),
    ]
    assert len({one.info.fingerprint for one in [engine, *others]}) == 7


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_kv_in_int8(open_engine: Callable[..., Engine], kernels: str) -> None:
    full, engine = (
        open_engine("builtin", kernels=kernels, max_batch_tokens=32, kv_dtype=kv) for kv in ("auto", "int8")
    )
    assert (full.info.kv_dtype, engine.info.kv_dtype) == ("float32", "int8")
    dim = engine.checkpoint.config.head_dim
    assert engine.info.kv_bytes_per_token * 4 * dim == full.info.kv_bytes_per_token * (dim + 4)
    texts = ["a word", "Water runs down the hill to the old mill, and on to the sea. " * 5, "中文文本嵌入"]
    alone = np.concatenate([engine.embed(text) for text in texts])
    assert ((alone * full.embed(texts)).sum(1) > 0.995).all()
    engine.evict()
    assert ((engine.embed(texts) * alone).sum(1) > 0.99999).all()
    for text, vector in zip(texts, alone, strict=True):
        with engine.open_session() as session:
            for at in range(0, len(text), 7):
                session.append(text[at : at + 7])
                session.embedding()
            session.evict()
            session.append("!")
            session.replace(len(text), len(text) + 1, "")
            assert session.embedding() @ vector > 0.99999
    engine.check_integrity()


def test_special_tokens_in_text(open_engine: Callable[..., Engine]) -> None:
    literal, parsed = open_engine("builtin"), open_engine("builtin", special_tokens="parse")
    assert VOCABULARY - 1 not in ids(literal, "a <|endoftext|> b")
    assert VOCABULARY - 1 in ids(parsed, "a <|endoftext|> b")
    for engine in (literal, parsed):
        with engine.open_session() as session:
            for character in "a <|endoftext|> b":
                session.append(character)
            assert session.embedding() @ engine.embed(["a <|endoftext|> b"])[0] >= 0.99999


def test_work_from_many_threads(open_engine: Callable[..., Engine]) -> None:
    engine = open_engine(max_batch_tokens=64)
    texts = [f"text number {n} " + "and more " * (n % 17) for n in range(200)]
    expected = open_engine(max_batch_tokens=8192).embed(texts)
    with ThreadPoolExecutor(16) as pool:
        got = np.concatenate(list(pool.map(lambda text: engine.embed([text]), texts)))
    assert (got * expected).sum(-1).min() >= 0.99999
    assert engine.stats().waiting == 0


def test_the_full_refuse(open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine()
    gate = Gate(engine, monkeypatch)
    monkeypatch.setattr(core_module, "MAX_QUEUED_TOKENS", 100)
    large = engine.submit_batch([[1] * 400])  # an idle engine takes any
    with pytest.raises(Overloaded, match="401 tokens are waiting"):
        engine.submit_batch([[1] * 10])
    gate.opened.set()
    assert large[0].result(60).vectors.shape == (1, 64)
    assert engine.submit_batch([[1] * 10])[0].result(60).vectors.shape == (1, 64)


def test_all_of_a_batch_or_none(open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine()
    gate = Gate(engine, monkeypatch)
    monkeypatch.setattr(core_module, "MAX_QUEUED_TOKENS", 100)
    engine.submit_batch([[1] * 60])
    with pytest.raises(Overloaded):
        engine.submit_batch([[2] * 30, [3] * 30])
    assert engine.stats().waiting == 1
    gate.opened.set()


def test_deadlines(open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine()
    gate = Gate(engine, monkeypatch)
    first = engine.submit_batch([[1] * 10])
    assert gate.entered.wait(60)
    late = engine.submit_batch([[2] * 300], deadline=time.monotonic() + 0.01)
    time.sleep(0.02)
    gate.opened.set()
    with pytest.raises(DeadlineExceeded):
        late[0].result(60)
    first[0].result(60)
    assert engine.stats().rows == 11


def test_the_cancelled_cost_nothing(open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine()
    gate = Gate(engine, monkeypatch)
    first = engine.submit_batch([[1] * 10])
    assert gate.entered.wait(60)
    for future in engine.submit_batch([[2] * 300] * 20):
        assert future.cancel()
    assert engine.stats().waiting == 1
    gate.opened.set()
    first[0].result(60)
    engine.check_integrity()
    assert engine.stats().rows == 11


def test_lanes_by_size(open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(max_batch_tokens=16)
    gate = Gate(engine, monkeypatch)
    one, few, many = (
        engine.submit_batch([[1] * 400]),
        engine.submit_batch([[1] * 9] * 3),
        engine.submit_batch([[1] * 9] * 9),
    )
    lanes = {task.future: task.lane for task in engine.compute._outstanding}
    assert [lanes[futures[0]] for futures in (one, few, many)] == [Lane.QUERY, Lane.QUERY, Lane.BULK]
    gate.opened.set()


def test_a_failed_step_is_told_and_survived(
    open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine()
    run, failures = engine.compute._device.run, 2

    def flaky(batch: Batch, *more: Any) -> np.ndarray:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise RuntimeError("out of memory")
        return run(batch, *more)

    monkeypatch.setattr(engine.compute._device, "run", flaky)
    for _ in range(2):
        with pytest.raises(Internal, match="failed") as error:
            engine.embed(["x"])
        assert "memory" not in error.value.message
    assert engine.embed(["x"]).shape == (1, 64)
    assert engine.ready


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), OSError(12, "Cannot allocate memory")])
def test_a_slab_that_gets_no_memory(
    error: Exception, open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(max_batch_tokens=48)
    back, failures = Slab.back, 2

    def scarce(slab: Slab) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise error
        back(slab)

    monkeypatch.setattr(Slab, "back", scarce)
    with engine.open_session("a text with KV") as session:
        with pytest.raises(Internal) as caught:
            session.embedding()
        assert caught.value.out_of_memory
        with pytest.raises(Internal):
            engine.embed(["another " * 100])
        engine.check_integrity()
        assert session.embedding() @ engine.embed(["a text with KV"])[0] >= 0.99999


@pytest.mark.parametrize("error", [AssertionError("a bug"), RuntimeError("for good")])
def test_a_dead_engine_tells_everybody(
    error: Exception, open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine()
    gate = Gate(engine, monkeypatch)

    def broken(batch: Batch) -> np.ndarray:
        raise error

    gate.run = broken
    session = engine.open_session("some text")
    futures: list[Future] = [*engine.submit_batch([[n] * 9 for n in range(5)], lane=Lane.BULK)]
    if isinstance(error, RuntimeError):
        # Each failed step ends its own tasks; the third in a row ends the engine.
        monkeypatch.setattr(engine.compute._scheduler, "abandon", lambda step, error: None)
    futures += [session.probe().future for _ in range(2)]
    gate.opened.set()
    for future in futures:
        with pytest.raises(Internal, match="the engine has died"):
            future.result(60)
    engine.compute._thread.join(60)
    assert not engine.ready
    with pytest.raises(NotReady, match="died"):
        engine.embed(["x"])
    with pytest.raises(NotReady):
        session.append("x")
    engine.close()


def test_a_value_that_is_not_finite(open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine()
    run = engine.compute._device.run

    def poisoned(batch: Batch, *more: Any) -> np.ndarray:
        vectors = run(batch, *more).copy()
        vectors[[part.ids[0] == 666 for part in batch.parts]] = np.inf
        return vectors

    monkeypatch.setattr(engine.compute._device, "run", poisoned)
    good, bad = engine.submit_batch([[1, 2, 3], [666, 2, 3]])
    assert np.isfinite(good.result(60).vectors).all()
    with pytest.raises(Internal, match="not finite"):
        bad.result(60)


def test_closing_tells_who_waits(open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine()
    gate = Gate(engine, monkeypatch)
    futures = engine.submit_batch([[1] * 400] * 5)
    assert gate.entered.wait(60)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while engine.ready:
        time.sleep(0.001)
    gate.opened.set()
    closing.join(60)
    for future in futures:
        assert future.exception(60) is None or isinstance(future.exception(), NotReady)
    with pytest.raises(NotReady, match="closing"):
        engine.submit_batch([[1]])
    engine.close()


def test_closing_tells_who_evicts(open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the inbox when the engine ends is answered too."""
    engine = open_engine()
    gate = Gate(engine, monkeypatch)
    engine.submit_batch([[1] * 4])
    assert gate.entered.wait(60)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(engine.evict), pool.submit(engine.check_integrity)]
        while len(engine.compute._inbox) < 2:
            time.sleep(0.001)
        engine.close(timeout=0.01)
        gate.opened.set()
        for call in calls:
            with pytest.raises(NotReady, match="closed"):
                call.result(60)


def test_no_progress_is_seen(open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine()
    gate = Gate(engine, monkeypatch)
    assert engine.stats().last_progress_s == 0.0
    futures = engine.submit_batch([[1] * 4])
    assert gate.entered.wait(60)
    time.sleep(0.05)
    assert engine.stats().last_progress_s >= 0.05
    gate.opened.set()
    futures[0].result(60)
    assert engine.stats().last_progress_s == 0.0


def test_idle_engines_check_themselves(open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine()
    checked = threading.Event()
    monkeypatch.setattr(engine.compute._scheduler, "check_integrity", checked.set)
    engine.compute._checked -= 10
    engine.embed(["x"])
    with engine.open_session("y"):
        pass
    assert checked.wait(10)
    monkeypatch.undo()
