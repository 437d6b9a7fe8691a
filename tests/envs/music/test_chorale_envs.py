"""Writing, rewriting and streaming chorales: rewards that telescope, legal actions, every face."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient.envs.adapters import CoreVector
from semigradient.envs.music.chorale_chrono import ChoraleChrono, ChronoOptions
from semigradient.envs.music.chorale_fill import ChoraleFill, WritingOptions
from semigradient.envs.music.chorale_filling import framewise_log_likelihood
from semigradient.envs.music.chorale_rewrite import ChoraleRewrite, RewriteOptions
from semigradient.envs.music.chorale_rules import Rules
from semigradient.envs.music.chorale_setting import ILLEGAL, LOW
from semigradient.envs.music.toy_chorale import toy_joint
from semigradient.errors import UserError
from support.chorale_envs import P, play, setting, some_model
from support.chorales import pieces

# Excerpts


def test_excerpts_are_uniform_over_pieces_and_places() -> None:
    corpus = setting(16, 4).corpus
    random = torch.Generator().manual_seed(0)
    drawn = corpus.draw(30_000, random)
    whole = [torch.from_numpy(piece.astype(np.int64)) - LOW for piece in pieces()]
    found = {}
    for index, piece in enumerate(whole):
        for start in range(0, piece.shape[1] - 15, 4):
            crop = piece[:, start : start + 16]
            found[index, start] = int((drawn == crop).flatten(1).all(1).sum())
            named = corpus.draw(2, random, torch.tensor([index] * 2), torch.tensor([start] * 2))
            assert torch.equal(named, crop.expand(2, -1, -1))
    assert sum(found.values()) == 30_000
    for (index, _), count in found.items():
        places = sum(key[0] == index for key in found)
        assert count == pytest.approx(10_000 / places, abs=5 * (10_000 / places) ** 0.5)


# Filling


@pytest.mark.parametrize("order", ["free", "random", "chrono", "chrono-bass"])
@pytest.mark.parametrize("task", ["scratch", "harmonize", "inpaint"])
@pytest.mark.parametrize("reward", ["rules", "terminal-rules", "nade", "mixed"])
def test_rewards_telescope(reward: str, order: str, task: str) -> None:
    core, rules = ChoraleFill(setting(), WritingOptions(reward, order, task), mix=0.25), Rules(1)
    random = torch.Generator().manual_seed(1)
    start = core.reset(8, random)
    end, total, length = play(core, start, random)
    assert torch.equal(length.long(), start.missing)
    given = start.pitches >= 0
    assert torch.equal(end.pitches.where(given, -1), start.pitches)
    assert torch.equal(end.events, rules.count(end.pitches))
    before, after = (rules.potential(rules.count(s.pitches)) for s in (start, end))
    expected = {
        "rules": after - before,
        "terminal-rules": after,
        "nade": end.log_p,
        "mixed": 0.25 * end.log_p / 64 + 0.75 * (after - before) / 0.16,
    }
    torch.testing.assert_close(total, expected[reward])
    assert (end.log_p != 0).all() == (reward in ("nade", "mixed"))


def test_the_model_is_asked_for_the_note_that_is_written() -> None:
    model = some_model()
    core = ChoraleFill(setting(model=model), WritingOptions("nade", task="inpaint"))
    random = torch.Generator().manual_seed(2)
    state = core.reset(5, random)
    weights = core.legal(state).float()
    action = torch.multinomial(weights, 1, generator=random).squeeze(1)
    now = core.step(state, action, random)
    for row, a in enumerate(action.tolist()):
        voice, time, pitch = a // (16 * P), a // P % 16, a % P
        known = state.pitches[row : row + 1] >= 0
        log_p = model(state.pitches[row : row + 1].where(known, 0), known)
        assert now.reward[row] == log_p[0, voice, time, pitch]
        assert now.state.pitches[row, voice, time] == pitch
        assert state.pitches[row, voice, time] == -1


def test_the_terminal_reward_is_the_framewise_likelihood() -> None:
    core = ChoraleFill(setting(frames=4), WritingOptions("terminal", "chrono", "harmonize"))
    random = torch.Generator().manual_seed(3)
    end, total, _ = play(core, core.reset(1500, random, piece=0, offset=3), random)
    again = framewise_log_likelihood(some_model(), end.pitches, random)
    assert (total < 0).all()
    spread = float((total - again).std()) / 1500**0.5
    assert float(total.mean()) == pytest.approx(float(again.mean()), abs=4 * spread)


def test_the_given_orders() -> None:
    random = torch.Generator().manual_seed(4)
    for order, voices in (("chrono", [0, 1, 2, 3]), ("chrono-bass", [0, 3, 1, 2])):
        core = ChoraleFill(setting(), WritingOptions("rules", order))
        state = core.reset(1, random)
        for count in range(core.setting.cells):
            assert int(state.cell) == voices[count % 4] * 16 + count // 4
            pointer = core.observe(state)[0, 8:, :, 0].nonzero().tolist()
            assert pointer == [[voices[count % 4], count // 4]]
            mask = core.info(state)["action_mask"][0]
            assert torch.equal(mask, core.setting.singable[voices[count % 4]])
            state = core.step(state, mask.long().argmax()[None], random).state
    core = ChoraleFill(setting(frames=3), WritingOptions("rules", "random", "harmonize"))
    first = core.reset(45_000, random).cell
    counts = torch.bincount(first, minlength=12)
    assert (counts[:3] == 0).all()
    assert ((counts[3:] - 5000).abs() < 350).all()


def test_illegal_actions_cost_and_change_nothing() -> None:
    core = CoreVector(ChoraleFill(setting(frames=4), WritingOptions("rules", task="harmonize")), 1)
    core.reset()
    before = core.state.pitches.clone()
    low_soprano, given = (1 * 4) * P, 0  # the alto's lowest pitch; a cell of the soprano
    for count in range(4 * 16):
        action = [low_soprano, given][count % 2]
        _, reward, terminated, truncated, infos = core.step(np.array([action]))
        assert reward[0] == ILLEGAL
        assert not infos.get("final_info", infos)["action_mask"][0, action]
        last = infos.get("final_info", infos)["pianoroll"][0]
        np.testing.assert_array_equal(last, core.core.setting.notes(before)[0].numpy())
        assert not terminated[0]
        assert truncated[0] == (count == 63)


def test_observations_show_notes_and_what_is_known() -> None:
    core = ChoraleFill(setting(), WritingOptions("rules", task="inpaint"))
    state = core.reset(6, torch.Generator().manual_seed(5))
    obs, known = core.observe(state), state.pitches >= 0
    torch.testing.assert_close(obs[:, 4:], known[..., None].float().expand(-1, -1, -1, P))
    assert torch.equal(obs[:, :4].sum(-1), known.float())
    assert torch.equal(obs[:, :4].argmax(-1).where(known, -1), state.pitches)


def test_masks_name_the_unknown_cells_and_the_ranges() -> None:
    for actions in ("flat", "multidiscrete"):
        core = ChoraleFill(setting(), WritingOptions("rules", task="inpaint", actions=actions))
        state = core.reset(6, torch.Generator().manual_seed(6))
        legal = ((state.pitches < 0)[..., None] & core.setting.singable[:, None]).numpy()
        mask = core.info(state)["action_mask"].numpy()
        if actions == "flat":
            np.testing.assert_array_equal(mask, legal.reshape(6, -1))
        else:
            sides = [legal.any(axes) for axes in ((2, 3), (1, 3), (1, 2))]
            np.testing.assert_array_equal(mask, np.concatenate(sides, 1))


# Rewriting


REWRITES: list[dict[str, Any]] = [
    {"actions": "block"},
    {"actions": "mask", "score": "frame", "refill": "argmax"},
    {"actions": "schedule", "score": "rules", "task": "harmonize", "refill": "ancestral"},
    {"actions": "note", "score": "rules", "corrupt": 0.3},
    {"actions": "schedule", "score": "frame", "cost": 0.01, "task": "voice:2"},
]


def act(core: Any, n: int, rng: np.random.Generator) -> Tensor:
    space = core.single_action_space
    if isinstance(space, gymnasium.spaces.Box):
        return torch.from_numpy(rng.random((n, 1)).astype(np.float32))
    if isinstance(space, gymnasium.spaces.MultiBinary):
        return torch.from_numpy((rng.random((n, space.n)) < 0.3).astype(np.int8))
    return torch.from_numpy(rng.integers(space.nvec, size=(n, len(space.nvec))))


@pytest.mark.parametrize("options", REWRITES)
def test_rewriting_telescopes_and_leaves_alone_what_is_given(options: dict[str, Any]) -> None:
    core = ChoraleRewrite(setting(frames=6), RewriteOptions(steps=9, **options))
    random, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    start = state = core.reset(7, random)
    total = torch.zeros(7, dtype=torch.float64)
    erased = torch.zeros(7, dtype=torch.int64)
    for count in range(9):
        action = act(core, 7, rng)
        before = state
        state, reward, terminated, truncated = core.step(state, action, random)
        legal = reward != ILLEGAL
        total += reward.where(legal, 0.0)
        erased += state.erased
        assert bool(truncated.all()) == (count == 8)
        assert not bool(terminated.any())
        assert int(state.pitches.min()) >= 0
        assert torch.equal(state.pitches.where(state.given, 0), start.pitches.where(start.given, 0))
        changed = (state.pitches != before.pitches).flatten(1).sum(1)
        assert (changed <= state.erased).all()
        assert torch.equal(state.pitches[~legal], before.pitches[~legal])
    expected = core.score_of(state.pitches, state.known) - start.score
    torch.testing.assert_close(total, expected - core.cost * erased)


def test_the_masked_score_is_a_mean_over_contexts_that_stay() -> None:
    model = some_model()
    core = ChoraleRewrite(setting(frames=5, model=model), RewriteOptions(masks=3))
    random = torch.Generator().manual_seed(1)
    state = core.reset(4, random)
    assert state.known.shape == (4, 3, 4, 5)
    for row in range(4):
        scores = []
        for known in state.known[row]:
            log_p = model(state.pitches[row : row + 1].where(known, 0), known[None])[0]
            values = log_p.gather(-1, state.pitches[row][..., None]).squeeze(-1)
            scores.append(values[~known].mean())
        torch.testing.assert_close(state.score[row], torch.stack(scores).mean())
    after = core.step(state, torch.zeros(4, 3, dtype=torch.int64), random).state
    assert torch.equal(after.known, state.known)


@pytest.mark.parametrize("actions", ["mask", "schedule"])
def test_doing_nothing_returns_exactly_nothing(actions: str) -> None:
    core = RewriteOptions(model="toy", actions=actions, cost=0.5).make()
    random = torch.Generator().manual_seed(2)
    state = core.reset(50, random)
    width = 6 if actions == "mask" else 1
    for _ in range(core.horizon):
        state, reward, *_ = core.step(state, torch.zeros(50, width), random)
        assert torch.equal(reward, torch.zeros(50, dtype=torch.float64))


def test_blocks_are_where_they_are_named() -> None:
    core = ChoraleRewrite(setting(frames=16), RewriteOptions(masks=1))
    state = core.reset(4, torch.Generator().manual_seed(3))
    actions = torch.tensor([[0, 0, 0], [2, 5, 2], [4, 14, 4], [3, 15, 1]])
    erased = core._erased(state, actions, None)
    expected = torch.zeros(4, 4, 16, dtype=torch.bool)
    expected[0, 0, 0] = True
    expected[1, 2, 5:9] = True
    expected[2, :, 14:] = True
    expected[3, 3, 15] = True
    assert torch.equal(erased, expected)


def test_a_constant_rate_on_the_toy_reaches_its_stationary_law() -> None:
    joint = toy_joint()
    core = RewriteOptions(model="toy", actions="schedule", steps=40, masks=1).make()
    random = torch.Generator().manual_seed(4)
    state = core.reset(15_000, random)
    for _ in range(40):
        state = core.step(state, torch.full((15_000, 1), 0.5), random).state
    nll = -joint.log_p[joint.index(state.pitches)]
    assert float(nll.mean()) == pytest.approx(5.4511, abs=4 * float(nll.std()) / 15_000**0.5)


# Streaming


@pytest.mark.parametrize("reward", ["rules", "model", "imitation"])
@pytest.mark.parametrize("task", ["scratch", "harmonize"])
def test_the_stream_writes_frame_by_frame(reward: str, task: str) -> None:
    core = ChoraleChrono(setting(), ChronoOptions(reward=reward, task=task))
    random = torch.Generator().manual_seed(0)
    start = core.reset(9, random)
    end, total, length = play(core, start, random)
    assert (length == 16 * (3 if task == "harmonize" else 4)).all()
    rules = core.rules
    assert torch.equal(end.events, rules.count(end.pitches))
    if reward == "imitation":
        assert torch.equal(end.pitches, end.truth)
        assert ((total >= 0) & (total == total.round())).all()
    elif reward == "rules":
        gained = rules.potential(end.events) - rules.potential(start.events)
        torch.testing.assert_close(total, gained)
    else:
        torch.testing.assert_close(total, end.log_p)
    if task == "harmonize":
        assert torch.equal(end.pitches[:, 0], end.truth[:, 0])


@pytest.mark.parametrize("reward", ["model", "imitation"])
def test_rules_are_added_to_a_note_model(reward: str) -> None:
    plain, mixed = (
        ChoraleChrono(setting(), ChronoOptions(reward=reward, rules_weight=weight))
        for weight in (0.0, 0.25)
    )
    (_, alone, _), (end, both, _) = (
        play(core, core.reset(9, random), random)
        for core in (plain, mixed)
        for random in [torch.Generator().manual_seed(0)]
    )
    potential = mixed.rules.potential(end.events)
    assert potential.abs().min() > 0.1
    torch.testing.assert_close(both, alone + 0.25 * potential)
    assert "rules_weight" in mixed.protocol
    with pytest.raises(UserError, match=r"rules_weight=1\.0: acts only with reward="):
        ChronoOptions(rules_weight=1.0)


def test_imitating_the_real_notes_earns_one_each() -> None:
    core = ChoraleChrono(setting(), ChronoOptions(reward="imitation", task="harmonize", memory=1))
    state = core.reset(3, torch.Generator().manual_seed(1))
    for _ in range(48):
        voice, time = core._place(state)
        state, reward, *_ = core.step(state, state.truth[torch.arange(3), voice, time])
        assert (reward == 1).all()


def test_what_the_stream_shows() -> None:
    core = ChoraleChrono(setting(), ChronoOptions(reward="imitation", task="harmonize"))
    state = core.reset(1, torch.Generator().manual_seed(2))
    stream = state.truth[0].T.flatten().tolist()
    for count in range(48):
        voice, time = 1 + count % 3, count // 3
        obs = core.observe(state)[0]
        recent, bar, who, soprano = obs.split([4 * P, 4, 4, 2 * P])
        now = time * 4 + voice
        notes = [row.nonzero().flatten().tolist() for row in recent.view(4, P)]
        assert notes == [[stream[now - k]] if now >= k else [] for k in range(1, 5)]
        assert bar.argmax() == time % 4
        assert who.argmax() == voice
        ahead = [row.nonzero().flatten().tolist() for row in soprano.view(2, P)]
        assert ahead == [[stream[4 * t]] if t < 16 else [] for t in (time, time + 1)]
        real = state.truth[0, voice, time]
        state = core.step(state, real[None]).state


def test_a_cadence_is_a_full_triad_on_the_last_note_of_the_soprano() -> None:
    core = ChoraleChrono(setting(), ChronoOptions(cadence=5.0))
    chords = [(72, 67, 64, 48), (72, 67, 63, 60), (72, 60, 55, 48), (76, 67, 60, 48)]
    last = torch.tensor(chords)[:, :, None].expand(-1, -1, 2) - LOW
    assert core._closes(last).tolist() == [True, True, False, False]
