"""Name the movies that a user of train_retrieval.py might watch next, with torch and safetensors alone.

    python examples/train_retrieval.py --data ml-100k --export served
    python examples/serve_retrieval.py served --user 7
    python examples/serve_retrieval.py served --user 7 --watched 50,172,181

The user's vector is computed for each request, from the user's id and the movies watched last; those of the
movies are all there. The search is exact: one product with the whole index, and the best of the scores.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


class Server:
    """The files of `--export`, loaded; users and movies have the numbers 0, 1, 2 and so on here.

    Args:
        directory: what train_retrieval.py --export was given.

    Raises:
        OSError: a file is not there.
    """

    def __init__(self, directory: Path) -> None:
        about = json.loads((directory / "about.json").read_text())
        self.titles: list[str] = about["titles"]
        self.recent: int = about["recent"]
        movies, users = (
            load_file(directory / name) for name in ("movies.safetensors", "users.safetensors")
        )
        self.ids, self.vectors = movies["ids"], movies["vectors"]
        self.watched, self.splits = users["movies"], users["row_splits"]
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "The given buffer is not writable"
            )  # nobody writes it
            self.user_tower = torch.export.load(directory / "user_tower.pt2").module()

    @property
    def users(self) -> int:
        return len(self.splits) - 1

    def history(self, user: int) -> Tensor:
        """The movies of the training part that the user has watched, oldest first."""
        return self.watched[self.splits[user] : self.splits[user + 1]]

    @torch.no_grad()
    def top_k(self, user: int, watched: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Scores and ids of the `count` best movies that are not among `watched`, best first.

        Args:
            watched: movies, oldest first; the last ones are looked up.
        """
        recent = watched[-self.recent :]
        features = {
            "user": torch.tensor([user]),
            "watched": (recent, torch.tensor([0, len(recent)])),
        }
        (vector,) = self.user_tower(features)
        scores = self.vectors @ vector
        scores[torch.isin(self.ids, watched)] = -torch.inf
        best = scores.topk(min(count, len(scores)))
        return best.values, self.ids[best.indices]


def movie_list(text: str) -> list[int]:
    """An option type: movie ids as in u.item, separated by commas."""
    parts = text.split(",") if text else []
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not whole numbers from 1, separated by commas"
        )
    return [int(part) for part in parts]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("directory", type=Path, metavar="DIR", help="what train_retrieval.py --export has written")
    add("--user", type=int, required=True, metavar="N", help="the user's id, from 1, as in u.data")
    text = (
        "ids of movies watched, from 1, the last one last, in place of those of the training part"
    )
    add("--watched", type=movie_list, metavar="N,N,…", help=text)
    add("--top", type=int, default=10, metavar="K", help="movies to name (default: %(default)s)")
    return parser.parse_args(argv)


def wrong(args: argparse.Namespace, server: Server) -> str:
    """The message about an option that the files have no answer to, or nothing."""
    if not 1 <= args.user <= server.users:
        return f"--user {args.user} is none of the users 1 to {server.users}"
    if args.top < 1:
        return f"--top {args.top} must be at least 1"
    for movie in args.watched or []:
        if movie > len(server.titles):
            return f"--watched {movie} is none of the movies 1 to {len(server.titles)}"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Answer one request; returns the exit status."""
    args = parse_args(argv)
    try:
        server = Server(args.directory)
    except OSError as error:
        print(
            f"serve_retrieval.py: error: {error}; give the folder that train_retrieval.py --export wrote",
            file=sys.stderr,
        )
        return 2
    if message := wrong(args, server):
        print(f"serve_retrieval.py: error: {message}", file=sys.stderr)
        return 2
    history = server.history(args.user - 1)
    if args.watched is not None:
        history = torch.tensor([movie - 1 for movie in args.watched], dtype=torch.int64)
    last = ", ".join(server.titles[movie] for movie in history[-3:].tolist())
    print(f"user {args.user}, {len(history)} movies watched, last: {last or 'none'}")
    scores, movies = server.top_k(args.user - 1, history, args.top)
    for place, (score, movie) in enumerate(zip(scores.tolist(), movies.tolist(), strict=True), 1):
        print(f"{place:>3}   {score:7.3f}   {server.titles[movie]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
