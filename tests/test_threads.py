"""Threads and processes: concurrent calls, changing thread counts, forked workers, another working directory."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers import PACKED, Case, Results, assert_equal_to_rounding, run
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import gru_fused

LARGE = Case(T=20, B=17, I=33, H=130, layers=2, bidirectional=True)  # enough work to be split between threads
TEAM = Case(T=40, B=1, I=33, H=150)  # one sequence: the threads share its hidden units
TEAM_IN_PLACE = Case(T=8, B=1, I=256, H=384)  # few steps: the weights are read where they are
CASES = [LARGE, Case(T=3, B=1, I=5, H=7), PACKED[3], TEAM, TEAM_IN_PLACE]
SECONDS = 60  # for what takes less than one, unless it hangs


class Job:
    """A GRU with an input and cotangents, to be run again and again."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float64) -> None:
        self.rnn = case.module(gru_fused.GRU, dtype)
        self.given = case.inputs(dtype)
        self.cotangents = case.cotangents(dtype)

    def __call__(self) -> Results:
        return run(self.rnn, *self.given, self.cotangents)


def same(a: Results, b: Results) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_concurrent_calls_of_one_module(case: Case) -> None:
    jobs = [Job(case) for _ in range(4)]
    for job in jobs:
        job.rnn = jobs[0].rnn
    alone = [job() for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: [job() for _ in range(5)], jobs))
    for expected, found in zip(alone, together, strict=True):
        for one in found:
            assert_equal_to_rounding(one, expected, eps=1e-12)


def test_concurrent_calls_of_many_modules() -> None:
    """Different sizes at once: no buffer is shared between calls."""
    jobs = [Job(case) for case in (LARGE, Case(), Case(H=33, bias=False), Case(T=63, H=130), *PACKED[:4])]
    alone = [job() for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        together = list(pool.map(lambda job: [job() for _ in range(8)], jobs))
    for expected, found in zip(alone, together, strict=True):
        for one in found:
            assert_equal_to_rounding(one, expected, eps=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_thread_count_same_bits(case: Case, dtype: torch.dtype) -> None:
    """Also after other thread counts in between."""
    job = Job(case, dtype)
    first: dict[int, Results] = {}
    for threads in (1, 2, 3, 4, 2, 1, 4, 3):
        torch.set_num_threads(threads)
        found = job()
        assert same(found, first.setdefault(threads, found)), f"{threads} threads"
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize("case", CASES, ids=str)
def test_thread_count_changes_rounding_at_most(case: Case) -> None:
    job = Job(case)
    torch.set_num_threads(1)
    expected = job()
    for threads in (2, 3, 5, 16):
        torch.set_num_threads(threads)
        assert_equal_to_rounding(job(), expected, eps=1e-12)


@pytest.mark.parametrize("case", [TEAM, TEAM_IN_PLACE], ids=["panels", "in-place"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_team_gives_the_bits_of_one_thread(case: Case, dtype: torch.dtype) -> None:
    """So it does not matter how many of its threads come in time."""
    job = Job(case, dtype)
    torch.set_num_threads(1)
    expected = job()
    for threads in (2, 3, 4):
        torch.set_num_threads(threads)
        for _ in range(20):
            assert same(job(), expected), f"{threads} threads"


def test_backward_in_another_thread() -> None:
    job = Job(LARGE)
    expected = job()
    output, h_n = job.rnn(*job.given)
    with ThreadPoolExecutor(1) as pool:
        wanted = list(job.rnn.parameters())
        found = pool.submit(torch.autograd.grad, [output, h_n], wanted, job.cotangents).result()
    for (name, _), gradient in zip(job.rnn.named_parameters(), found, strict=True):
        torch.testing.assert_close(gradient, expected[f"grad of {name}"], rtol=1e-9, atol=1e-12)


class Encoded(Dataset[Tensor]):
    """A dataset that runs the GRU in the worker that loads it."""

    def __init__(self, rnn: nn.Module, inputs: Tensor) -> None:
        self.rnn, self.inputs = rnn, inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.rnn(self.inputs[index])[0]


needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system can't fork processes"
)


@needs_fork
def test_forked_data_loader_worker() -> None:
    """The parent has run the GRU on several threads before the fork, and those don't exist in the worker."""
    job = Job(LARGE)
    job()
    inputs = torch.randn(3, 20, 17, 33, dtype=torch.float64)
    dataset = Encoded(job.rnn, inputs)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, timeout=SECONDS, multiprocessing_context="fork")
    for index, output in enumerate(loader):
        torch.testing.assert_close(output, dataset[index], rtol=1e-11, atol=1e-13)
    assert index == 2


def train_in_child(job: Job, sender: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)  # as DataLoader does in its workers: OpenMP's threads don't survive a fork
    sender.send({name: y.numpy() for name, y in job().items()})


@needs_fork
def test_backward_in_a_forked_process() -> None:
    """Its own process without a thread of autograd from before the fork."""
    job = Job(LARGE)
    expected = {name: y.clone() for name, y in forward_only(job).items()}
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=train_in_child, args=(job, sender), daemon=True)
    child.start()
    assert receiver.poll(SECONDS), "the child hangs"
    found = {name: torch.from_numpy(y) for name, y in receiver.recv().items()}
    child.join(SECONDS)
    assert child.exitcode == 0
    assert_equal_to_rounding({name: found[name] for name in expected}, expected, eps=1e-12)
    assert_equal_to_rounding(found, job(), eps=1e-12)


def forward_only(job: Job) -> Results:
    with torch.no_grad():
        output, h_n = job.rnn(*job.given)
    return {"output": output, "h_n": h_n}


SCRIPT = """
import torch
before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed()
import gru_fused
assert before == (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed())
torch.manual_seed(0)
ours, theirs = gru_fused.GRU(3, 4, 2, bidirectional=True), torch.nn.GRU(3, 4, 2, bidirectional=True)
theirs.load_state_dict(ours.state_dict())
x = torch.randn(5, 2, 3)
torch.testing.assert_close(ours(x), theirs(x))
ours(x)[0].sum().backward()
print("works")
"""


def test_another_working_directory(tmp_path: Path) -> None:
    """Importing needs no file of the current folder and changes no global setting of torch."""
    package = str(Path(gru_fused.__file__).parents[1])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=4 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "works\n"
    assert not any(tmp_path.iterdir())
