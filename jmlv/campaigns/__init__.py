"""Campaigns: thousands of questions, on one laptop or on many machines."""

from jmlv.campaigns.answer import Answer
from jmlv.campaigns.campaign import Campaign, Row, rows_of
from jmlv.campaigns.executors import Executor, Futures, InProcess, Processes, Ray
from jmlv.campaigns.questions import (
    AttackQuestion,
    CallQuestion,
    GrowQuestion,
    LabelsQuestion,
    Question,
    SmoothQuestion,
    UpperBoundQuestion,
    VerifyQuestion,
)
from jmlv.campaigns.sources import Checkpoint, Factory, Held, Network, OnnxFile, Source
from jmlv.campaigns.status import Status, status_of
from jmlv.campaigns.store import Store
from jmlv.campaigns.table import Table, summary
