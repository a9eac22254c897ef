"""Distributed experiments: commands on servers over SSH, their lines, grids of parameters, restarts, results.

Experiment files begin with ``from roomful.experiments import *``; ``inv experiments.run`` runs them.
"""

from __future__ import annotations

from roomful.experiments.command import Command
from roomful.experiments.csv_generator import CSVGenerator
from roomful.experiments.errors import CommandFailed, ExperimentFailed
from roomful.experiments.grid import ComputedParam, ParameterGrid
from roomful.experiments.handlers import Console, EnvParser, File, SubstrMatcher
from roomful.experiments.helpers import (
    GDB,
    SOCKET_BIND,
    IterClassGen,
    ProcessGroup,
    any_failed,
    counter,
    run_on_all,
    sleep,
)
from roomful.experiments.interactive import StdinController, forward_stdin_to
from roomful.experiments.logs import log
from roomful.experiments.outcomes import Action, ReturnCode
from roomful.experiments.registry import reg_exp
from roomful.experiments.servers import Server, ServerList

__all__ = [
    "GDB",
    "SOCKET_BIND",
    "Action",
    "CSVGenerator",
    "Command",
    "CommandFailed",
    "ComputedParam",
    "Console",
    "EnvParser",
    "ExperimentFailed",
    "File",
    "IterClassGen",
    "ParameterGrid",
    "ProcessGroup",
    "ReturnCode",
    "Server",
    "ServerList",
    "StdinController",
    "SubstrMatcher",
    "any_failed",
    "counter",
    "forward_stdin_to",
    "log",
    "reg_exp",
    "run_on_all",
    "sleep",
]
