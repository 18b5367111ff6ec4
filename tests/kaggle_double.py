"""A loopback stand-in for the Kaggle web service, for tests with the unmodified command-line client.

It speaks the wire protocol of the clients 2.2.x (camelCase JSON, `POST /api/v1/<service>/<Method>`), really runs the
Python scripts that are pushed, in a folder laid out like /kaggle, and misbehaves on request (see `Double.faults`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import unicodedata
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

USERNAME = "tester"
KEY = "a-secret-that-must-never-be-seen"
MAX_SOURCE_BYTES = 1_000_000
# the calls that are answered: each is a method of Double with its name on the wire
SERVICES = {
    "security.OAuthService": "IntrospectToken",
    "competitions.CompetitionApiService": (
        "ListDataFiles DownloadDataFiles StartSubmissionUpload CreateSubmission GetSubmissionLimits ListSubmissions"
    ),
    "kernels.KernelsApiService": (
        "SaveKernel GetKernelSessionStatus ListKernelSessionOutput GetAcceleratorQuotaStatistics"
    ),
    "datasets.DatasetApiService": "GetDatasetStatus CreateDataset",
    "blobs.BlobApiService": "StartBlobUpload",
}
NEEDS_RULES = {"DownloadDataFiles", "StartSubmissionUpload", "CreateSubmission"}
DEAD_PROXY = "http://127.0.0.1:9"
ERROR_PAGE = b"<!DOCTYPE html><html><head><title>Kaggle</title></head><body>Something went wrong</body></html>\n"


class Refusal(Exception):
    """An error reply in the form that the client shows: JSON with `code` and `message` at the top level."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Run:
    """One version of a kernel: its process and where its output and log lie now."""

    slug: str
    version: int
    process: subprocess.Popen[bytes]
    working: Path
    log: Path
    cancelled: tuple[str, str] | None = None  # (status, failure message) where the service ended the session

    def state(self) -> dict[str, str]:
        """The reply to GetKernelSessionStatus."""
        if self.cancelled:
            return {"status": self.cancelled[0], "failureMessage": self.cancelled[1]}
        code = self.process.poll()
        if code is None:
            return {"status": "RUNNING"}
        return (
            {"status": "COMPLETE"} if code == 0 else {"status": "ERROR", "failureMessage": f"Exited with code {code}"}
        )

    def kill(self) -> bool:
        """End the process and all that it started; whether it still ran."""
        if running := self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        return running


def slugify(title: str) -> str:
    """The slug that the service derives from a title."""
    ascii_only = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only.replace("'", "")).strip("-")


def set_modes(folder: Path, file_mode: int, folder_mode: int) -> None:
    """Change the mode of a folder and of everything in it (links are left alone)."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(folder_mode if path.is_dir() else file_mode)


def files_under(folder: Path) -> list[str]:
    """The files in a folder by their name relative to it, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


class Double:
    """A loopback stand-in for the Kaggle service that speaks its wire protocol to the unmodified client, and really
    runs what is pushed.

    There is one machine: a push ends whatever still runs. `faults` maps a misbehaviour to how many more times it
    happens: rules, push_error, invalid_sources, missing_after_push, throttled, cut, error_page, stale_output,
    upload_failed, session_limit, daily_limit (only refused submissions count this one down, not questions after the
    limit).
    """

    def __init__(self, folder: Path, data: Path, slug: str, mount: str = "new") -> None:
        if mount not in ("new", "old"):
            raise ValueError(f"mount is 'new' or 'old', not {mount!r}")
        self.folder, self.data, self.slug, self.mount = Path(folder).resolve(), Path(data).resolve(), slug, mount
        self.kaggle = self.folder / "kaggle"
        self.requests: list[tuple[str, str]] = []
        self.pushes: list[dict[str, Any]] = []
        self.submissions: list[tuple[bytes, str]] = []
        self.datasets: dict[str, dict[str, bytes]] = {}  # "owner/slug" -> file name -> content
        self.faults: dict[str, int] = {}
        self.page_size = 20
        self.daily_submissions = 5
        self.public_score = "-4.3"
        self.session_limit_status = "CANCEL_ACKNOWLEDGED"  # or "ERROR"
        self._runs: dict[str, list[Run]] = {}  # kernel slug -> its versions, oldest first
        self._current: Run | None = None
        self._uploads: dict[str, dict[str, Any]] = {}  # token -> {"kind", "name", "content"}
        self._submitted: list[dict[str, Any]] = []
        self._lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None

    # -- life --

    def __enter__(self) -> Double:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"double": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            if self._current:
                self._current.kill()
        if (self.kaggle / "input").is_dir():
            set_modes(self.kaggle / "input", 0o644, 0o755)  # so that the folder can be removed

    @property
    def url(self) -> str:
        """Where the server listens."""
        assert self._server is not None, "the double is not started"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """The variables that send the unmodified client here, and nothing anywhere else."""
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": self.url,
            "https_proxy": DEAD_PROXY,
            "no_proxy": "",
            "NO_PROXY": "",
            "HOME": str(home),
            "KAGGLE_USERNAME": USERNAME,
            "KAGGLE_KEY": KEY,
        }

    def fault(self, name: str) -> bool:
        """Whether this misbehaviour is due now; counts it down."""
        with self._lock:
            due = self.faults.get(name, 0) > 0
            if due:
                self.faults[name] -= 1
            return due

    def answer(self, path: str, body: dict[str, Any], authorization: str) -> dict[str, Any]:
        """The reply to one call of the API."""
        service, _, method = path.removeprefix("/api/v1/").partition("/")
        if method not in SERVICES.get(service, "").split():
            raise Refusal(404, f"Not found: {path}")
        basic = "Basic " + base64.b64encode(f"{USERNAME}:{KEY}".encode()).decode()
        if authorization not in (basic, f"Bearer {KEY}"):
            raise Refusal(401, "Unauthenticated")
        with self._lock:
            if service.startswith("competitions.") and body.get("competitionName") != self.slug:
                raise Refusal(404, f"Competition not found: {body.get('competitionName')}")
            if method in NEEDS_RULES and self.fault("rules"):
                raise Refusal(403, "You must accept this competition's rules before you'll be able to download files.")
            return getattr(self, method)(body)

    def _page(self, items: list[Any], body: dict[str, Any], start: int) -> tuple[list[Any], int]:
        """One page of a list, and where the next begins (0: there is none)."""
        end = start + min(self.page_size, body.get("pageSize") or self.page_size)
        return items[start:end], end if end < len(items) else 0

    # -- the API: one method per call, named as on the wire --

    def IntrospectToken(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"active": body.get("token") == KEY, "username": USERNAME}

    def ListDataFiles(self, body: dict[str, Any]) -> dict[str, Any]:
        names, following = self._page(files_under(self.data), body, int(body.get("pageToken") or 0))
        return {
            "nextPageToken": str(following or ""),
            "files": [
                {"name": n, "totalBytes": (self.data / n).stat().st_size, "creationDate": "2026-03-02T00:00:00Z"}
                for n in names
            ],
        }

    def DownloadDataFiles(self, body: dict[str, Any]) -> dict[str, Any]:
        archive = self.folder / f"{self.slug}.zip"
        if not archive.exists():
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
                for name in files_under(self.data):
                    out.write(self.data / name, name)
        return {"redirect": f"{self.url}/data/{archive.name}"}

    def StartSubmissionUpload(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._start_upload("submission", body.get("fileName", ""))

    def StartBlobUpload(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._start_upload("blob", body.get("name", ""))

    def _start_upload(self, kind: str, name: str) -> dict[str, Any]:
        token = f"{kind}-{len(self._uploads) + 1}"
        self._uploads[token] = {"kind": kind, "name": name, "content": None}
        return {"token": token, "createUrl": f"{self.url}/upload/{token}"}

    def CreateSubmission(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.fault("daily_limit") or len(self._submitted) >= self.daily_submissions:
            raise Refusal(400, "You have reached the daily submission limit for this competition.")
        content, name = self._uploaded(body.get("blobFileTokens", ""))
        message, ref = body.get("submissionDescription", ""), len(self._submitted) + 1
        self.submissions.append((content, message))
        self._submitted.append(
            {
                "ref": ref,
                "fileName": name,
                "description": message,
                "totalBytes": len(content),
                "status": "COMPLETE",
                "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "publicScore": self.public_score,
            }
        )
        return {"message": f"Successfully submitted to {self.slug}", "ref": ref}

    def _uploaded(self, token: str) -> tuple[bytes, str]:
        upload = self._uploads.get(token)
        if upload is None or upload["content"] is None:
            raise Refusal(400, f"Nothing was uploaded as {token!r}")
        return upload["content"], upload["name"]

    def GetSubmissionLimits(self, body: dict[str, Any]) -> dict[str, Any]:
        left = 0 if self.faults.get("daily_limit", 0) > 0 else max(0, self.daily_submissions - len(self._submitted))
        return {"numToday": len(self._submitted), "numTotal": len(self._submitted), "numAllowedNow": left}

    def ListSubmissions(self, body: dict[str, Any]) -> dict[str, Any]:
        page, following = self._page(self._submitted[::-1], body, int(body.get("pageToken") or 0))
        return {"submissions": page, "nextPageToken": str(following or "")}

    def GetAcceleratorQuotaStatistics(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"gpuQuota": {"timeUsed": "3600s", "totalTimeAllowed": "108000s"}}

    def GetDatasetStatus(self, body: dict[str, Any]) -> dict[str, Any]:
        if f"{body.get('ownerSlug')}/{body.get('datasetSlug')}" not in self.datasets:
            raise Refusal(404, "Dataset not found")
        return {"status": "READY"}

    def CreateDataset(self, body: dict[str, Any]) -> dict[str, Any]:
        ref = f"{body.get('ownerSlug')}/{body.get('slug')}"
        uploaded = [self._uploaded(file["token"]) for file in body.get("files", [])]
        self.datasets[ref] = {name: content for content, name in uploaded}
        return {"status": "ok", "ref": ref, "url": f"https://www.kaggle.com/datasets/{ref}"}

    def SaveKernel(self, body: dict[str, Any]) -> dict[str, Any]:
        self.pushes.append(body)
        owner, _, asked = (body.get("slug") or "").partition("/")
        text, title = body.get("text") or "", body.get("newTitle") or asked
        if owner != USERNAME:
            raise Refusal(403, f"Permission denied: kernels of {owner!r}")
        if self.fault("push_error"):
            return {"error": "Maximum batch GPU session count of 2 reached."}
        if len(text.encode()) >= MAX_SOURCE_BYTES:
            return {"error": f"The source is too large: {MAX_SOURCE_BYTES} bytes or more."}
        if not 5 <= len(title) <= 50 or not slugify(title):
            return {"error": "The title must have 5 to 50 characters."}
        if (body.get("language"), body.get("kernelType")) != ("python", "script"):
            return {"error": "This stand-in runs Python scripts only."}
        refuse_all = self.fault("invalid_sources")
        competitions, kernels = body.get("competitionDataSources", []), body.get("kernelDataSources", [])
        bad_competitions = [c for c in competitions if refuse_all or c != self.slug]
        known = {f"{USERNAME}/{name}": versions[-1] for name, versions in self._runs.items() if versions}
        bad_kernels = [k for k in kernels if k not in known]
        self._set_current_aside()
        sources = {known[k].slug: known[k].working for k in kernels if k in known}
        if self.slug in competitions and not bad_competitions:
            sources[f"competitions/{self.slug}" if self.mount == "new" else self.slug] = self.data
        datasets = body.get("datasetDataSources", [])
        for name in [one for one in datasets if one in self.datasets]:
            sources[f"datasets/{name}" if self.mount == "new" else name.partition("/")[2]] = kept = (
                self.folder / "datasets" / name
            )
            kept.mkdir(parents=True, exist_ok=True)
            for file, content in self.datasets[name].items():
                (kept / file).parent.mkdir(parents=True, exist_ok=True)
                (kept / file).write_bytes(content)
        slug = slugify(title)
        run = self._start(slug, text, sources)
        reply = {
            "ref": f"/code/{owner}/{slug}",
            "url": f"https://www.kaggle.com/code/{owner}/{slug}",
            "versionNumber": run.version,
            "kernelId": 1 + list(self._runs).index(slug),
            "invalidCompetitionSources": bad_competitions,
            "invalidKernelSources": bad_kernels,
            "invalidDatasetSources": [one for one in datasets if one not in self.datasets],
        }
        return {key: value for key, value in reply.items() if value != []}

    def _set_current_aside(self) -> None:
        """End the run that has the machine and keep its output and log as that version's."""
        run, self._current = self._current, None
        if run is None:
            return
        if run.kill():
            run.cancelled = ("CANCEL_ACKNOWLEDGED", "Cancelled by a newer push")
        kept = self.folder / "versions" / run.slug / str(run.version)
        kept.mkdir(parents=True)
        run.working, run.log = run.working.rename(kept / "working"), run.log.rename(kept / "kaggle.log")

    def _start(self, slug: str, text: str, sources: dict[str, Path]) -> Run:
        """Lay out a fresh /kaggle and start the script in it; sources: name under input -> folder to copy there."""
        if (self.kaggle / "input").exists():
            set_modes(self.kaggle / "input", 0o644, 0o755)
            shutil.rmtree(self.kaggle)
        for name in ("src", "input", "working"):
            (self.kaggle / name).mkdir(parents=True)
        for name, source in sources.items():
            shutil.copytree(source, self.kaggle / "input" / name, ignore_dangling_symlinks=True)
        set_modes(self.kaggle / "input", 0o444, 0o555)
        script, home, log = self.kaggle / "src" / "script.py", self.folder / "home", self.folder / "kaggle.log"
        script.write_bytes(text.encode())
        home.mkdir(exist_ok=True)
        environment = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ} | {
            "HOME": str(home),
            "CXR_KAGGLE": str(self.kaggle),
            "NO_ALBUMENTATIONS_UPDATE": "1",
            "http_proxy": DEAD_PROXY,
            "https_proxy": DEAD_PROXY,
        }
        working, versions = self.kaggle / "working", self._runs.setdefault(slug, [])
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(script)],
                cwd=working,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._current = Run(slug, len(versions) + 1, process, working, log)
        versions.append(self._current)
        return self._current

    def _versions(self, body: dict[str, Any]) -> list[Run]:
        versions = self._runs.get(body.get("kernelSlug", "")) if body.get("userName") == USERNAME else None
        if not versions:
            raise Refusal(404, f"Kernel not found: {body.get('userName')}/{body.get('kernelSlug')}")
        return versions

    def GetKernelSessionStatus(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.fault("throttled"):
            raise Refusal(429, "Too many requests")
        if self.fault("missing_after_push"):
            raise Refusal(404, f"Kernel not found: {body.get('userName')}/{body.get('kernelSlug')}")
        run = self._versions(body)[-1]
        if run.state()["status"] == "RUNNING" and self.fault("session_limit"):
            run.kill()
            run.cancelled = (self.session_limit_status, "Your notebook exceeded the session time limit")
        return dict(run.state())

    def ListKernelSessionOutput(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.fault("throttled"):
            raise Refusal(429, "Too many requests")
        versions = self._versions(body)
        token, start = body.get("pageToken") or "", 0
        if token:  # "<version>:<offset>": all pages come from one version
            version, start = map(int, token.split(":"))
        else:
            version = len(versions) - self.fault("stale_output")
        if version == 0:
            return {"files": [], "log": "[]", "nextPageToken": ""}
        run = versions[version - 1]
        names, following = self._page(
            files_under(run.working) if run.state()["status"] != "RUNNING" else [], body, start
        )
        lines = run.log.read_text(errors="replace").splitlines(keepends=True)
        return {
            "files": [
                {"url": f"{self.url}/output/{run.slug}/{version}/{quote(name)}", "fileName": name} for name in names
            ],
            "log": json.dumps([{"stream_name": "stdout", "time": 0.0, "data": line} for line in lines]),
            "nextPageToken": f"{version}:{following}" if following else "",
        }

    def stored(self, path: str) -> Path | None:
        """The file behind an address that this service gave out, or None."""
        with self._lock:
            if path == f"/data/{self.slug}.zip":
                folder, name = self.folder, path.rpartition("/")[2]
            else:
                match = re.fullmatch(r"/output/([^/]+)/(\d+)/(.+)", path)
                if not match or not 1 <= int(match[2]) <= len(self._runs.get(match[1], [])):
                    return None
                folder, name = self._runs[match[1]][int(match[2]) - 1].working, unquote(match[3])
            file = (folder / name).resolve()
            return file if file.is_file() and file.is_relative_to(folder.resolve()) else None


class Handler(BaseHTTPRequestHandler):
    """The HTTP side: reads requests (also in a proxy's absolute form), records them and writes replies."""

    double: Double
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _reply(self, code: int, content: bytes, kind: str, sent: int | None = None, **headers: str) -> None:
        """Write a reply; `sent` cuts the body off after that many bytes."""
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close"}.items():
            self.send_header(name, value)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
        self.close_connection = True

    def _read(self) -> bytes:
        """The body of the request, with a length or in chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _handle(self) -> None:
        address, double = urlsplit(self.path), self.double
        here = address.netloc in ("", "localhost", urlsplit(double.url).netloc)
        path = address.path if here else self.path
        double.requests.append((self.command, path))
        content = self._read()
        try:
            if self.command == "POST" and path.startswith("/api/v1/"):
                reply = double.answer(path, json.loads(content or b"{}"), self.headers.get("Authorization", ""))
                if "redirect" in reply:
                    self._reply(302, b"", "text/html", Location=reply["redirect"])
                else:
                    self._reply(200, json.dumps(reply).encode(), "application/json")
            elif self.command == "PUT" and path.removeprefix("/upload/") in double._uploads:
                upload = double._uploads[path.removeprefix("/upload/")]
                if upload["kind"] == "submission" and double.fault("upload_failed"):
                    raise Refusal(500, "Upload failed")
                upload["content"] = content
                self._reply(200, b"", "text/plain")
            elif self.command == "GET" and (file := double.stored(path)):
                self._send_file(file)
            else:
                raise Refusal(404, f"Not found: {path}")
        except Refusal as refusal:
            reply = {"code": refusal.code, "message": refusal.message}
            self._reply(refusal.code, json.dumps(reply).encode(), "application/json")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_CONNECT = _handle

    def _send_file(self, file: Path) -> None:
        """Serve a file as cloud storage does, ranges included."""
        if self.double.fault("error_page"):
            return self._reply(200, ERROR_PAGE, "text/html; charset=utf-8")
        content = file.read_bytes()
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {
            "ETag": tag,
            "Accept_Ranges": "bytes",
            "Last_Modified": formatdate(file.stat().st_mtime, usegmt=True),
        }
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        code, start = 200, int(span[1]) if span else 0
        if span and self.headers.get("If-Range", tag) in (tag, headers["Last_Modified"]):
            if start >= len(content):
                return self._reply(416, b"", "text/plain", Content_Range=f"bytes */{len(content)}")
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            code, content = 206, content[start:]
        sent = len(content) // 2 if self.double.fault("cut") else None
        self._reply(code, content, "application/octet-stream", sent, **headers)
