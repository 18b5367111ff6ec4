"""How a pushed kernel is doing: `status.py CONFIG [--wait] [--deadline MINUTES] [--every SECONDS]`."""

import time

from core.commands import Parser
from core.errors import UserError, command
from leaderboard import client
from leaderboard.kernels import ENDED, last_push

SETTLING = 120  # seconds after a push in which the service may not know it yet


def main(argv: list[str]) -> None:
    parser = Parser("status")
    parser.add_argument("config")
    parser.add_argument("--wait", action="store_true", help="until it has ended")
    parser.add_argument("--deadline", type=float, default=780, metavar="MINUTES", help="of the waiting (780)")
    parser.add_argument("--every", type=float, default=20, metavar="SECONDS", help="between two questions (20)")
    given = parser.parse_args(argv)
    pushed, start = last_push(given.config), time.monotonic()
    ref, address = pushed["ref"], f"{client.SITE}/code/{pushed['ref']}"
    while True:
        late = time.time() - pushed["time"] < SETTLING
        what = f"asking for the status of {ref}"
        reply = client.call("kernels_status", {"kernel": ref}, what, missing_is_busy=late)
        state = str(reply.get("status") or "QUEUED").upper()
        minutes = (time.monotonic() - start) / 60
        print(f"{ref} version {pushed['version']}: {state}, {minutes:.0f} min waited", flush=True)
        if state in ENDED or not given.wait:
            break
        if minutes > given.deadline:
            raise UserError(
                f"{ref} has not ended after {given.deadline:g} minutes; the same command waits on, and {address}"
                " shows it"
            )
        time.sleep(given.every)
    if state in ENDED - {"COMPLETE"}:
        reason = reply.get("failureMessage")
        raise UserError(
            f"the kernel ended as {state}{f' ({reason})' if reason else ''}: its log is at {address}; after a cut"
            f" session, ./run.sh push {given.config} --resume goes on"
        )
    print(address)


if __name__ == "__main__":
    raise SystemExit(command(main))
