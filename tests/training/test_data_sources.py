"""Sources: the same documents in the same order, and a held-out part that never moves."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from trainer.data import DataError
from trainer.data.sources import LocalSource, _hash_fraction, open_source


def texts(source: object, split: str) -> list[str]:
    part = source.val_part() if split == "val" else source.train_part(0)  # type: ignore[attr-defined]
    return list(part.documents())


def both(name: str, cache: Path) -> tuple[list[str], list[str]]:
    source = open_source(name, cache)
    return texts(source, "train"), texts(source, "val")


def test_the_standard_library_is_there_whole_and_in_one_order(tmp_path: Path) -> None:
    train, val = both("stdlib", tmp_path)
    assert sum(map(len, train)) > 5e6
    assert 0.01 < len(val) / len(train) < 0.12
    assert not set(train) & {text for text in val if len(text) > 200}
    assert any("class OrderedDict" in text for text in train + val)
    assert not any("site-packages" in name for name in open_source("stdlib", tmp_path)._names)  # type: ignore[attr-defined]
    assert texts(open_source("stdlib", tmp_path), "val") == val


def test_a_folder_holds_out_files_by_name_alone(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    (folder / "deep").mkdir(parents=True)
    names = [f"{i}.txt" for i in range(150)] + [f"deep/{i}.md" for i in range(50)]
    for name in names:
        (folder / name).write_text(f"I am {name}")
    (folder / "empty.txt").write_text(" \n")
    (folder / "image.png").write_bytes(b"\xff")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    train, val = both(f"path:{folder}", tmp_path)
    expected = {f"I am {name}" for name in names if _hash_fraction(name) <= 0.05}
    assert set(val) == expected
    assert len(train) + len(val) == len(names)

    for name in names[100:]:
        (folder / name).unlink()
    (folder / "new.txt").write_text("I am new")
    _, fewer = both(f"path:{folder}", tmp_path)
    assert {t for t in fewer if t != "I am new"} == {f"I am {n}" for n in names[:100]} & expected


def test_the_order_in_which_files_are_listed_does_not_matter(tmp_path: Path) -> None:
    names = [f"{i}.txt" for i in range(30)]
    for name in names:
        (tmp_path / name).write_text(name)
    one, other = LocalSource("a", tmp_path, names), LocalSource("a", tmp_path, names[::-1])
    for split in ("train", "val"):
        assert texts(one, split) == texts(other, split)
    assert one.train_part(0).fingerprint == other.train_part(0).fingerprint != one.val_part().fingerprint


def test_at_least_one_document_is_held_out(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(name)
    train, val = both(f"path:{tmp_path}", tmp_path)
    assert (len(train), len(val)) == (2, 1)


def test_a_single_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path) -> None:
    text = "".join(f"paragraph {i}\n" * (i % 7 + 1) + "\n" for i in range(3000))
    (tmp_path / "book.txt").write_text(text)
    train, val = both(f"path:{tmp_path / 'book.txt'}", tmp_path)
    assert sum(map(len, train + val)) == len(text)
    assert all(piece.endswith("\n\n") for piece in train + val)
    assert len(val) >= 1
    assert len(train) > 40


def test_a_single_file_without_blank_lines_is_cut_too(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("one line\n" * 10_000)
    train, val = both(f"path:{tmp_path / 'list.txt'}", tmp_path)
    assert sum(map(len, train + val)) == 90_000
    assert max(map(len, train)) < 4000


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    rows = [f"document {i}" for i in range(20_000)]
    pl.DataFrame({"text": [*rows, None, ""], "other": 1}).write_parquet(tmp_path / "a.parquet")
    train, val = both(f"path:{tmp_path}", tmp_path)
    assert sorted(train + val) == sorted(rows)
    assert 0.04 < len(val) / len(rows) < 0.06


def test_parquet_without_text_and_files_that_only_look_like_it_are_named(tmp_path: Path) -> None:
    pl.DataFrame({"body": ["x"]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has no column `text`"):
        both(f"path:{tmp_path}", tmp_path)
    (tmp_path / "a.parquet").write_text("not parquet at all")
    with pytest.raises(DataError, match="not a parquet file"):
        both(f"path:{tmp_path}", tmp_path)


@pytest.mark.parametrize(
    ("name", "said"), [("missing", "does not exist"), ("", "holds none"), ("a.png", "another kind")]
)
def test_a_path_without_text_says_why(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=said):
        open_source(f"path:{tmp_path / name}", tmp_path)


def test_an_unknown_source_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="climbmix"):
        open_source("books", tmp_path)


def test_a_changed_file_changes_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    before = open_source(f"path:{tmp_path}", tmp_path).train_part(0).fingerprint
    (tmp_path / "a.txt").write_text("three")
    assert open_source(f"path:{tmp_path}", tmp_path).train_part(0).fingerprint != before
