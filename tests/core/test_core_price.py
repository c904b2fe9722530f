"""What CORE takes is in the estimate: by the bundle's texts, the device's evaluations and its price."""

import json

import pytest

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.estimate.core_price import OVER_EVAL
from patron_core.money import cost_usd_micros

YAML = """
icl_tasks:
- {label: ends, icl_task_type: language_modeling, dataset_uri: ends.jsonl, num_fewshot: [0]}
"""


def bundle(folder, *, items: int, chars: int):
    (folder / "eval_data").mkdir(parents=True)
    item = {"context": "a" * (chars - 2), "continuation": "b"}
    (folder / "eval_data" / "ends.jsonl").write_text((json.dumps(item) + "\n") * items)
    (folder / "core.yaml").write_text(YAML)
    (folder / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nends,0\n")
    return str(folder)


def test_core_is_priced_by_its_texts_and_the_devices_evaluations(tmp_path):
    small, slow = verbs.estimates(None, depths=[8], devices=["H100", "A100-40GB"])
    folder = bundle(tmp_path / "one", items=1000, chars=470)
    on_small, on_slow = verbs.core_prices([small, slow], folder)
    assert on_small.tokens == pytest.approx(1000 * 101)  # 4.7 characters a token, and BOS
    assert on_small.wall_s.mid == pytest.approx(
        OVER_EVAL.mid * small.eval_s.mid * on_small.tokens / small.spec.eval_tokens
    )
    assert on_small.wall_s.low < on_small.wall_s.mid < on_small.wall_s.high
    assert on_slow.wall_s.mid > on_small.wall_s.mid
    hourly = small.price.usd_micros_per_hour
    assert on_small.cost_usd_micros.high == cost_usd_micros(on_small.wall_s.high, hourly) > 0
    assert "more; the run's figures are without it" in on_small.sentence


def test_a_text_longer_than_the_context_is_cut(tmp_path):
    (row,) = verbs.estimates(None, depths=[8], devices=["H100"], spec={"sequence_len": 512})
    (price,) = verbs.core_prices([row], bundle(tmp_path / "long", items=10, chars=100_000))
    assert price.tokens == 10 * 512


def test_a_folder_without_task_files_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"core\.yaml") as error:
        verbs.core_prices([], str(tmp_path))
    assert "eval_data" in error.value.next
