"""Your submissions and their scores: `submissions.py [--config CONFIG]`."""

from core.commands import Parser
from core.errors import command
from download import competition
from leaderboard import client


def main(argv: list[str]) -> None:
    parser = Parser("submissions")
    parser.add_argument("--config", default="modelB", help="whose competition (modelB)")
    slug = competition(parser.parse_args(argv).config).slug
    client.owner()
    rows = client.submissions(slug)
    for row in rows:
        scores = "  ".join(f"{row.get(name) or '-':>10}" for name in ("publicScore", "privateScore"))
        print(
            f"{row.get('date', '')[:16]}  {row['status']:10}  {scores}  {row.get('fileName')}  {row.get('description')}"
        )
    print(f"{len(rows)} submissions: {client.submissions_page(slug)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
