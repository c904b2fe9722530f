"""From a spec to batches, end to end: on local files, on a mirror of a remote source, twice, damaged, and too small."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import trainer.contract.recipe
from trainer.contract.spec import TrainSpec
from trainer.data import DataError, PreparedData, prepare
from trainer.data.files import locked
from trainer.data.loader import TrainLoader, val_batches
from trainer.data.making import Wanted
from trainer.data.parts import Part
from trainer.data.prepare import loaded_tokens
from trainer.data.shards import Encoder, TokenShard
from trainer.data.tokenizer import Tokenizer

SOURCE = Path(trainer.contract.recipe.__file__).read_text(encoding="utf-8")
PARAGRAPHS = [f"{i} " + SOURCE[i * 97 % 9000 :][:300] + "\n\n" for i in range(600)]


def spec(data: str, **values: Any) -> TrainSpec:
    given = {"depth": 1, "sequence_len": 32, "vocab_size": 512, "batch_tokens": 256, "num_steps": 8, "data": data}
    return TrainSpec.from_dict(given | values)


@pytest.fixture
def book(tmp_path: Path) -> str:
    (tmp_path / "book.txt").write_text("".join(PARAGRAPHS))
    return f"path:{tmp_path / 'book.txt'}"


class Log:
    """What `prepare` said."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.phases: dict[str, float] = {}

    def prepare(self, spec: TrainSpec, cache: Path) -> PreparedData:
        return prepare(
            spec, cache, progress=lambda message, _: self.messages.append(message), on_phase=self.phases.__setitem__
        )

    def count(self, start: str) -> int:
        return sum(message.startswith(start) for message in self.messages)


def test_a_file_becomes_batches_that_spell_it(book: str, tmp_path: Path) -> None:
    log = Log()
    data = log.prepare(spec(book), tmp_path / "cache")
    assert set(log.phases) == {"tokenizer", "data"}
    assert log.count("training a tokenizer") == 1
    loader = TrainLoader(data, batch_size=4, sequence_len=32, seed=42)
    x_BT, y_BT = loader.next()
    assert int(x_BT.max()) < 512
    tokenizer = data.tokenizer()
    text = tokenizer.decode(y_BT[0].tolist())
    assert text[5:15] in "".join(PARAGRAPHS)
    assert data.token_bytes.shape == (512,)
    assert data.token_bytes[data.bos_id] == 0
    _, val_y_BT = next(val_batches(data, 4, 32, 1000))
    assert data.token_bytes[val_y_BT.numpy()].sum() > 100


def test_every_byte_of_the_text_is_in_the_shards(book: str, tmp_path: Path) -> None:
    data = prepare(spec(book), tmp_path)
    shards = (*data.train.known, *data.val.known)
    assert sum(data.token_bytes[shard.tokens()].sum() for shard in shards) == len("".join(PARAGRAPHS).encode())
    for shard in shards:
        tokens, offsets = shard.tokens(), shard.offsets()
        assert tokens.dtype == np.uint16
        assert (tokens[offsets[:-1]] == data.bos_id).all()
        assert (tokens == data.bos_id).sum() == shard.num_documents == len(offsets) - 1
        assert offsets[-1] == shard.num_tokens


def test_a_second_start_reads_the_cache(book: str, tmp_path: Path) -> None:
    first, second = Log(), Log()
    one, two = first.prepare(spec(book), tmp_path), second.prepare(spec(book), tmp_path)
    assert second.messages == []
    assert (one.data_hash, one.train.known, one.val.known) == (two.data_hash, two.train.known, two.val.known)
    assert not list(tmp_path.rglob("*.part*"))


def test_the_hash_is_of_the_content(book: str, tmp_path: Path) -> None:
    hashes = {name: prepare(spec(book), tmp_path / name).data_hash for name in ("a", "b")}
    assert hashes["a"] == hashes["b"]
    assert prepare(spec(book, vocab_size=400), tmp_path / "a").data_hash != hashes["a"]
    (tmp_path / "book.txt").write_text("".join(PARAGRAPHS[1:]))
    assert prepare(spec(book), tmp_path / "a").data_hash != hashes["a"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "no manifest"])
def test_a_damaged_shard_is_built_again(book: str, tmp_path: Path, damage: str) -> None:
    data = prepare(spec(book), tmp_path)
    path = data.train.known[0].tokens_path
    whole = path.read_bytes()
    if damage == "flip":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(whole[:-2])
    elif damage == "remove":
        path.unlink()
    elif damage == "manifest":
        (path.parent / "manifest.json").write_text("{")
    else:
        (path.parent / "manifest.json").unlink()
    log = Log()
    again = log.prepare(spec(book), tmp_path)
    assert again.train.whole(0) == data.train.known[0]  # hashes are checked where a shard is used
    assert path.read_bytes() == whole
    assert again.data_hash == data.data_hash
    assert log.count("tokenised") == 1


def test_an_interrupted_build_leaves_nothing_that_is_trusted(book: str, tmp_path: Path) -> None:
    def stop(message: str, fraction: float | None) -> None:
        if message.startswith(f"tokenising {book} train"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(spec(book), tmp_path / "cache", progress=stop)
    assert len(list((tmp_path / "cache" / "tokens").glob("*/manifest.json"))) == 1  # of the held-out part
    assert prepare(spec(book), tmp_path / "cache").data_hash == prepare(spec(book), tmp_path / "fresh").data_hash


def test_two_prepare_once_and_the_second_says_that_it_waits(book: str, tmp_path: Path) -> None:
    log, is_waiting = Log(), threading.Event()

    def progress(message: str, fraction: float | None) -> None:
        log.messages.append(message)
        if message.startswith("waiting"):
            is_waiting.set()

    thread = threading.Thread(target=prepare, args=(spec(book), tmp_path), kwargs={"progress": progress})
    folder = prepare(spec(book), tmp_path).train.known[0].tokens_path.parent
    with locked(folder):
        folder.rename(tmp_path / "not yet")
        thread.start()
        assert is_waiting.wait(20)
        (tmp_path / "not yet").rename(folder)
    thread.join(20)
    assert log.count("tokenis") == 0


def test_too_little_text_is_refused_with_numbers(book: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(spec(book, num_steps=100_000), tmp_path)
    data = prepare(spec(book), tmp_path)
    assert f"{data.num_train_tokens} training tokens" in caught.value.problem
    assert "25600000" in caught.value.problem
    most = data.num_train_tokens // 256
    assert caught.value.next.startswith(f"choose num_steps of at most {most}, or a larger source")

    prepare(spec(book, num_steps=most), tmp_path)
    with pytest.raises(DataError, match="num_steps"):
        prepare(spec(book, num_steps=most + 1), tmp_path)
    loader = TrainLoader(data, batch_size=8, sequence_len=32, seed=0)
    for _ in range(most):
        loader.next()


def test_too_little_held_out_text_is_refused(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name * 40)
    with pytest.raises(DataError, match="holds out"):
        prepare(spec(f"path:{tmp_path}", sequence_len=64), tmp_path / "cache")


def all_shards(part: Part, tokenizer: Tokenizer, dtype: str, folder: Path) -> Iterator[TokenShard]:
    encoder = Encoder(part, tokenizer, dtype, skip=())
    while not encoder.is_done and (shard := encoder.write(folder, len(list(folder.glob("*.tokens"))))):
        yield shard


def test_a_large_vocabulary_gets_wider_tokens_and_large_parts_several_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.shards.SHARD_TOKENS", 5000)
    monkeypatch.setattr("trainer.data.shards.BATCH_CHARS", 3000)
    tokenizer = Tokenizer.train(PARAGRAPHS, 512)
    part = Part(
        name="p", fingerprint="f", size_chars=1, fetch=lambda progress: None, documents=lambda: iter(PARAGRAPHS)
    )
    shards = list(all_shards(part, tokenizer, "<u4", tmp_path))
    assert len(shards) > 3
    assert {shard.dtype for shard in shards} == {"<u4"}
    tokens = np.concatenate([shard.tokens() for shard in shards])
    assert tokenizer.decode(tokens.tolist()) == "".join(PARAGRAPHS)
    assert sum(shard.num_documents for shard in shards) == len(PARAGRAPHS)


class Mirror(ThreadingHTTPServer):
    """A folder over HTTP, which notes what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        mirror = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path.removeprefix("/"))
                super().do_GET()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Four training shards of climbmix and its held-out one, small."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for number, index in enumerate([0, 1, 2, 3, 6542]):
        texts = [f"{index} {text}" for text in PARAGRAPHS[number * 100 : number * 100 + 100]]
        pl.DataFrame({"text": texts}).write_parquet(folder / f"shard_{index:05d}.parquet")
    with Mirror(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("PATRON_CLIMBMIX_URL", f"http://127.0.0.1:{server.server_address[1]}/")
        yield server
        server.shutdown()
        thread.join()


def test_a_remote_source_fetches_as_many_shards_as_the_horizon_needs(mirror: Mirror, tmp_path: Path) -> None:
    one = prepare(spec("climbmix"), tmp_path)
    first = one.train.known
    assert mirror.asked == ["shard_00000.parquet", "shard_06542.parquet"]
    tokens_per_shard = loaded_tokens(first, 32)
    steps = tokens_per_shard * 5 // 2 // 256
    three = prepare(spec("climbmix", num_steps=steps), tmp_path)
    assert sorted(mirror.asked[2:]) == ["shard_00001.parquet", "shard_00002.parquet"]
    assert three.train.known[:1] == first
    assert three.val.known == one.val.known
    assert (three.tokenizer_hash, three.data_hash) == (one.tokenizer_hash, one.data_hash)
    assert not list(tmp_path.glob("downloads/*/*.parquet"))  # text that is tokenised is not kept


def test_a_prepared_remote_source_needs_no_network(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(spec("climbmix"), tmp_path)
    asked = len(mirror.asked)
    assert prepare(spec("climbmix"), tmp_path).data_hash == first.data_hash
    assert len(mirror.asked) == asked


def test_data_shards_fixes_the_number(mirror: Mirror, tmp_path: Path) -> None:
    data = prepare(spec("climbmix", data_shards=2), tmp_path, wanted=Wanted())
    assert sorted(mirror.asked) == ["shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"]
    assert len(data.train.known) == 2
    with pytest.raises(DataError, match="data_shards above 2, or null"):
        prepare(spec("climbmix", data_shards=2, num_steps=10**6), tmp_path)


def test_a_missing_shard_is_named_with_the_way_out(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shard_00004\.parquet.*404.*PATRON_CLIMBMIX_URL") as caught:
        prepare(spec("climbmix", data_shards=5), tmp_path, wanted=Wanted())
    assert "stdlib" in caught.value.next
