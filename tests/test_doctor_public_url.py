"""The way to the public URL: every way in which it can be broken, each by a real little server that is broken so."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.server

from tests.transports.rest_server import Answer, RestServer
from tests.tunnel import HOST, Tunnel, free_port, make_certificate, resolve_public_names, without_upgrade
from voice_runtime.clock import SystemClock
from voice_runtime.config import Settings
from voice_runtime.doctor_public_url import (
    Reply,
    RoundTrip,
    judge_stream,
    judge_webhook,
    nobody_serves,
    walk_stream,
    walk_webhook,
)
from voice_runtime.doctor_report import Check
from voice_runtime.doctor_steps import Steps
from voice_runtime.server import VoiceServer
from voice_runtime.session import VoiceSession

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def unused_port() -> int:
    return free_port()


@pytest.fixture
def steps() -> Steps:
    return Steps(SystemClock(), 5)


def settings(url: str, **values: Any) -> Settings:
    return Settings(
        **{"voice_stream_url": url, "twilio_auth_token": TOKEN, "voice_server_host": "127.0.0.1", **values}
    )


class Never(VoiceSession):
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        super().__init__()


@contextlib.contextmanager
def serving(own: Settings, **options: Any) -> Iterator[VoiceServer]:
    Never.made = 0
    with VoiceServer(Never, stt="mock", tts="mock", settings=own, **options).running() as server:
        yield server
        assert Never.made == 0
        assert server.calls == []


def webhook(url: str, steps: Steps, **values: Any) -> Check:
    return judge_webhook(walk_webhook(settings(url, **values), steps))


def stream(url: str, steps: Steps, **values: Any) -> Check:
    return judge_stream(walk_stream(settings(url, **values), steps))


def ws(server: RestServer) -> str:
    return server.url.replace("http:", "ws:")


class TestRight:
    """A server that is there."""

    def test_a_server_of_ours(self, steps: Steps, unused_port: int) -> None:
        """Webhook and handshake are accepted signed and refused otherwise, and no call comes of it."""
        own = settings(f"ws://127.0.0.1:{unused_port}", voice_server_port=unused_port)
        with serving(own):
            trip = walk_webhook(own, steps)
            assert trip.unsigned is not None
            assert trip.forged is not None
            assert (trip.signed.status, trip.unsigned.status, trip.forged.status) == (204, 403, 403)
            assert judge_webhook(trip).level == "ok"
            knocked = walk_stream(own, steps)
            assert (knocked.signed.status, knocked.signed.close_code) == (101, 1000)
            assert knocked.unsigned is not None
            assert knocked.forged is not None
            assert (knocked.unsigned.status, knocked.forged.status) == (403, 403)
            assert judge_stream(knocked).level == "ok"

    def test_signed_with_a_shared_key(self, steps: Steps, unused_port: int) -> None:
        """Where there is no auth token, with HMAC-SHA256."""
        own = settings(
            f"ws://127.0.0.1:{unused_port}",
            voice_server_port=unused_port,
            twilio_auth_token=None,
            twilio_shared_keys="SH1=secret",
        )
        with serving(own):
            assert judge_webhook(walk_webhook(own, steps)).level == "ok"
            assert judge_stream(walk_stream(own, steps)).level == "ok"

    def test_behind_tls_and_a_path(
        self, steps: Steps, unused_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the public name, through a proxy that ends TLS and takes a path off."""
        resolve_public_names(monkeypatch)
        certificate = make_certificate(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        with Tunnel(
            unused_port, certificate=certificate, rewrite=lambda head: head.replace(b" /tele/", b" /", 1)
        ).running() as tunnel:
            own = settings(f"wss://{HOST}:{tunnel.port}/tele", voice_server_port=unused_port)
            with serving(own):
                found = judge_webhook(walk_webhook(own, steps))
                assert found.level == "ok", found
                assert f"https://{HOST}:{tunnel.port}/tele/voice/check" in found.found
                found = judge_stream(walk_stream(own, steps))
                assert found.level == "ok", found


@contextlib.contextmanager
def sockets(handle: Any, **options: Any) -> Iterator[str]:
    """Another WebSocket server."""
    with websockets.sync.server.serve(handle, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


class TestNobody:
    """No answer at all. Each kind is told apart, for webhook and stream."""

    def both(self, url: str, steps: Steps, **values: Any) -> tuple[Check, Check]:
        return webhook(url, steps, **values), stream(url, steps, **values)

    def test_the_name_is_unknown(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        """DNS."""
        resolve_public_names(monkeypatch)
        for found in self.both("wss://voice.invalid", steps):
            assert found.level == "error"
            assert found.found == "The name voice.invalid is not known (DNS)."
            assert "name of a tunnel exists only while it runs" in found.advice

    def test_connection_refused(self, steps: Steps, unused_port: int) -> None:
        """Nobody listens."""
        for found in self.both(f"ws://127.0.0.1:{unused_port}", steps):
            assert found.level == "error"
            assert found.found == f"Nobody listens at 127.0.0.1 port {unused_port} (connection refused)."
            assert "Start the tunnel" in found.advice

    def test_no_answer_in_time(self, unused_port: int) -> None:
        """Somebody listens and says nothing; the deadline is kept."""
        clock = SystemClock()
        with socket.create_server(("127.0.0.1", unused_port)):
            began = clock.monotonic()
            found, other = self.both(f"ws://127.0.0.1:{unused_port}", Steps(clock, 0.3))
            assert clock.monotonic() - began < 3
        assert found.found == other.found == f"No answer from 127.0.0.1 port {unused_port} within 0.3 s."
        assert "Twilio gives up after 15 s" in found.advice

    def test_an_answer_that_drips(self) -> None:
        """A server that keeps every pause short but never ends is not waited for longer than the deadline."""
        clock = SystemClock()
        over = threading.Event()

        def drip(listening: socket.socket) -> None:
            client, _ = listening.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(b"HTTP/1.1 ")
                while not over.wait(0.05):
                    client.sendall(b"2")

        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=drip, args=(listening,))
            thread.start()
            try:
                began = clock.monotonic()
                port = listening.getsockname()[1]
                assert "within 0.5 s" in webhook(f"ws://127.0.0.1:{port}", Steps(clock, 0.5)).found
                assert clock.monotonic() - began < 2
            finally:
                over.set()
                thread.join()

    def test_the_connection_is_closed_or_reset(self, steps: Steps) -> None:
        """As a forwarded port does that leads nowhere."""
        with RestServer(Answer(reset=True)) as server:
            for found in self.both(ws(server), steps, voice_server_port=8123):
                assert found.found.endswith("closes the connection without an answer.")
                assert "forward to port 8123" in found.advice

    def test_a_certificate_nobody_vouches_for(
        self, steps: Steps, unused_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Self-signed."""
        resolve_public_names(monkeypatch)
        with Tunnel(unused_port, certificate=make_certificate(tmp_path)).running() as tunnel:
            for found in self.both(f"wss://{HOST}:{tunnel.port}", steps):
                assert found.level == "error"
                assert found.found == f"TLS with {HOST} port {tunnel.port} fails: self-signed certificate."
                assert "public authority" in found.advice

    def test_a_certificate_of_another_name(
        self, steps: Steps, unused_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Trusted, but for somebody else."""
        resolve_public_names(monkeypatch)
        certificate = make_certificate(tmp_path, "other.example.com")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        with Tunnel(unused_port, certificate=certificate).running() as tunnel:
            for found in self.both(f"wss://{HOST}:{tunnel.port}", steps):
                assert "Hostname mismatch" in found.found
                assert "for this very name" in found.advice

    def test_no_tls_where_it_is_expected(self, steps: Steps) -> None:
        """The URL has the server's own port."""
        with RestServer(Answer(status=404, body="")) as server:
            for found in self.both(server.url.replace("http:", "wss:"), steps, voice_server_port=8123):
                assert found.found.endswith("does not speak TLS.")
                assert "not the server's own (8123)" in found.advice


HTML = "text/html; charset=utf-8"


class TestWrongAnswers:
    """Somebody else answers, or our server does not get what was sent."""

    @pytest.mark.parametrize(
        ("answer", "found", "advice"),
        [
            (
                Answer(301, "", {"Location": "https://www.example.com/voice/check?session=secret"}),
                "HTTP 301, a redirect to https://www.example.com/voice/check.",
                "Twilio asks by GET, without the parameters",
            ),
            (Answer(308, "", {"Location": "/voice/check/"}), "a redirect to /voice/check/.", "Set VOICE_PUBLIC_URL"),
            (Answer(200, "<html>", {}, HTML), "HTTP 200, a web page.", "A tunnel's warning page or another site"),
            (Answer(200, "{}"), "HTTP 200.", "Another server answers: see where 127.0.0.1 leads"),
            (Answer(404, "{}"), "HTTP 404.", "mounted below a path: VOICE_PUBLIC_URL must hold it"),
            (Answer(502, "", {}, HTML), "HTTP 502, a web page.", "forward to port 8080"),
            (Answer(503, ""), "HTTP 503.", "reach no server"),
            (Answer(530, "", {}, HTML), "HTTP 530, a web page.", "reach no server"),
            (Answer(500, ""), "HTTP 500.", "its log says why"),
            (Answer(403, "<html>", {}, HTML), "HTTP 403, a web page.", "A proxy or firewall in front"),
            (Answer(401, ""), "HTTP 401.", "without a login"),
            (
                Answer(404, "<html>", {"Ngrok-Error-Code": "ERR_NGROK_3200"}, HTML),
                "HTTP 404, a web page (ERR_NGROK_3200).",
                "https://ngrok.com/docs/errors/err_ngrok_3200",
            ),
        ],
        ids=lambda value: f"{value.status}" if isinstance(value, Answer) else "",
    )
    def test_to_the_webhook(self, answer: Answer, found: str, advice: str, steps: Steps) -> None:
        """Each is an error that names the status, and says something of its own."""
        with RestServer(answer) as server:
            check = webhook(ws(server), steps)
            assert len(server.requests) == 1  # no redirect was followed, nothing repeated
        assert check.level == "error"
        assert check.found.endswith(found)
        assert advice in check.advice
        assert "secret" not in check.found + check.advice

    @pytest.mark.parametrize(
        ("status", "found", "advice"),
        [
            (302, "HTTP 302, a redirect to http://127.0.0.1/x.", "VOICE_STREAM_URL"),
            (200, "HTTP 200 instead of 101.", 'proxy_set_header Connection "upgrade"'),
            (426, "HTTP 426 instead of 101.", "pass WebSockets on"),
            (404, "HTTP 404.", "VOICE_STREAM_URL must hold it"),
            (502, "HTTP 502.", "reach no server"),
        ],
    )
    def test_to_the_handshake(self, status: int, found: str, advice: str, steps: Steps) -> None:
        """Likewise; a redirect is not followed."""
        asked: list[str] = []

        def answer(line: Any, request: Any) -> Any:
            asked.append(request.path)
            response = line.respond(status, "")
            response.headers["Location"] = "http://127.0.0.1/x?session=secret"
            response.headers["Set-Cookie"] = "one=1"
            response.headers["Set-Cookie"] = "two=2"
            return response

        with sockets(lambda line: None, process_request=answer) as url:
            check = stream(url, steps)
        assert asked == ["/voice/check"]
        assert check.level == "error"
        assert check.found.endswith(found)
        assert advice in check.advice

    def test_what_is_not_http(self, steps: Steps) -> None:
        """A server of another kind has the port."""

        def hello(listening: socket.socket) -> None:
            for _ in range(2):
                client, _address = listening.accept()
                with client:
                    client.recv(65536)
                    client.sendall(b"220 mail.example.com ESMTP\r\n\r\n")
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):  # closing over unread bytes would be a reset
                        pass

        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=hello, args=(listening,))
            thread.start()
            url = f"ws://127.0.0.1:{listening.getsockname()[1]}"
            for check in (webhook(url, steps), stream(url, steps)):
                assert check.found.endswith("gives an answer that is not HTTP/1.1.")
                assert "Another kind of server" in check.advice
            thread.join()

    @pytest.mark.parametrize(
        "other", [{"twilio_auth_token": "f" * 32}, {"voice_stream_url": "wss://old.example.com"}]
    )
    def test_a_server_with_other_settings(self, other: dict[str, Any], steps: Steps, unused_port: int) -> None:
        """Another token or another public URL: what is signed right is refused."""
        url = f"ws://127.0.0.1:{unused_port}"
        with serving(settings(url, voice_server_port=unused_port, **{"voice_stream_url": url, **other})):
            for check, variable in (
                (webhook(url, steps), "VOICE_PUBLIC_URL"),
                (stream(url, steps), "VOICE_STREAM_URL"),
            ):
                assert check.level == "error"
                assert check.found.endswith("HTTP 403: the signature does not match there.")
                assert f"another TWILIO_AUTH_TOKEN or {variable}" in check.advice

    def test_a_proxy_that_changes_the_path(self, steps: Steps, unused_port: int) -> None:
        """The app checks another URL than Twilio signed."""
        with Tunnel(
            unused_port, rewrite=lambda head: head.replace(b"/voice/check", b"/voice//check", 1)
        ).running() as t:
            url = f"ws://127.0.0.1:{t.port}"
            with serving(settings(url, voice_server_port=unused_port)):
                assert webhook(url, steps).level == "error"
                assert stream(url, steps).level == "error"

    @pytest.mark.parametrize("change", [(b"FromCity=&", b"FromCity=+&"), (b"%C3%85ke", b"%C3%86ke")])
    def test_a_proxy_that_changes_the_body(self, change: tuple[bytes, bytes], steps: Steps, unused_port: int) -> None:
        """A blank or a letter is enough."""
        sent: list[bytes] = []

        def rewrite(request: bytes) -> bytes:
            sent.append(request)
            changed = request.replace(*change)
            more = len(changed) - len(request)
            return re.sub(rb"(?i)(content-length: *)(\d+)", lambda m: m[1] + b"%d" % (int(m[2]) + more), changed)

        with Tunnel(unused_port, rewrite=rewrite).running() as tunnel:
            url = f"ws://127.0.0.1:{tunnel.port}"
            with serving(settings(url, voice_server_port=unused_port)):
                assert "HTTP 403" in webhook(url, steps).found
        assert change[0] in sent[0]
        assert b"user-agent: twilioproxy/1.1" in sent[0].lower()

    def test_a_proxy_without_websockets(self, steps: Steps, unused_port: int) -> None:
        """The handshake arrives as a GET, which is told from a wrong signature."""
        with Tunnel(unused_port, rewrite=without_upgrade).running() as tunnel:
            url = f"ws://127.0.0.1:{tunnel.port}"
            with serving(settings(url, voice_server_port=unused_port)):
                assert webhook(url, steps).level == "ok"
                check = stream(url, steps)
        assert check.level == "error"
        assert check.found.endswith("the handshake arrives as an ordinary request, without its Upgrade header.")
        assert "proxy_set_header Upgrade $http_upgrade" in check.advice

    def test_a_server_that_takes_everything(self, steps: Steps, unused_port: int) -> None:
        """insecure=True."""
        own = settings(f"ws://127.0.0.1:{unused_port}", voice_server_port=unused_port)
        with serving(own, insecure=True):
            for check in (judge_webhook(walk_webhook(own, steps)), judge_stream(walk_stream(own, steps))):
                assert check.level == "error"
                assert "without a signature" in check.found
                assert "insecure=True" in check.advice

    @pytest.mark.parametrize(("code", "found"), [(None, "but was not closed"), (1011, "was closed with code 1011")])
    def test_a_socket_of_somebody_else(self, code: int | None, found: str) -> None:
        """Accepted, but not as a server of ours does it."""
        over = threading.Event()

        def handle(line: websockets.sync.server.ServerConnection) -> None:
            if code is None:
                over.wait(10)
            else:
                line.close(code)

        with sockets(handle) as url:
            check = stream(url, Steps(SystemClock(), 1))
            over.set()
        assert check.level == "error"
        assert found in check.found
        assert "Another server answers" in check.advice


class TestJudgement:
    """Pure."""

    def trip(self, signed: Reply, *, unsigned: Reply | None = None, forged: Reply | None = None) -> RoundTrip:
        refused = Reply(status=403)
        return RoundTrip(
            url="https://voice.example.com/voice/check",
            port=8080,
            signed=signed,
            unsigned=unsigned or refused,
            forged=forged or refused,
        )

    def test_slow(self) -> None:
        """Well below Twilio's patience it is a warning."""
        check = judge_webhook(self.trip(Reply(status=204, seconds=6.2)))
        assert check.level == "warning"
        assert "6.2 s" in check.found

    @pytest.mark.parametrize("kind", ["unsigned", "forged"])
    def test_what_must_be_refused(self, kind: str) -> None:
        """By us, with 403: accepted is an error, another refusal a warning."""
        accepted = judge_webhook(self.trip(Reply(status=204), **{kind: Reply(status=204)}))
        assert accepted.level == "error"
        other = judge_webhook(self.trip(Reply(status=204), **{kind: Reply(status=429)}))
        assert (other.level, "HTTP 429" in other.found) == ("warning", True)

    @pytest.mark.parametrize(
        ("reply", "nobody"),
        [
            (Reply(failure="refused"), True),
            (Reply(failure="broken"), True),
            (Reply(status=502), True),
            (Reply(failure="dns"), False),
            (Reply(failure="timeout"), False),
            (Reply(status=204), False),
            (Reply(status=404), False),
        ],
    )
    def test_nobody_serves(self, reply: Reply, nobody: bool) -> None:
        """Only where a server of ours could help."""
        assert nobody_serves(self.trip(reply)) is nobody

    def test_user_and_password_in_the_url_are_not_shown(self, steps: Steps, unused_port: int) -> None:
        """They are secrets."""
        check = webhook(f"ws://user:hidden@127.0.0.1:{unused_port}", steps)
        assert check.level == "error"
        assert "hidden" not in check.found + check.advice
