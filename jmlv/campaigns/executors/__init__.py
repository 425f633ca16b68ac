"""Executors: in this process, in processes, on Ray, or on any pool of futures."""

from jmlv.campaigns.executors.executor import Crew, Executor, Report, Task
from jmlv.campaigns.executors.futures import Futures
from jmlv.campaigns.executors.in_process import InProcess
from jmlv.campaigns.executors.on_ray import Ray
from jmlv.campaigns.executors.processes import Processes
