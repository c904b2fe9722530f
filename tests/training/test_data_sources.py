"""Sources: the same documents in the same order, and a held-out part that never moves."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from trainer.data import DataError
from trainer.data.local import LocalSource, hash_fraction
from trainer.data.sources import open_source


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
    expected = {f"I am {name}" for name in names if hash_fraction(name) <= 0.05}
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
    one, other = LocalSource("a", tmp_path, names, tmp_path), LocalSource("a", tmp_path, names[::-1], tmp_path)
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
    folder = tmp_path / "text"
    folder.mkdir()
    for name, text in (("a.txt", "one"), ("b.txt", "two")):
        (folder / name).write_text(text)

    def fingerprint(folder: Path) -> str:
        return open_source(f"path:{folder}", tmp_path / "cache").train_part(0).fingerprint

    before = fingerprint(folder)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)  # the same text in another place, or with another date, is the same text
    os.utime(moved / "a.txt", (0, 0))
    assert fingerprint(moved) == before
    (moved / "a.txt").write_text("three")
    assert fingerprint(moved) != before


WORDS = [f"{a}{b}" for a in "bdfglmnprst" for b in ("a", "en", "ix", "olum", "urate")]


def sentences(count: int, separator: str) -> str:
    return separator.join(" ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(60)) for i in range(count))


def test_brackets_in_a_folders_name_are_part_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "set [1]"
    folder.mkdir()
    rows = [f"document {i}" for i in range(300)]
    pl.DataFrame({"text": rows}).write_parquet(folder / "part.parquet")
    train, val = both(f"path:{folder}", tmp_path)
    assert sorted(train + val) == sorted(rows)


@pytest.mark.parametrize("kind", ["one line", "one row", "no spaces"])
def test_one_long_document_is_cut_so_that_both_sides_get_some(tmp_path: Path, kind: str) -> None:
    text = sentences(800, " ") if kind != "no spaces" else "\u6587\u5b57" * 60_000
    if kind == "one row":
        pl.DataFrame({"text": [text]}).write_parquet(tmp_path / "book.parquet")
    else:
        (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    train, val = both(f"path:{tmp_path}", tmp_path)
    assert sum(map(len, train + val)) == len(text)
    assert 0.02 < sum(map(len, val)) / len(text) < 0.25
    if kind == "one line":
        assert set(" ".join(train + val).split()) == set(text.split())  # no word is cut


def test_a_document_too_short_to_be_cut_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one sentence")
    with pytest.raises(DataError, match="one document of 12 characters"):
        both(f"path:{tmp_path}", tmp_path)
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(DataError, match="holds no text"):
        both(f"path:{tmp_path}", tmp_path)


def test_a_corpus_with_two_companions_is_on_both_sides(tmp_path: Path) -> None:
    text = sentences(400, "\n\n")
    (tmp_path / "input.txt").write_text(text)
    (tmp_path / "prepare.py").write_text("\n".join(f"def step_{i}(values): return values\n" for i in range(60)))
    (tmp_path / "readme.md").write_text("# the texts\n")
    assert hash_fraction("prepare.py") <= 0.05  # by its name it would be all that is held out
    train, val = both(f"path:{tmp_path}", tmp_path)
    held_out = [piece for piece in val if "def step_" not in piece]
    assert 0.02 * len(text) < sum(map(len, held_out)) < 0.2 * len(text)
    assert sum(map(len, train)) > 0.8 * len(text)


def test_the_share_held_out_is_one_of_text_not_of_names(tmp_path: Path) -> None:
    names = [f"{i}.txt" for i in range(100)]
    for name in names:  # those that 5 % of the names would hold out are nearly empty
        (tmp_path / name).write_text("x" * (10 if hash_fraction(name) <= 0.05 else 1000))
    train, val = both(f"path:{tmp_path}", tmp_path)
    assert 0.02 < sum(map(len, val)) / sum(map(len, train + val)) < 0.08


def test_files_that_are_not_utf8_are_counted_and_named(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text(sentences(20, "\n\n"))
    for i in range(4):
        (tmp_path / f"{i}.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 500)
    source = open_source(f"path:{tmp_path}", tmp_path / "cache")
    assert source.remark() == "4 of 12 text files are not UTF-8 and left out: 0.txt, 1.txt, 2.txt ..."
    again = open_source(f"path:{tmp_path}", tmp_path / "cache")
    assert again.remark() == source.remark()  # from the cache
    assert not any("caf" in text for text in texts(again, "train") + texts(again, "val"))
    assert open_source("stdlib", tmp_path / "cache").remark() == ""


def test_text_of_which_most_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("short")
    (tmp_path / "book.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 5000)
    with pytest.raises(DataError, match=r"Most of .* is not UTF-8: 1 of 2 files, for instance book\.txt") as caught:
        open_source(f"path:{tmp_path}", tmp_path).remark()
    assert "iconv" in caught.value.next


def test_a_damaged_survey_is_made_again(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text(sentences(2, "\n\n"))
    before = texts(open_source(f"path:{tmp_path}", tmp_path / "cache"), "val")
    (kept,) = (tmp_path / "cache" / "surveys").iterdir()
    kept.write_text('{"border": 1')
    assert texts(open_source(f"path:{tmp_path}", tmp_path / "cache"), "val") == before
