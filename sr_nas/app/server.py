"""The command ``app``: a page on this machine where a browser sends photos, compares and downloads results."""

from __future__ import annotations

import contextlib
import math
import secrets
import socket
import zipfile
from argparse import Namespace
from collections.abc import AsyncIterator
from pathlib import Path

from sr_nas.app.photos import SIDES, SUFFIXES, WINDOW, Photo, PhotoQueue
from sr_nas.errors import UserError, absent
from sr_nas.export.model import load_model, shipped, shipped_file
from sr_nas.runs.device import pick_device, use_threads

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles
except ImportError as error:
    raise UserError(f"{error.name} is not installed: pip install 'sr_nas[app]'.") from error

LOOPBACK = ["127.0.0.1", "localhost", "::1", "[::1]"]
# A report may run its own script, but reaches neither the page nor the network.
SANDBOX = "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
HEADERS = [("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "SAMEORIGIN"), ("Cache-Control", "no-store")]
FIELDS = ("name", "model", "state", "share", "message", "size", "scale")


def main(args: Namespace) -> int:
    """Run ``app`` until it is stopped."""
    models: dict[str, str | Path] = {}
    remark = "Its network is the first in the list under Photos."
    if args.run is not None:
        if not args.run.is_dir():
            raise UserError(f"--run: {args.run} {'is no folder of a run' if args.run.exists() else absent(args.run)}.")
        try:
            load_model(args.run)
            models[f"{args.run.resolve().name} (run)"] = args.run
        except UserError as error:
            remark = str(error)  # a search perhaps, whose report is shown all the same
    for name in args.model:
        load_model(name)
        models[Path(name).name if Path(name).name not in models else name] = name
    for name in sorted(shipped(), key=lambda name: name != "x2"):  # which is what inference takes by default
        models.setdefault(name, shipped_file(name))
    if not models and args.run is None:
        raise UserError("no network ships with this copy of sr_nas: name one with --model, a file or the folder of a training.")
    use_threads(args.num_threads)
    device = pick_device(args.num_gpu if args.num_gpu == "auto" else int(args.num_gpu))
    try:
        listener = socket.create_server((args.host, args.port), family=socket.AF_INET6 if ":" in args.host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        text = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise UserError(f"--host {args.host} --port {args.port}: {text}. --port 0 takes one that is free.") from error
    if args.host not in LOOPBACK:
        print(f"warning: whoever reaches {args.host} over the network can use this page: no password, nothing encrypted.")
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"http://{host}:{listener.getsockname()[1]} (Ctrl-C ends it and deletes what was uploaded)", flush=True)
    queue = PhotoQueue(models, 1e6 * args.max_megapixels, device)
    page = Page(queue, 1e6 * args.max_mb, args.run, remark).application(LOOPBACK if args.host in LOOPBACK else ["*"])
    with contextlib.suppress(KeyboardInterrupt):
        config = uvicorn.Config(page, log_level="warning", headers=HEADERS, timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])
    return 0


class Page:
    """What the page asks for: the state of its photos, uploads, views, downloads, and the report of the run, if any."""

    def __init__(self, queue: PhotoQueue, most_bytes: float, run: Path | None, remark: str) -> None:
        self.queue, self.most_bytes, self.run = queue, most_bytes, run
        limits = {"megabytes": most_bytes / 1e6, "megapixels": queue.most_pixels / 1e6, "window": WINDOW}
        self.fixed = {"models": list(queue.models), "suffixes": SUFFIXES, "run": run is not None, "remark": remark} | limits

    def _sent(self, request: Request) -> dict[str, Photo]:
        session = request.query_params.get("session")
        return {key: photo for key, photo in list(self.queue.photos.items()) if photo.session == session}

    async def _state(self, request: Request) -> Response:
        photos = {key: {name: getattr(photo, name) for name in FIELDS} for key, photo in self._sent(request).items()}
        return JSONResponse(self.fixed | {"photos": photos})

    async def _upload(self, request: Request) -> Response:
        key, photo = self.queue.new(*(request.query_params.get(name, "") for name in ("session", "name", "model")))
        received = 0
        try:
            with photo.source.open("wb") as file:
                async for chunk in request.stream():  # to its end, since browsers do not listen before
                    received += len(chunk)
                    if received <= self.most_bytes:
                        file.write(chunk)
            if received > self.most_bytes:
                raise UserError(f"{photo.name} is larger than the {self.most_bytes / 1e6:g} MB of --max_mb.")
            self.queue.enqueue(photo)
        except (UserError, OSError) as error:
            photo.source.unlink(missing_ok=True)
            photo.fail(error)
        except ClientDisconnect:
            self.queue.remove(key)
        return Response()

    async def _remove(self, request: Request) -> Response:
        self.queue.remove(request.path_params["key"])
        return Response()

    def _done(self, request: Request) -> Photo:
        """Return the photo of an address; what is not there yet is not found either."""
        photo = self.queue.photos[request.path_params["key"]]
        if photo.state != "done":
            raise KeyError(photo.name)
        return photo

    async def _result(self, request: Request) -> Response:
        photo = self._done(request)
        return FileResponse(photo.result, filename=photo.result_name)

    def _view(self, request: Request) -> Response:
        photo, side = self._done(request), request.path_params["side"]
        try:
            x, y = (float(request.query_params.get(name, 0.5)) for name in ("x", "y"))
        except ValueError:
            return Response(status_code=400)
        if side not in SIDES or not math.isfinite(x + y):
            return Response(status_code=400)
        return Response(self.queue.view(photo, side, x, y), media_type="image/png")

    def _archive(self, request: Request) -> Response:
        path = self.queue.folder / f"{secrets.token_hex(8)}.zip"
        with zipfile.ZipFile(path, "w") as file:  # images are compressed already
            for key, photo in self._sent(request).items():
                if photo.state == "done":
                    taken = photo.result_name in file.namelist()
                    with contextlib.suppress(FileNotFoundError):  # of one that was removed meanwhile
                        file.write(photo.result, f"{key}_" * taken + photo.result_name)
        return FileResponse(path, filename="upscaled.zip", background=BackgroundTask(path.unlink))

    async def _report(self, _: Request) -> Response:
        if self.run is None or not (self.run / "report.html").is_file():
            return Response(f"No report.html yet: sr-nas report {self.run} writes one.", media_type="text/plain")
        return FileResponse(self.run / "report.html", headers={"Content-Security-Policy": SANDBOX})

    def application(self, hosts: list[str]) -> Starlette:
        """Return the web application; ``hosts`` are its names, since one of elsewhere may be led here (DNS rebinding)."""

        @contextlib.asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            self.queue.close()

        routes = [
            Route("/state", self._state),
            Route("/photos", self._upload, methods=["PUT"]),  # which, as DELETE, no page of elsewhere can send
            Route("/photos/{key}", self._remove, methods=["DELETE"]),
            Route("/photos/{key}/result", self._result),
            Route("/photos/{key}/{side}", self._view),
            Route("/upscaled.zip", self._archive),
            Route("/report", self._report),
            Mount("/", StaticFiles(directory=Path(__file__).with_name("page"), html=True)),
        ]
        middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
        absent = {KeyError: lambda *_: Response(status_code=404)}
        return Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=absent)
