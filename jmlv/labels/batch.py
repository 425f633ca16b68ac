"""``classify_labels`` over many images, resumable and shared by several processes."""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from jmlv.errors import DamagedFile
from jmlv.graph import Classifier
from jmlv.labels.classify import Plan, settle
from jmlv.labels.result import LabelSet
from jmlv.labels.store import Store, query_key
from jmlv.oracles import Deadline, Oracle, Query
from jmlv.progress import Bar, NoProgress, Progress
from jmlv.properties import InTopK
from jmlv.regions import Region

POLL = 0.2
"""Seconds between looks at the file while other processes work on all that is left."""


def classify_labels_batch(
    f: Classifier,
    regions: Sequence[Region],
    k: int,
    oracle: Oracle | None = None,
    *,
    plan: Plan = Plan(),
    budget: float | None = 60.0,
    path: str | Path | None = None,
    progress: Progress = NoProgress(),
) -> list[LabelSet]:
    """Settles the labels of many images; see :func:`jmlv.classify_labels`.

    Args:
        f: the network.
        regions: one for each image, of one shape.
        k, oracle, plan: as there.
        budget: seconds for each image.
        path: a JSON-lines file. Every answer is appended as soon as it is known, keyed by a hash
            of network, box, k, plan and budget; what the file already answers is read from it.
            Processes that share the file share the work.
        progress: shows how many images are settled.

    Returns:
        One result for each region, in order.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        ValueError: arguments do not fit together; raised before any work.
        DamagedFile: the file has a line that is not such an answer.
    """
    Deadline(budget)
    if oracle is not None:
        plan = dataclasses.replace(plan, oracle=oracle)
    queries = _queries(f, regions, k)

    def answer(query: Query) -> LabelSet:
        return settle(query, k, plan, Deadline(budget))

    with progress.bar(f"labels, k = {k}", len(queries)) as bar:
        if path is None:
            return [_shown(answer(query), bar) for query in queries]
        keys = [query_key(query, k, plan, budget) for query in queries]
        with Store(path) as store:
            return _through_store(store, keys, queries, answer, bar)


def _queries(f: Classifier, regions: Sequence[Region], k: int) -> list[Query]:
    """All of them, checked; the network is traced once."""
    queries: list[Query] = []
    for region in regions:
        graph = queries[0].graph if queries else None
        queries.append(Query.of(f, region, InTopK(0, k), graph))
    return queries


def _through_store(
    store: Store,
    keys: Sequence[str],
    queries: Sequence[Query],
    answer: Callable[[Query], LabelSet],
    bar: Bar,
) -> list[LabelSet]:
    """Works on whatever no other process works on, until all are answered."""
    results: dict[int, LabelSet] = {}
    while len(results) < len(keys):
        before = len(results)
        for i in (i for i in range(len(keys)) if i not in results):
            found = _one(store, keys[i], queries[i], answer)
            if found is not None:
                results[i] = _shown(found, bar)
        if len(results) == before:
            time.sleep(POLL)
    return [results[i] for i in range(len(keys))]


def _one(
    store: Store, key: str, query: Query, answer: Callable[[Query], LabelSet]
) -> LabelSet | None:
    """The stored or the new answer; None while another process works on it."""
    with store.claim(key) as mine:
        record = store.known().get(key)
        if record is not None:
            return _restored(store, record)
        if not mine:
            return None
        result = answer(query)
        store.append({"key": key, **result.as_dict()})
        return result


def _restored(store: Store, record) -> LabelSet:
    try:
        return LabelSet.from_dict(record)
    except (KeyError, TypeError, ValueError, IndexError, zlib.error) as error:
        raise DamagedFile(
            f"path: the record {record['key'][:12]}... in {store.path} is damaged ({error!r}). "
            "Remove its line, and its query is answered anew."
        ) from error


def _shown(result: LabelSet, bar: Bar) -> LabelSet:
    bar.update(**result.counts)
    return result
