"""Reinforcement learning: a recurrent policy whose state starts anew where an episode does, in the middle of a rollout.

    make example NAME=episodes

The task needs memory: an agent sees a cue at the first step of an episode, then noise, and is asked for the cue at the
last, some 3 to 20 steps later. Many environments run side by side and begin again on their own, so a rollout of T
steps is cut at different places in each. Learning runs the policy over whole rollouts, in one of three ways with the
same results:

- step by step, the state multiplied by 0 where an episode starts;
- split: the rollout is cut into its episodes, which are packed and run as one batch;
- reset: one call, which is told where episodes start.

The plot shows the rewards, and what a forward and a backward of a rollout take in each way, by the length of the
episodes.
"""

import argparse
import sys

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.utils.rnn import PackedSequence

import gru_fused
from examples.shared import parser_of, progress, run, save, timed

ENVIRONMENTS, STEPS, UNITS = 32, 64, 64
SHORTEST, LONGEST = 3, 20  # steps of an episode
TIMED_STEPS, TIMED_UNITS = 128, 128


class Recall:
    """B environments. An observation is (cue or noise, first step?, last step?); the answer is an action, 0 or 1."""

    def __init__(self) -> None:
        self.age = torch.zeros(ENVIRONMENTS, dtype=torch.long)
        self.length = torch.randint(SHORTEST, LONGEST + 1, (ENVIRONMENTS,))
        self.cue = torch.randint(2, (ENVIRONMENTS,))

    def observe(self) -> tuple[Tensor, Tensor]:
        """Observations (B, 3), and where an episode starts, (B,)."""
        first, last = self.age == 0, self.age == self.length - 1
        seen = torch.where(first, 2.0 * self.cue - 1, torch.randn(ENVIRONMENTS))
        return torch.stack([seen, first.float(), last.float()], dim=1), first

    def act(self, action: Tensor) -> Tensor:
        """1 or -1 for an answer, 0 for an action that nobody asked for, (B,)."""
        last = self.age == self.length - 1
        reward = torch.where(last, 2.0 * (action == self.cue) - 1, 0.0)
        self.age = torch.where(last, 0, self.age + 1)
        self.length = torch.where(last, torch.randint(SHORTEST, LONGEST + 1, (ENVIRONMENTS,)), self.length)
        self.cue = torch.where(last, torch.randint(2, (ENVIRONMENTS,)), self.cue)
        return reward


def step_by_step(gru: nn.Module, x: Tensor, resets: Tensor, state: Tensor) -> Tensor:
    """x (T, B, I), resets (T, B) where an episode starts, state (B, H) before the first step; the states (T, B, H)."""
    outputs = []
    h = state.unsqueeze(0)
    for step, reset in zip(x, resets, strict=True):
        output, h = gru(step.unsqueeze(0), h * ~reset.unsqueeze(1))
        outputs.append(output)
    return torch.cat(outputs)


def split(gru: nn.Module, x: Tensor, resets: Tensor, state: Tensor) -> Tensor:
    """The same. An episode that goes on from the rollout before starts from its environment's state, others from 0."""
    steps, environments, _ = x.shape
    starts = resets.t().clone()  # (B, T)
    starts[:, 0] = True
    environment, start = starts.nonzero(as_tuple=True)  # of each episode, (E,)
    place = environment * steps + start
    length = torch.cat([place[1:], place.new_tensor([steps * environments])]) - place
    length, order = length.sort(descending=True)
    environment, start = environment[order], start[order]

    # Packed data: the first step of all episodes, the longest first, the second step of all that have one, ...
    t = torch.arange(int(length[0])).unsqueeze(1)
    alive = t < length  # (longest, E)
    rows = ((start + t) * environments + environment)[alive]
    hx = state[environment] * ((start == 0) & ~resets[0, environment]).unsqueeze(1)
    output, _ = gru(PackedSequence(x.flatten(0, 1)[rows], alive.sum(1)), hx.unsqueeze(0))
    return output.data[rows.argsort()].view(steps, environments, -1)


def with_resets(gru: nn.Module, x: Tensor, resets: Tensor, state: Tensor) -> Tensor:
    """The same, and all that there is to do."""
    return gru(x, state.unsqueeze(0), reset=resets)[0]


WAYS = {"step by step": step_by_step, "split": split, "reset": with_resets}


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = gru_fused.GRU(3, UNITS)
        self.linear = nn.Linear(UNITS, 2)


def learn(updates: int) -> list[float]:
    """REINFORCE; returns the share of right answers in each rollout."""
    policy = Policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    environments = Recall()
    state = torch.zeros(ENVIRONMENTS, UNITS)
    right = []
    bar = progress(range(updates), "updates")
    for _ in bar:
        before, rows = state, []
        with torch.no_grad():
            for _ in range(STEPS):
                seen, first = environments.observe()
                state = step_by_step(policy.gru, seen[None], first[None], state)[0]
                action = Categorical(logits=policy.linear(state)).sample()
                rows.append((seen, first, action, environments.act(action)))
        x, resets, actions, rewards = (torch.stack(column) for column in zip(*rows, strict=True))
        choices = Categorical(logits=policy.linear(with_resets(policy.gru, x, resets, before)))
        # an action is rewarded at once or not at all, so its advantage is its reward
        loss = -(choices.log_prob(actions) * rewards).sum() / rewards.abs().sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        right.append(((rewards > 0).sum() / (rewards != 0).sum()).item())
        bar.set_postfix(right=f"{right[-1]:.2f}", refresh=False)
    return right


def costs(lengths: list[int], seconds: float) -> list[dict[str, object]]:
    """A forward and a backward of a rollout whose episodes last so many steps on average."""
    rows = []
    gru = gru_fused.GRU(TIMED_UNITS, TIMED_UNITS)
    for length in progress(lengths, "costs"):
        x = torch.randn(TIMED_STEPS, ENVIRONMENTS, TIMED_UNITS)
        resets = torch.rand(TIMED_STEPS, ENVIRONMENTS) < 1 / length
        state = torch.randn(ENVIRONMENTS, TIMED_UNITS)
        calls = {
            name: lambda way=way, given=(x, resets, state): way(gru, *given).sum().backward()
            for name, way in WAYS.items()
        }
        times, of_reset = timed(calls, seconds)
        rows.append({"length": length, "milliseconds": times, "ratios": of_reset})
    return rows


def main(options: argparse.Namespace) -> None:
    right = learn(3 if options.quick else 150)
    last = right[-10:]
    print(f"right answers in the last {len(last)} rollouts: {sum(last) / len(last):.1%}; by luck 50 %")
    rows = costs([8] if options.quick else [4, 8, 16, 32, 64, 128], 0.1 if options.quick else 3.0)
    print(f"forward and backward of T = {TIMED_STEPS}, B = {ENVIRONMENTS}, I = H = {TIMED_UNITS}:")
    for row in rows:
        slower = ", ".join(f"{name} {row['ratios'][name]:.1f}" for name in WAYS if name != "reset")
        print(f"  episodes of {row['length']:>3} steps, times as long as with reset=: {slower}")
    save(options, "episodes", plot(right, rows), {"right": right, "costs": rows})


def plot(right: list[float], rows: list[dict[str, object]]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, other = figure.subplots(1, 2)
    left.plot(right)
    left.axhline(0.5, color="gray", linestyle=":", label="luck")
    left.set(xlabel="update", ylabel="right answers")
    for name in WAYS:
        other.plot([row["length"] for row in rows], [row["milliseconds"][name] for row in rows], "o-", label=name)
    other.set(xlabel="mean length of an episode", ylabel="forward and backward, ms", xscale="log", ylim=(0, None))
    other.set_xticks([row["length"] for row in rows], [str(row["length"]) for row in rows])
    other.minorticks_off()
    for axes in (left, other):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


PARSER = parser_of(__doc__, "episodes")

if __name__ == "__main__":
    sys.exit(run(main, PARSER))
