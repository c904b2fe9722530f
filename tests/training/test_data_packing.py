"""Packing and loading: every row full, every token once, the same rows for any number of ranks and after a restart."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data import DataExhausted
from trainer.data.feed import Made
from trainer.data.loader import TrainLoader, val_batches
from trainer.data.packing import pack, shuffled
from trainer.data.prepare import loaded_tokens
from trainer.data.shards import TokenShard

lengths_of_documents = st.lists(st.integers(2, 300), min_size=1, max_size=60)


def write_shard(folder: Path, index: int, documents: list[np.ndarray]) -> TokenShard:
    tokens_path, offsets_path = folder / f"{index}.tokens", folder / f"{index}.offsets"
    np.concatenate(documents).astype("<u4").tofile(tokens_path)
    offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype("<i8")
    offsets.tofile(offsets_path)
    return TokenShard(
        tokens_path=tokens_path,
        offsets_path=offsets_path,
        dtype="<u4",
        num_tokens=int(offsets[-1]),
        num_documents=len(documents),
        tokens_sha256="",
        offsets_sha256="",
    )


def numbered_data(folder: Path, shards: list[list[int]]) -> Any:
    """Shards of documents with these lengths, in which every token has a number of its own."""
    made, first = [], 0
    for index, lengths in enumerate(shards):
        documents = []
        for length in lengths:
            documents.append(np.arange(first, first + length))
            first += length
        made.append(write_shard(folder, index, documents))
    return SimpleNamespace(train=Made(made), val=Made(made))


def all_batches(loader: TrainLoader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batches = []
    while True:
        try:
            batches.append(loader.next())
        except DataExhausted:
            return batches


def rows_of(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[list[int]]:
    return [row.tolist() for x_BT, y_BT in batches for row in torch.cat([x_BT, y_BT[:, -1:]], dim=1)]


@given(st.integers(0, 2000), st.integers(0, 2**31 - 1))
def test_shuffled_is_a_permutation(size: int, seed: int) -> None:
    assert sorted(shuffled(size, seed)) == list(range(size))


def test_shuffles_of_neighbouring_seeds_differ_and_never_change() -> None:
    assert shuffled(8, 42).tolist() == [7, 5, 4, 0, 2, 3, 6, 1]
    orders = np.stack([shuffled(5000, seed) for seed in range(5)])
    correlations = np.corrcoef(orders) - np.eye(5)
    assert np.abs(correlations).max() < 0.06


@given(lengths_of_documents, st.integers(2, 200), st.integers(0, 1000))
def test_pack_takes_every_document_once(lengths: list[int], capacity: int, seed: int) -> None:
    assert sorted(pack(np.array(lengths), capacity, seed)) == list(range(len(lengths)))


def test_pack_divides_almost_only_what_cannot_fit() -> None:
    """Lengths like those of web pages; laid end to end in random order a third of the fitting ones would be divided."""
    lengths = np.maximum(20, np.random.default_rng(0).lognormal(6.4, 0.9, 20_000)).astype(np.int64)
    capacity = 2049
    in_order = lengths[pack(lengths, capacity, 1)]
    ends = np.cumsum(in_order)
    is_divided = (ends - in_order) // capacity != (ends - 1) // capacity
    fits = in_order <= capacity
    assert is_divided[fits].mean() < 0.01
    assert ((ends - in_order) % capacity == 0).sum() / (ends[-1] // capacity) > 0.6  # rows that begin with BOS


@settings(max_examples=40, deadline=None)
@given(
    shards=st.lists(lengths_of_documents, min_size=1, max_size=3),
    sequence_len=st.integers(2, 40),
    batch_size=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_token_comes_at_most_once_in_full_rows(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]], sequence_len: int, batch_size: int, seed: int
) -> None:
    data = numbered_data(tmp_path_factory.mktemp("data"), shards)
    loader = TrainLoader(data, batch_size=batch_size, sequence_len=sequence_len, seed=seed)
    batches = all_batches(loader)
    for x_BT, y_BT in batches:
        assert x_BT.shape == y_BT.shape == (batch_size, sequence_len)
        assert x_BT.dtype == y_BT.dtype == torch.int64
        assert torch.equal(x_BT[:, 1:], y_BT[:, :-1])
    rows = rows_of(batches)
    seen = [token for row in rows for token in row]
    assert len(seen) == len(set(seen))
    total = sum(map(sum, shards))
    # left over: less than a row at the end of each shard, and less than a batch at the end of all
    assert total - len(seen) <= (len(shards) + batch_size - 1) * (sequence_len + 1)
    assert loaded_tokens(data.train.known, sequence_len) // sequence_len - len(rows) < batch_size


def test_less_than_five_percent_is_thrown_away(tmp_path: Path) -> None:
    lengths = np.random.default_rng(1).integers(5, 900, 300).tolist()
    data = numbered_data(tmp_path, [lengths[:200], lengths[200:]])
    loader = TrainLoader(data, batch_size=4, sequence_len=64, seed=1)
    seen = {token for row in rows_of(all_batches(loader)) for token in row}
    assert 1 - len(seen) / sum(lengths) < 0.01


def test_documents_stay_in_one_piece_where_they_fit_and_in_order_where_they_do_not(tmp_path: Path) -> None:
    data = numbered_data(tmp_path, [[100]])
    rows = rows_of(all_batches(TrainLoader(data, batch_size=1, sequence_len=9, seed=3)))
    assert sorted(rows) == [list(range(i, i + 10)) for i in range(0, 100, 10)]


@settings(max_examples=25, deadline=None)
@given(stop=st.integers(0, 6), world_size=st.sampled_from([1, 2, 3]), after=st.sampled_from([1, 2, 4]))
def test_ranks_and_restarts_see_what_one_process_sees(
    tmp_path_factory: pytest.TempPathFactory, stop: int, world_size: int, after: int
) -> None:
    lengths = np.random.default_rng(2).integers(2, 80, 100).tolist()
    data = numbered_data(tmp_path_factory.mktemp("data"), [lengths[:50], lengths[50:]])

    def loaders(world_size: int) -> list[TrainLoader]:
        return [
            TrainLoader(data, batch_size=2, sequence_len=16, seed=7, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]

    expected = all_batches(loaders(1)[0])
    group = loaders(world_size)
    got = [loader.next() for _ in range(stop) for loader in group]
    states = [loader.state() for loader in group]
    assert all(state == states[0] for state in states)
    assert all(type(value) is int for value in states[0].values())

    resumed = loaders(after)
    for loader in resumed:
        loader.restore(states[0])
    rounds = (len(expected) - len(got)) // after
    got += [loader.next() for _ in range(rounds) for loader in resumed]
    for (x_BT, y_BT), (want_x_BT, want_y_BT) in zip(got, expected, strict=False):
        assert torch.equal(x_BT, want_x_BT)
        assert torch.equal(y_BT, want_y_BT)
    assert len(expected) - len(got) < after
    for loader in resumed:  # all ranks stop together
        with pytest.raises(DataExhausted, match="one pass"):
            loader.next()


def test_a_state_of_another_order_is_refused(tmp_path: Path) -> None:
    data = numbered_data(tmp_path, [[50, 50]])
    state = TrainLoader(data, batch_size=1, sequence_len=8, seed=1).state()
    with pytest.raises(ValueError, match="seed"):
        TrainLoader(data, batch_size=1, sequence_len=8, seed=2).restore(state)
    with pytest.raises(ValueError, match="rank 2"):
        TrainLoader(data, batch_size=1, sequence_len=8, seed=2, rank=2, world_size=2)


def test_seeds_give_other_orders_of_the_same_tokens(tmp_path: Path) -> None:
    data = numbered_data(tmp_path, [np.random.default_rng(4).integers(2, 80, 60).tolist()])
    first, second = (
        rows_of(all_batches(TrainLoader(data, batch_size=1, sequence_len=16, seed=seed))) for seed in (1, 2)
    )
    assert first != second
    assert len(first) == len(second)


def test_adding_shards_leaves_the_rows_before_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    lengths = [30] * 20
    few = TrainLoader(numbered_data(tmp_path / "a", [lengths]), batch_size=1, sequence_len=16, seed=5)
    more = TrainLoader(numbered_data(tmp_path / "b", [lengths, [40] * 20]), batch_size=1, sequence_len=16, seed=5)
    before = rows_of(all_batches(few))
    assert rows_of(all_batches(more))[: len(before)] == before


def test_validation_rows_depend_on_the_budget_alone(tmp_path: Path) -> None:
    data = numbered_data(tmp_path, [np.random.default_rng(5).integers(2, 80, 60).tolist()])
    wanted = rows_of(list(val_batches(data, 1, 16, 16 * 7)))
    assert len(wanted) == 7
    assert rows_of(list(val_batches(data, 4, 16, 16 * 7))) == wanted
    assert rows_of(list(val_batches(data, 4, 16, 1))) == wanted[:1]
    assert len(rows_of(list(val_batches(data, 4, 16, 10**9)))) == loaded_tokens(data.val.known, 16) // 16
    by_rank = [list(val_batches(data, 2, 16, 16 * 7, rank=rank, world_size=2)) for rank in range(2)]
    assert sorted(rows_of(by_rank[0]) + rows_of(by_rank[1])) == sorted(wanted)
    assert len(list(islice(val_batches(data, 2, 16, 16 * 7), 2))) == 2
