"""``classify_labels`` over many images, resumable and shared by several processes."""

from __future__ import annotations

import dataclasses
import itertools
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from jmlv.errors import DamagedFile
from jmlv.graph import Classifier
from jmlv.labels.classify import Plan, settle
from jmlv.labels.result import LabelSet, LabelStatus, Origin, unsettled
from jmlv.labels.store import Store, query_key
from jmlv.oracles import Deadline, Oracle, Query, TimeUp
from jmlv.oracles.aside import run_until
from jmlv.oracles.oracle import label_count
from jmlv.progress import Bar, NoProgress, Progress
from jmlv.properties import InTopK
from jmlv.regions import Region

POLL = 0.2
"""Seconds between looks at the file while other processes work on all that is left."""

Answer = Callable[[Query, LabelSet | None], LabelSet]
"""Settles an image's labels, given an earlier answer that leaves some open."""


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
        budget: seconds for each image; those that tracing takes are the first one's.
        path: a JSON-lines file. Every answer is appended as soon as it is known, keyed by a hash
            of network, box, k and plan; what the file already answers is read from it. Labels that
            it leaves open are taken up again if the budget is larger than theirs was. Processes
            that share the file share the work. Each result says where it comes from (``origin``).
        progress: shows how many images are settled.

    Returns:
        One result for each region, in order.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        ValueError: arguments do not fit together; raised before any work.
        DamagedFile: the file has a line that is not such an answer.
    """
    clock = Deadline(budget)
    if oracle is not None:
        plan = dataclasses.replace(plan, oracle=oracle)
    whole = Deadline(None if budget is None else max(1, len(regions)) * budget)
    try:
        queries = run_until(whole, lambda _: _queries(f, regions, k))
    except TimeUp as late:
        count = run_until(Deadline(None), lambda _: label_count(f, regions[0]))
        reason = f"reading the network: {late}"
        return [unsettled(count, k, reason, clock.elapsed) for _ in regions]
    deadlines = itertools.chain([clock], iter(lambda: Deadline(budget), None))

    with progress.bar(f"labels, k = {k}", len(queries)) as bar:

        def answer(query: Query, known: LabelSet | None = None) -> LabelSet:
            return settle(query, k, plan, next(deadlines), known, partial(_say, bar))

        if path is None:
            return [_shown(answer(query), bar) for query in queries]
        keys = [query_key(query, k, plan) for query in queries]
        with Store(path) as store:
            return _through_store(store, keys, queries, answer, budget, bar)


def _queries(f: Classifier, regions: Sequence[Region], k: int) -> list[Query]:
    """All of them, checked; the network is traced once."""
    queries: list[Query] = []
    for region in regions:
        graph = queries[0].network if queries else None
        queries.append(Query.of(f, region, InTopK(0, k), graph))
    return queries


def _through_store(
    store: Store,
    keys: Sequence[str],
    queries: Sequence[Query],
    answer: Answer,
    budget: float | None,
    bar: Bar,
) -> list[LabelSet]:
    """Works on whatever no other process works on, until all are answered."""
    results: dict[int, LabelSet] = {}
    while len(results) < len(keys):
        before = len(results)
        for i in (i for i in range(len(keys)) if i not in results):
            found = _one(store, keys[i], queries[i], answer, budget)
            if found is not None:
                results[i] = _shown(found, bar)
        if len(results) == before:
            time.sleep(POLL)
    return [results[i] for i in range(len(keys))]


def _one(
    store: Store, key: str, query: Query, answer: Answer, budget: float | None
) -> LabelSet | None:
    """The stored or the new answer; None while another process works on it."""
    with store.claim(key) as mine:
        record = store.known().get(key)
        known = None if record is None else _restored(store, record)
        if known is not None and not _worth_more(known, record["budget"], budget):
            return known
        if not mine:
            return None
        result = answer(query, known)
        if known is not None:
            result = dataclasses.replace(result, origin=Origin.RESUMED)
        store.append({"key": key, "budget": budget, **result.as_dict()})
        return result


def _worth_more(known: LabelSet, spent: float | None, budget: float | None) -> bool:
    """Whether labels are open that a larger budget than was spent on them may settle."""
    larger = spent is not None and (budget is None or budget > spent)
    return larger and bool(known.labels(LabelStatus.UNKNOWN))


def _restored(store: Store, record) -> LabelSet:
    try:
        record["budget"]
        return dataclasses.replace(LabelSet.from_dict(record), origin=Origin.RESTORED)
    except (KeyError, TypeError, ValueError, IndexError, zlib.error) as error:
        raise DamagedFile(
            f"path: the record {record['key'][:12]}... in {store.path} is damaged ({error!r}). "
            "Remove its line, and its query is answered anew."
        ) from error


def _say(bar: Bar, doing: str) -> None:
    bar.update(0, now=doing)


def _shown(result: LabelSet, bar: Bar) -> LabelSet:
    bar.update(**result.counts)
    return result
