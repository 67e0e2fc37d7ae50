"""The MovieLens example: files, split, histories, weights, baselines, and a short run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import movielens.data as data
import numpy as np
import pytest
import torch
import train_movielens
from hypothesis import given, settings
from hypothesis import strategies as st
from models.small_data import FEW, MOVIES, PER_USER, USERS, write_files
from movielens.model import RatingModel

import torch_tpu_embedding as tte

SEEDS = "1,4"  # whose batches of 64 do not outgrow their padded size: the histories vary a lot


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("ml"))


def random_ratings(rng: np.random.Generator, users: int, most: int) -> data.Ratings:
    """Ratings in the order that `read_ratings` gives, with many equal times."""
    rows = []
    for user in range(users):
        count = int(rng.integers(0, most + 1))
        times = np.sort(rng.integers(0, 6, count)) * data.SECONDS_PER_DAY
        movies = rng.permutation(MOVIES)[:count]
        rows += [(user, m, rng.integers(1, 6), t) for m, t in zip(movies, times, strict=True)]
    user, movie, stars, time = np.array(rows, np.int64).reshape(-1, 4).T
    return data.Ratings(user, movie, stars.astype(np.float32), time)


def no_genres() -> data.Movies:
    return data.Movies([""] * MOVIES, np.zeros(0, np.int64), np.zeros(MOVIES + 1, np.int64))


# -- files -----------------------------------------------------------------------------------------


def test_files_are_read_and_sorted(folder: Path) -> None:
    ratings, movies = data.read(folder)
    assert len(ratings) == USERS * PER_USER
    assert (np.diff(ratings.user) >= 0).all()
    assert all((np.diff(ratings.time[ratings.user == user]) >= 0).all() for user in range(USERS))
    lines = (folder / "u.data").read_text().splitlines()
    written = {tuple(map(int, line.split())) for line in lines}
    read = zip(ratings.user + 1, ratings.movie + 1, ratings.stars, ratings.time, strict=True)
    assert {tuple(map(int, row)) for row in read} == written
    assert movies.titles[2:4] == ["Film n° 3 (1995)", "Star Wars (1977)"]
    assert movies.splits[5] == movies.splits[6]  # the movie without a genre
    for movie, line in enumerate((folder / "u.item").read_text("latin-1").splitlines()):
        flags = [genre for genre, text in enumerate(line.split("|")[5:]) if text == "1"]
        genres = movies.genres[movies.splits[movie] : movies.splits[movie + 1]]
        assert genres.tolist() == flags


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        (
            "u.data",
            lambda f: [*f[:3], "1\t2\tfive\t8"],
            r"line 4: rating 'five' is not a whole .*5",
        ),
        (
            "u.data",
            lambda f: ["1\t2\t6\t8"],
            r"line 1: rating '6' is not a whole number from 1 to 5",
        ),
        ("u.data", lambda f: ["1\t41\t3\t8"], r"line 1: item '41' is not .* from 1 to 40"),
        ("u.data", lambda f: ["0\t1\t3\t8"], r"line 1: user '0' is not .* from 1 upwards"),
        ("u.data", lambda f: ["1,2,3,8"], r"line 1: expected 4 fields .*got 1 in '1,2,3,8'"),
        ("u.data", lambda f: [], r"u\.data is empty"),
        ("u.item", lambda f: f[1:], r"line 1: movie id '2' should be 1"),
        ("u.item", lambda f: [f[0][:-1] + "x"], r"line 1: genre flag 'x' is neither 0 nor 1"),
    ],
)
def test_malformed_files(
    tmp_path: Path, name: str, edit: Callable[[list[str]], list[str]], message: str
) -> None:
    path = write_files(tmp_path) / name
    path.write_text("\n".join(edit(path.read_text("latin-1").splitlines())), encoding="latin-1")
    with pytest.raises(ValueError, match=message) as caught:
        data.read(tmp_path)
    assert data.URL in str(caught.value)
    assert str(path) in str(caught.value)


# -- split and histories ---------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.1, 0.2, 0.5]))
def test_held_out_are_the_last_of_each_user(seed: int, share: float) -> None:
    ratings = random_ratings(np.random.default_rng(seed), users=6, most=15)
    held_out = data.hold_out(ratings, share)
    for user in np.unique(ratings.user):
        mine = ratings.user == user
        kept, later = ratings.time[mine & ~held_out], ratings.time[mine & held_out]
        assert len(later) == int(np.floor(mine.sum() * share + 0.5))
        assert not len(kept) or not len(later) or kept.max() <= later.min()


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    recent=st.integers(1, 6),
    most=st.integers(1, 12),
    decay_days=st.floats(0.5, 50),
)
def test_histories_hold_only_earlier_training_ratings(
    seed: int, recent: int, most: int, decay_days: float
) -> None:
    """Ids, row splits, weights and counts of a batch against a plain loop over all ratings."""
    rng = np.random.default_rng(seed)
    ratings = random_ratings(rng, users=5, most=15)
    held_out = data.hold_out(ratings)
    if not (~held_out).any():
        return
    samples = data.Samples(
        ratings, no_genres(), held_out, recent=recent, most=most, decay_days=decay_days
    )
    rows = rng.integers(0, len(ratings), 12)
    batch = samples.batch(rows)

    train = ratings[~held_out]
    total, count = np.full(MOVIES, 5 * train.stars.mean(dtype=np.float64)), np.full(MOVIES, 5)
    np.add.at(total, train.movie, train.stars)
    np.add.at(count, train.movie, 1)
    for place, row in enumerate(rows):
        now = ratings.time[row]
        past = [
            other
            for other in range(len(ratings))
            if ratings.user[other] == ratings.user[row]
            and ratings.time[other] < now
            and not held_out[other]
        ]
        watched = past[-most:]
        decay = np.exp(-(now - ratings.time[watched]) / (86_400 * decay_days))
        surplus = ratings.stars[watched] - (total / count)[ratings.movie[watched]]
        assert bag(batch.features["watched"], place) == ratings.movie[watched].tolist()
        assert bag(batch.features["taste"], place) == ratings.movie[watched].tolist()
        assert bag(batch.features["recent"], place) == ratings.movie[past[-recent:]].tolist()
        assert bag(batch.weights["watched"], place) == pytest.approx(decay, rel=1e-5)
        assert bag(batch.weights["taste"], place) == pytest.approx(decay * surplus, abs=1e-5)
        assert batch.numbers[place, 1] == len(past[-recent:])
    assert batch.numbers[:, 0].tolist() == ratings.stars[rows].tolist()
    assert batch.features["movie"].tolist() == ratings.movie[rows].tolist()
    assert batch.features["user"].tolist() == ratings.user[rows].tolist()


def bag(values: object, place: int) -> list[float]:
    assert isinstance(values, tte.Ragged)
    return values.values[values.row_splits[place] : values.row_splits[place + 1]].tolist()


def test_genres_of_a_batch(folder: Path) -> None:
    ratings, movies = data.read(folder)
    samples = data.Samples(ratings, movies, data.hold_out(ratings))
    rows = np.arange(0, len(ratings), 7)
    genres = samples.batch(rows).features["genres"]
    for place, movie in enumerate(ratings.movie[rows]):
        wanted = movies.genres[movies.splits[movie] : movies.splits[movie + 1]]
        assert bag(genres, place) == wanted.tolist()


# -- baselines and model ---------------------------------------------------------------------------


def test_biases_solve_the_normal_equations(folder: Path) -> None:
    ratings, _ = data.read(folder)
    biases = data.fit_biases(ratings, USERS, MOVIES, user_penalty=3.0, movie_penalty=0.5)
    design = np.zeros((len(ratings), USERS + MOVIES))
    design[np.arange(len(ratings)), ratings.user] = 1
    design[np.arange(len(ratings)), USERS + ratings.movie] = 1
    penalty = np.diag([3.0] * USERS + [0.5] * MOVIES)
    target = design.T @ (ratings.stars - ratings.stars.mean())
    exact = np.linalg.solve(design.T @ design + penalty, target)
    np.testing.assert_allclose(np.concatenate([biases.user, biases.movie]), exact, atol=1e-4)


def test_penalties_are_chosen_without_the_held_out_part(folder: Path) -> None:
    ratings, _ = data.read(folder)
    late = data.hold_out(ratings)
    early, later = ratings[~late], ratings[late]
    _, chosen = data.choose_biases(ratings, USERS, MOVIES, penalties=(0.1, 2, 50))
    scores = {
        (user, movie): data.rmse(
            data.fit_biases(early, USERS, MOVIES, user, movie).predict(later), later.stars
        )
        for user in (0.1, 2, 50)
        for movie in (0.1, 2, 50)
    }
    assert chosen == min(scores, key=lambda pair: scores[pair])


def test_attention_ignores_empty_places() -> None:
    model = RatingModel(mean=3.0, dim=4, length=5, dropout=0.0)
    movie, recent = torch.randn(2, 4), torch.randn(2, 5, 4)
    recent[0, 2:], recent[1] = 0.0, 0.0
    got = model.attend(movie, recent, torch.tensor([2.0, 0.0]))
    weights = (recent[0, :2] @ movie[0] / 2).softmax(0)
    torch.testing.assert_close(got, torch.stack([weights @ recent[0, :2], torch.zeros(4)]))


def test_dropout_on_the_device_follows_its_own_seed() -> None:
    ones = torch.ones(1000, device=tte.runtime.device())

    def drawn(seed: int) -> torch.Tensor:
        tte.runtime.manual_seed(seed)
        return torch.nn.functional.dropout(ones, 0.5).cpu()

    first, same, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# -- program ---------------------------------------------------------------------------------------


def test_a_short_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, results = tmp_path / "plots" / "curves.png", tmp_path / "results.json"
    options = ["--data", str(folder), *FEW, "--lr", "0.1", "--seeds", SEEDS, "--check", "0.0001"]
    status = train_movielens.main([*options, "--plot", str(picture), "--json", str(results)])
    printed = capsys.readouterr().out
    content = json.loads(results.read_text())
    assert picture.read_bytes().startswith(b"\x89PNG")
    steps = 480 // 64
    for run in content["runs"]:
        assert len(run["losses"]) == 2 * steps
        assert len(run["rmses"]) == 3
        assert run["rmses"][-1] < run["rmses"][0]
        assert run["compiles_after_warm_up"] == 0
    for name, value in content["results"].items():
        assert name in printed
        assert value in printed
    assert content["results"]["operators that fell back to the host"] == "none"
    assert "Star Wars (1977): Film n°" in printed
    best = min(content["baselines"].values())
    beaten = best - max(run["rmses"][-1] for run in content["runs"]) >= 0.0001
    assert status == (0 if beaten else 1)
    assert ("check passed" if beaten else "check FAILED") in printed


def test_tables_in_bfloat16_learn_beside_float32_ones(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    options = ["--data", str(folder), *FEW, "--lr", "0.1", "--seeds", SEEDS, "--tables", "bfloat16"]
    assert train_movielens.main([*options, "--json", str(results)]) == 0
    for run in json.loads(results.read_text())["runs"]:
        assert run["rmses"][-1] < run["rmses"][0]
        assert run["compiles_after_warm_up"] == 0


def test_a_check_that_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_movielens.main(["--data", str(folder), *FEW, "--check", "4"]) == 1
    assert "check FAILED" in capsys.readouterr().out


def test_validation_leaves_the_test_part_alone(folder: Path) -> None:
    options = train_movielens.parse_args(["--data", str(folder), *FEW])
    whole = train_movielens.load(options)
    options.validate = True
    part = train_movielens.load(options)
    assert len(part.ratings) == len(whole.train)
    assert (part.ratings.movie == whole.train.movie).all()
    assert part.held_out.tolist() == data.hold_out(whole.train).tolist()


def test_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_movielens.main([]) == 2
    message = capsys.readouterr().err
    assert data.URL in message
    assert "licence" in message


def test_data_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_movielens.main(["--data", str(folder / "elsewhere")]) == 2
    assert "u.item is not there; unpack ml-100k.zip" in capsys.readouterr().err
    assert train_movielens.main(["--data", str(folder), "--batch-size", "1000"]) == 2
    assert "480 ratings to train on and 120 held out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "'0' is not a whole number of at least 1"),
        (["--lr", "-1"], "'-1' is not a number above 0"),
        (["--seeds", "1,1"], "'1,1' names a seed twice"),
    ],
)
def test_wrong_options(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train_movielens.main(options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
