"""The retrieval example: histories, scores, baselines, loss, runs, two processes, export and serving."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import retrieval.model
import serve_retrieval
import torch
import train_retrieval
from hypothesis import given, settings
from hypothesis import strategies as st
from models.small_data import write_files
from movielens.data import GENRES, Movies, Ratings, hold_out
from places import EXAMPLES
from processes.launch import LIMIT, environment, torchrun
from retrieval.baselines import _solve, factorize, popularity
from retrieval.data import Samples, ranking_scores, synthetic
from retrieval.export import export
from retrieval.model import Settings, Trainer, in_batch_softmax

MOVIES = 12
SMALL = ["--users", "100", "--batch-size", "256", "--dim", "8", "--epochs", "3"]


def random_samples(seed: int, users: int = 5, recent: int = 3) -> Samples:
    """Few ratings, sorted by user and time, with many equal times."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        count = int(rng.integers(2, MOVIES))
        for movie, time in zip(
            rng.permutation(MOVIES)[:count], np.sort(rng.integers(0, 6, count)), strict=True
        ):
            rows.append((user, movie, time))
    user, movie, time = np.array(rows, np.int64).T
    ratings = Ratings(user, movie, np.full(len(user), 4.0, np.float32), time)
    genre = np.arange(MOVIES) % GENRES
    movies = Movies([f"Movie {n}" for n in range(MOVIES)], genre, np.arange(MOVIES + 1))
    return Samples(ratings, movies, hold_out(ratings), recent=recent)


# -- data and scores -------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_a_history_is_the_latest_movies_of_the_training_part_that_are_strictly_earlier(
    seed: int,
) -> None:
    samples = random_samples(seed)
    train = samples.train
    batch = samples.batch(np.arange(len(train)), np.arange(len(train)))
    for row, found in enumerate(batch.features["watched"].to_lists()):  # type: ignore[union-attr]
        earlier = (train.user == train.user[row]) & (train.time < train.time[row])
        assert found == train.movie[earlier][-samples.recent :].tolist()


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(2, 20))
def test_to_evaluate_every_user_and_every_movie_is_asked_for(seed: int, users: int) -> None:
    samples = random_samples(seed, users)
    batch = samples.batch(samples.evaluation, samples.evaluation)
    watched = batch.features["watched"].to_lists()  # type: ignore[union-attr]
    for user in range(users):
        mine = samples.train.movie[samples.train.user == user]
        assert batch.features["user"][user] == user
        assert watched[user] == mine[-samples.recent :].tolist()
    assert batch.features["movie"][:MOVIES].tolist() == [*range(MOVIES)]  # type: ignore[union-attr]
    assert batch.numbers[:MOVIES, 1].tolist() == [*range(MOVIES)]


def test_log_q_is_the_share_of_the_training_samples() -> None:
    samples = random_samples(0)
    watched = np.bincount(samples.train.movie, minlength=MOVIES) > 0
    assert np.exp(samples.log_q[watched]).sum() == pytest.approx(1)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_scores_count_unseen_movies_only(seed: int, count: int) -> None:
    samples = random_samples(seed)
    scores = np.random.default_rng(seed).normal(size=samples.seen.shape)
    recalls, ranks = [], []
    for user in np.flatnonzero(samples.relevant.any(1)):
        unseen = [movie for movie in range(MOVIES) if not samples.seen[user, movie]]
        best = sorted(unseen, key=lambda movie: -scores[user, movie])
        wanted = {*np.flatnonzero(samples.relevant[user]).tolist()}
        recalls.append(len(wanted & {*best[:count]}) / min(count, len(wanted)))
        ranks.append(1 / (1 + min(best.index(movie) for movie in wanted)))
    found = ranking_scores(scores, samples, count)
    assert found[f"recall@{count}"] == pytest.approx(np.mean(recalls))
    assert found["MRR"] == pytest.approx(np.mean(ranks))


def test_the_synthetic_log_is_sorted_and_watches_nothing_twice() -> None:
    ratings, movies = synthetic(users=20, movies=50, per_user=10)
    assert len(ratings) == 200
    assert len({*zip(ratings.user.tolist(), ratings.movie.tolist(), strict=True)}) == 200
    key = ratings.user * 10**9 + ratings.time
    assert (np.diff(key) >= 0).all()
    assert (np.diff(movies.splits) >= 1).all()


# -- baselines and loss ----------------------------------------------------------------------------


def test_each_half_of_a_round_of_the_factorisation_solves_its_least_squares() -> None:
    rng = np.random.default_rng(0)
    watched, fixed = (rng.random((4, 9)) < 0.4).astype(float), rng.normal(size=(9, 3))
    found = _solve(watched, fixed, confidence=0.7, penalty=2.0)
    for row, vector in zip(watched, found, strict=True):
        root = np.sqrt(1 + 0.7 * row)
        design = np.vstack([root[:, None] * fixed, np.sqrt(2.0) * np.eye(3)])
        exact = np.linalg.lstsq(design, np.concatenate([root * row, np.zeros(3)]), rcond=None)[0]
        np.testing.assert_allclose(vector, exact)


def test_the_factorisation_finds_blocks_that_popularity_cannot() -> None:
    seen = np.kron(np.eye(2, dtype=bool), np.ones((4, 5), bool))
    seen[0, 0] = seen[5, 7] = False
    scores = factorize(seen, factors=2)
    assert scores[0, 0] > scores[0, 5:].max()
    assert scores[5, 7] > scores[5, :5].max()
    assert (popularity(seen)[0] == popularity(seen)[5]).all()


def test_the_loss_corrects_for_frequency_and_masks_other_samples_of_the_movie() -> None:
    drawn = torch.Generator().manual_seed(0)
    users, movies = torch.randn(2, 5, 3, generator=drawn).unbind()
    ids, log_q = [4, 7, 4, 1, 7], [-1.0, -2.0, -1.0, -3.0, -2.0]
    numbers = torch.tensor([[q, i, p] for p, (q, i) in enumerate(zip(log_q, ids, strict=True))])
    losses = []
    for row in range(5):
        candidates = [c for c in range(5) if c == row or ids[c] != ids[row]]
        scores = torch.stack([users[row] @ movies[c] - log_q[c] for c in candidates])
        losses.append(scores.logsumexp(0) - scores[candidates.index(row)])
    torch.testing.assert_close(in_batch_softmax(users, movies, numbers), torch.stack(losses).mean())


# -- runs ------------------------------------------------------------------------------------------


def run(*options: str) -> int:
    threads = torch.get_num_threads()
    try:
        return train_retrieval.main([*SMALL, *options])
    finally:
        torch.set_num_threads(threads)


def test_a_short_run_beats_popularity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, results = tmp_path / "plots" / "curves.png", tmp_path / "results.json"
    assert run("--seeds", "0,1", "--plot", str(picture), "--json", str(results)) == 0
    printed = capsys.readouterr().out
    content = json.loads(results.read_text())
    assert picture.read_bytes().startswith(b"\x89PNG")
    for name, value in content["results"].items():
        assert name in printed
        assert value in printed
    for found in content["runs"]:
        assert len(found["losses"]) == 3 * (4800 // 256)
        assert len(found["scores"]) == 4
        assert np.mean(found["losses"][-5:]) < np.mean(found["losses"][:5])
        assert found["compiles_after_warm_up"] == 0
        popular = content["baselines"]["popularity"]["recall@10"]
        assert found["scores"][-1]["recall@10"] > 1.2 * popular


def test_it_runs_on_the_files_of_movielens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write_files(tmp_path / "ml"))
    assert run("--data", folder, "--batch-size", "64", "--validate") == 0
    printed = capsys.readouterr().out
    assert "MovieLens 100K: 390 samples to train on, 90 later ones for validation" in printed


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results and the export of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert run("--json", str(folder / "results.json"), "--export", str(folder / "served")) == 0
    return folder


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())["runs"][0]
    return found


def test_two_processes_have_the_losses_the_scores_and_the_export_of_one(
    alone: Path, tmp_path: Path
) -> None:
    options = ["--json", str(tmp_path / "results.json"), "--export", str(tmp_path / "served")]
    script = str(EXAMPLES / "train_retrieval.py")
    process = torchrun("--standalone", "--nproc_per_node=2", script, *SMALL, *options)
    try:
        _, errors = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    one, two = results(alone), results(tmp_path)
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=2e-5)
    for wanted, found in zip(one["scores"], two["scores"], strict=True):
        assert found == pytest.approx(wanted, abs=0.01)
    servers = [serve_retrieval.Server(folder / "served") for folder in (alone, tmp_path)]
    torch.testing.assert_close(servers[1].vectors, servers[0].vectors, rtol=0, atol=1e-3)
    (first, _), (second, _) = (each.top_k(3, each.history(3), 5) for each in servers)
    torch.testing.assert_close(second, first, rtol=0, atol=5e-3)


def test_a_run_that_was_stopped_within_an_epoch_goes_on_to_the_same_end(
    tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(tmp_path), "--json", str(tmp_path / "results.json")]

    def stop(received: list[int], at: list[int] = []) -> int:  # noqa: B006 (counts the calls)
        at.append(0)
        return 15 if len(at) == 25 else 0

    with monkeypatch.context() as patch:
        patch.setattr("common.trainer.stop_signal", stop)
        patch.setattr("train_retrieval.stop_signal", lambda received: 15)
        assert run(*options) == 75
    assert run(*options) == 0
    assert "resumed at step 25 from " in capsys.readouterr().out
    assert results(tmp_path)["losses"] == results(alone)["losses"]
    assert results(tmp_path)["scores"] == results(alone)["scores"]


def test_a_checkpoint_of_other_options_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(tmp_path), "--epochs", "1"]
    assert run(*options) == 0
    assert run(*options, "--temperature", "0.5") == 2
    assert "temperature = 0.25, this run has 0.5; use the same" in capsys.readouterr().err


def test_too_few_samples_and_missing_files_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--batch-size", "5000") == 2
    assert "4800 samples to train on and 1200 held out" in capsys.readouterr().err
    assert run("--data", str(tmp_path)) == 2
    assert "u.item is not there; unpack ml-100k.zip" in capsys.readouterr().err


# -- serving ---------------------------------------------------------------------------------------


def test_served_movies_are_the_best_of_the_trained_model(tmp_path: Path) -> None:
    samples = Samples(*(data := synthetic(40, 60, 20)), hold_out(data[0]))
    trainer = Trainer(samples, Settings(batch_size=64, dim=4))
    for _ in range(5):
        trainer.advance()
    trainer.batches.close()
    export(trainer, tmp_path)
    users, movies = trainer.vectors()
    server = serve_retrieval.Server(tmp_path)
    assert server.titles == samples.movies.titles
    for user in range(server.users):
        watched = server.history(user)
        assert watched.tolist() == samples.train.movie[samples.train.user == user].tolist()
        wanted = (movies @ users[user]).numpy()
        wanted[samples.seen[user]] = -np.inf
        scores, best = server.top_k(user, watched, 10)
        np.testing.assert_allclose(scores, np.sort(wanted)[::-1][:10], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores, wanted[best], rtol=1e-4, atol=1e-5)


def test_an_export_in_8_bits_serves_nearly_the_same_scores(tmp_path: Path) -> None:
    samples = Samples(*(data := synthetic(40, 60, 20)), hold_out(data[0]))
    trainer = Trainer(samples, Settings(batch_size=64, dim=16))
    trainer.advance()
    trainer.batches.close()
    exact, small = tmp_path / "exact", tmp_path / "small"
    assert export(trainer, exact).endswith("(100% of float32)")
    line = export(trainer, small, "int8")
    assert line.startswith(f"export: {small}, user tables of ")
    assert line.endswith("(39% of float32)")
    servers = [serve_retrieval.Server(each) for each in (exact, small)]
    scores = [each.top_k(3, each.history(3), 10)[0] for each in servers]
    np.testing.assert_allclose(*scores, atol=0.02)


def test_the_8_bits_are_of_the_export(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--quantize", "int8")
    assert "--quantize is of the export; give --export DIR too" in capsys.readouterr().err


def test_serving_needs_neither_torch_xla_nor_this_package(alone: Path) -> None:
    code = (
        "import sys, serve_retrieval; status = serve_retrieval.main(sys.argv[1:]); "
        "assert not {'torch_xla', 'torch_tpu_embedding'} & {*sys.modules}; sys.exit(status)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(alone / "served"), "--user", "7"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    first, *answers = done.stdout.splitlines()
    assert first.startswith("user 7, 48 movies watched, last: Movie ")
    assert [line.split()[0] for line in answers] == [str(place) for place in range(1, 11)]


def test_watched_movies_can_be_given(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = [str(alone / "served"), "--user", "1", "--top", "3"]
    assert serve_retrieval.main([*request, "--watched", "5,9"]) == 0
    assert "user 1, 2 movies watched, last: Movie 5, Movie 9\n" in capsys.readouterr().out
    assert serve_retrieval.main([*request, "--watched", ""]) == 0
    assert "user 1, 0 movies watched, last: none\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--user", "101"], "--user 101 is none of the users 1 to 100"),
        (["--user", "0"], "--user 0 is none of the users 1 to 100"),
        (["--user", "1", "--top", "0"], "--top 0 must be at least 1"),
        (["--user", "1", "--watched", "801"], "--watched 801 is none of the movies 1 to 800"),
    ],
)
def test_requests_that_have_no_answer(
    options: list[str], message: str, alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve_retrieval.main([str(alone / "served"), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve_retrieval.main([str(tmp_path), "--user", "1"]) == 2
    assert "give the folder that train_retrieval.py --export wrote" in capsys.readouterr().err


def test_the_towers_meet_in_a_dot_product_alone() -> None:
    model = retrieval.model.TwoTowers(4, 0.5)
    acts = {name: torch.randn(3, 4) for name in ("user", "watched", "movie", "genres")}
    acts["movie_bias"] = torch.randn(3, 1)
    users, movies = model.users(acts), model.movies(acts)
    cosine = torch.nn.functional.cosine_similarity(users[:, None, :-1], movies[:, :-1], dim=2)
    torch.testing.assert_close(users @ movies.T, cosine / 0.5 + acts["movie_bias"].T)
