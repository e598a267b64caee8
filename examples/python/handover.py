#!/usr/bin/env python3
"""A Handover client in one file, standard library only (Python 3.9 or later), written from PROTOCOL.md.

    client = Client("http://127.0.0.1:8080", token=ask_my_backend)
    client.send("bob", "form.data", {"hello": "world"})     # returns when it is on the server's disk
    client.receive(lambda message: show(message["data"]))   # acknowledged when the callback has returned

Section numbers in the comments are PROTOCOL.md's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import OrderedDict
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union
from urllib.parse import quote, urlencode, urlsplit

Json = Dict[str, Any]

WAIT_S = 20  # how long the server holds a poll
SILENCE_S = 45  # a stream on which not even a heartbeat (every 15 s) came for so long is dead
ANSWER_S = 15  # how long an answer may take that the server does not hold back
SPREAD_S = 5  # processed messages are acknowledged at least so often, however long their batch takes
REMEMBERED = 10_000  # messages whose repeats are recognized


class Problem(Exception):
    """A refusal by the server (section 6). Its text says what to do."""

    def __init__(self, status: int, body: bytes, headers: Optional[http.client.HTTPMessage] = None) -> None:
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):  # not from Handover: a proxy in front of it, perhaps
            document = {"detail": f"the server answered {status}", "code": "", "retryable": status >= 500 or status == 429}
        self.status = status
        self.code: str = str(document.get("code", ""))
        self.retryable: bool = document.get("retryable") is True
        after = headers.get("Retry-After", "") if headers else ""
        self.retry_after: float = float(after) if after.isdigit() else 0.0
        super().__init__(str(document.get("detail", document.get("title", status))))


class Reject(Exception):
    """Raised by a callback: this message can never be processed. It goes to the dead letters, with this reason."""


class EarlyEnd(ConnectionError):
    """A poll was answered 204 long before its time was up."""


TROUBLE = (Problem, OSError, http.client.HTTPException)


class Client:
    """One session's way to the server. Its methods may be called from several threads; `receive` from one at a time.

    url: where the server is, e.g. `https://example.org/handover`.
    token: the token, or a function that gets one from your backend; it is called again when the token has expired.
    receiver: this reader's name within its session; a new one unless given.
    """

    def __init__(self, url: str, token: Union[str, Callable[[], str]], receiver: Optional[str] = None) -> None:
        self._url = urlsplit(url)
        self._ask_token = token if callable(token) else None
        self._token: Optional[str] = None if callable(token) else token
        self._name = receiver or f"py-{uuid.uuid4().hex[:12]}"
        self._receiver = self._name
        self._stopped = threading.Event()
        self._held: Optional[http.client.HTTPConnection] = None  # the poll or stream that waits for mail
        # What a receiver keeps (section 5): where it is, what it has processed, and what it has not yet told of that.
        self._epoch: Optional[str] = None
        self._cursor = 0
        self._processed: "OrderedDict[Tuple[str, str], None]" = OrderedDict()
        self._forms: Dict[str, List[Any]] = {}
        self._acknowledged_at = time.monotonic()

    # ---- Sending (section 4)

    def send(self, to: Union[str, List[str]], type: str, data: Any = None, *, key: Optional[str] = None, patience: float = 30, **more: Any) -> Json:
        """Sends one message, and returns the server's answer (`id`, `time`, `ttl`, `recipients`) when it is on disk.

        A send whose answer was lost is repeated under its idempotency key for `patience` seconds, and stored once.
        more: `ttl` (seconds), `topic`, `urgency`, `subject`, `correlationid`, `replyto`.
        Raises Problem, or OSError when the server could not be reached.
        """
        recipients = {"user": to} if isinstance(to, str) else {"users": to}
        body = {"to": recipients, "type": type, "data": data, "idempotencyKey": key or str(uuid.uuid4())}
        body.update({name: value for name, value in more.items() if value is not None})
        give_up_at, attempt = time.monotonic() + patience, 0
        while True:
            try:
                return self._call("POST", "/v1/messages", body) or {}
            except TROUBLE as trouble:
                delay = backoff(attempt, trouble)
                attempt += 1
                if not may_pass(trouble) or time.monotonic() + delay > give_up_at or self._stopped.wait(delay):
                    raise

    def state(self, id: str) -> Json:
        """What became of a message, for each recipient."""
        return self._call("GET", f"/v1/messages/{quote(id, safe='')}") or {}

    def take_back(self, id: str) -> int:
        """Takes a message back from everyone who has not settled it. Returns for how many that was."""
        return int((self._call("DELETE", f"/v1/messages/{quote(id, safe='')}") or {}).get("evicted", 0))

    # ---- Receiving (section 5)

    def receive(
        self,
        callback: Callable[[Json], Any],
        over: str = "poll",
        *,
        batch: int = 32,
        retry_after: float = 1,
        on_gap: Callable[[Json], Any] = lambda gap: None,
        on_settled: Callable[[List[int]], Any] = lambda seqs: None,
        on_trouble: Callable[[Exception, float], Any] = lambda trouble, delay: None,
    ) -> None:
        """Calls `callback(event)` for each message, in order, until `stop()`.

        Returned means processed, and it is acknowledged. Raised means not processed: it comes again after `retry_after` seconds (doubled each
        time, at most 60), with a higher `deliverycount`; or never, after `Reject`. Nothing is acknowledged before. A callback that takes long
        delays only the messages behind it.

        over: `poll` (long polling) or `events` (server-sent events). batch: most messages in hand.
        on_gap: told of `{"from", "to", "reason"}`, messages that ended before they could be received.
        on_settled: told of numbers that ended, but not by this receiver: another was first, or the sender took it back. on_trouble: told of what the callback
        raised or what the connection lacks, and in how many seconds it tries again.
        Raises Problem when the server refuses for good: what has to change is in its text.
        """
        listen = {"poll": self._poll, "events": self._stream}[over]
        attempt = 0
        while not self._stopped.is_set():
            delay = 0.0
            try:
                for kind, value in listen(batch):
                    attempt = 0  # it gets through
                    if kind == "delivery":
                        self._handle(value, callback, retry_after, on_trouble)
                    elif kind == "gap":
                        on_gap(value)
                    elif kind == "settled":
                        on_settled(value)
                    elif kind == "drain":  # everybody comes back, but not all at once
                        delay = random.uniform(0, value)
                    if self._stopped.is_set():
                        break
            except TROUBLE as trouble:
                if self._stopped.is_set():
                    break
                if isinstance(trouble, EarlyEnd) and attempt > 0 or code_of(trouble) == "replaced":
                    self._receiver = f"{self._name}-{uuid.uuid4().hex[:6]}"  # somebody else has this name
                elif not may_pass(trouble):
                    raise
                delay = backoff(attempt, trouble)
                attempt += 1
                on_trouble(trouble, delay)
            self._stopped.wait(delay)
        try:
            self._acknowledge()
        except TROUBLE as trouble:
            on_trouble(trouble, 0)  # what is not acknowledged comes again

    def stop(self) -> None:
        """Ends `receive`, from a callback, another thread or a signal handler, after the message in hand."""
        self._stopped.set()
        held = self._held
        if held is not None and held.sock is not None:
            try:
                held.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _poll(self, batch: int) -> Iterator[Tuple[str, Any]]:
        """One long poll. It acknowledges what was processed before it, and gives what it brought."""
        body: Json = {"receiver": self._receiver, "max": batch, "wait": WAIT_S}
        if self._epoch is not None:
            body.update(epoch=self._epoch, cursor=self._cursor)
        forms = self._forms
        if forms:
            body["ack"] = forms
        began = time.monotonic()
        answer = self._call("POST", "/v1/poll", body, held_s=WAIT_S)
        # Only now: an acknowledgement whose answer was lost goes again, which is harmless.
        self._forms, self._acknowledged_at = {}, time.monotonic()
        if answer is None:
            if time.monotonic() - began < WAIT_S / 2:
                raise EarlyEnd("the poll ended early: the server is about to stop, or somebody else uses this receiver's name")
            yield "open", None
            return
        self._begin(answer["epoch"])
        yield "open", None
        for gap in answer["gaps"]:
            yield "gap", gap
        if answer["settled"]:
            yield "settled", answer["settled"]
        for delivery in answer["deliveries"]:
            self._cursor = delivery["seq"]
            yield "delivery", delivery
            if time.monotonic() - self._acknowledged_at > SPREAD_S:
                self._acknowledge()
        self._cursor = answer["cursor"]

    def _stream(self, batch: int) -> Iterator[Tuple[str, Any]]:
        """One event stream, until it ends. What was processed is acknowledged beside it."""
        self._acknowledge()
        query: Json = {"receiver": self._receiver, "window": batch}
        if self._epoch is not None:
            query.update(epoch=self._epoch, cursor=self._cursor)
        with self._request("GET", f"/v1/events?{urlencode(query)}", None, SILENCE_S, hold=True) as response:
            for name, text in read_events(response):
                data = json.loads(text)
                if name == "ready":
                    self._begin(data["epoch"])
                    yield "open", None
                elif name == "message":
                    self._cursor = data["seq"]
                    yield "delivery", data
                    self._acknowledge()
                elif name == "gap":
                    self._cursor = max(self._cursor, data["to"])
                    yield "gap", data
                elif name == "settled":
                    yield "settled", data["seqs"]
                elif name == "drain":
                    yield "drain", data["delay"]
                    return
                elif name == "problem":
                    if data.get("code") == "token-expired" and self._ask_token:
                        self._token = None
                        raise ConnectionError("the token has expired, a new one is asked for")
                    raise Problem(data.get("status", 500), text.encode())
        raise ConnectionError("the stream ended")

    def _begin(self, epoch: str) -> None:
        """Under a new epoch the old numbers mean nothing: everything unsettled comes again, and repeats are recognized by their names."""
        if epoch != self._epoch:
            self._epoch, self._cursor, self._forms = epoch, 0, {}

    def _handle(self, delivery: Json, callback: Callable[[Json], Any], retry_after: float, on_trouble: Callable[[Exception, float], Any]) -> None:
        """Processes one delivery, and notes what is to be told of it."""
        event, seq, count = delivery["event"], delivery["seq"], delivery["deliveryCount"]
        name = (event["source"], event["id"])
        try:
            if name not in self._processed:
                callback({**event, "deliverycount": count})
                self._processed[name] = None
                if len(self._processed) > REMEMBERED:
                    self._processed.popitem(last=False)
            self._note("seqs", seq)
        except Reject as reason:
            self._note("reject", {"seq": seq, "reason": str(reason)[:255]})
        except Exception as trouble:  # whatever it was, the message was not processed
            delay = min(60.0, retry_after * 2 ** (count - 1))
            self._note("nack", {"seq": seq, "retryAfter": delay})
            on_trouble(trouble, delay)

    def _note(self, form: str, value: Any) -> None:
        self._forms.setdefault(form, []).append(value)

    def _acknowledge(self) -> None:
        if self._forms:
            self._call("POST", "/v1/ack", {"receiver": self._receiver, "epoch": self._epoch, "cursor": self._cursor, **self._forms})
        self._forms, self._acknowledged_at = {}, time.monotonic()

    # ---- For backends (section 3)

    def make_session(self, user: str, ttl: Optional[int] = None) -> Json:
        """Makes a session for a user, when this client's token is a service key. Returns `session`, `token`, `expires`."""
        return self._call("POST", "/v1/sessions", {"user": user} if ttl is None else {"user": user, "ttl": ttl}) or {}

    # ---- HTTP

    def _call(self, method: str, path: str, body: Optional[Json] = None, held_s: float = 0) -> Optional[Json]:
        """One request and its answer: an object, or None for 204. Raises Problem, OSError or HTTPException."""
        with self._request(method, path, body, held_s + ANSWER_S, hold=held_s > 0) as response:
            text = response.read()
        try:
            return json.loads(text) if response.status != 204 else None
        except ValueError as fault:
            raise ConnectionError("the answer is not Handover's") from fault

    @contextmanager
    def _request(self, method: str, path: str, body: Optional[Json], timeout_s: float, hold: bool) -> Iterator[http.client.HTTPResponse]:
        """Sends a request, and gives the answer while it is being read. A token that is refused is asked for anew, once."""
        for is_last in (self._ask_token is None, True):
            connection = (http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection)(
                self._url.hostname or "", self._url.port, timeout=timeout_s
            )
            try:
                if self._token is None and self._ask_token is not None:
                    self._token = self._ask_token()
                headers = {"Authorization": f"Bearer {self._token}"}
                if body is not None:
                    headers["Content-Type"] = "application/json"
                connection.connect()
                if hold:
                    self._held = connection
                    if self._stopped.is_set():  # `stop` ends the held connection that it finds; it may have come too early for this one
                        raise ConnectionError("stopped")
                connection.request(method, self._url.path.rstrip("/") + path, None if body is None else json.dumps(body).encode(), headers)
                response = connection.getresponse()
                if response.status < 300:
                    yield response
                    return
                problem = Problem(response.status, response.read(), response.headers)
                if is_last or problem.code not in ("token-expired", "token-invalid"):
                    raise problem
                self._token = None
            finally:
                if hold:
                    self._held = None
                connection.close()


def read_events(lines: Iterable[bytes]) -> Iterator[Tuple[str, str]]:
    """The events of a stream, as (name, data), by the rules of the HTML standard's section "Server-sent events"."""
    name, data = "message", []
    for line in lines:
        field, _, value = line.decode("utf-8").rstrip("\r\n").partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line.strip():  # an empty line ends the event; without data there was none
            if data:
                yield name, "\n".join(data)
            name, data = "message", []


def code_of(trouble: Exception) -> str:
    return trouble.code if isinstance(trouble, Problem) else ""


def may_pass(trouble: Exception) -> bool:
    """Whether trying again later can help: no connection, or a problem that says so itself."""
    return trouble.retryable if isinstance(trouble, Problem) else True


def backoff(attempt: int, trouble: Exception) -> float:
    """Seconds until the next try: full jitter over 0.25, 0.5, … 4 s, and not before `Retry-After`."""
    after = trouble.retry_after if isinstance(trouble, Problem) else 0.0
    return after + random.uniform(0, min(4.0, 0.25 * 2 ** min(attempt, 4)))


# ---- The command line


def main() -> None:
    parser = argparse.ArgumentParser(description="A Handover client. The service key is HANDOVER_SERVICE_KEY, a user's token HANDOVER_TOKEN.")
    parser.add_argument("--url", default=os.environ.get("HANDOVER_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--user", help="act as this user, with sessions made by HANDOVER_SERVICE_KEY (without: HANDOVER_TOKEN, or the service itself)")
    commands = parser.add_subparsers(dest="command", required=True)
    session = commands.add_parser("session", help="make a session for a user, print its token")
    session.add_argument("user_of_session", metavar="user")
    session.add_argument("--ttl", type=int, help="seconds")
    send = commands.add_parser("send", help="send a message, print the answer when it is on disk")
    send.add_argument("to", nargs="+", help="users")
    send.add_argument("--type", default="form.data")
    send.add_argument("--data", help="JSON; read from the standard input unless given")
    send.add_argument("--key", help="idempotency key; a new one unless given")
    send.add_argument("--ttl", type=int, help="seconds")
    for name in ("topic", "urgency", "subject", "correlationid", "replyto"):
        send.add_argument(f"--{name}")
    for name, about in (("state", "what became of a message"), ("take-back", "take a message back from who has not settled it")):
        commands.add_parser(name, help=about).add_argument("id")
    listen = commands.add_parser("listen", help="print each message as a line of JSON, or give it to a command, then acknowledge it")
    listen.add_argument("--over", choices=("poll", "events"), default="poll")
    listen.add_argument("--receiver", help="this reader's name; a new one unless given")
    listen.add_argument("process", nargs=argparse.REMAINDER, metavar="command", help="gets the message on its standard input; a status other than 0 gives it back")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except TROUBLE as trouble:
        sys.exit(f"handover: {trouble}")


def run(arguments: argparse.Namespace) -> None:
    key = os.environ.get("HANDOVER_SERVICE_KEY", "")
    service = Client(arguments.url, key)
    if arguments.user:
        client = Client(arguments.url, lambda: str(service.make_session(arguments.user)["token"]), getattr(arguments, "receiver", None))
    else:
        client = Client(arguments.url, os.environ.get("HANDOVER_TOKEN") or key, getattr(arguments, "receiver", None))
    if arguments.command == "session":
        print(service.make_session(arguments.user_of_session, arguments.ttl)["token"])
    elif arguments.command == "send":
        try:
            data = json.loads(arguments.data if arguments.data is not None else sys.stdin.read())
        except ValueError as fault:
            sys.exit(f"handover: the data is not JSON: {fault}")
        more = {name: getattr(arguments, name) for name in ("ttl", "topic", "urgency", "subject", "correlationid", "replyto")}
        to = arguments.to[0] if len(arguments.to) == 1 else arguments.to
        print(json.dumps(client.send(to, arguments.type, data, key=arguments.key, **more)))
    elif arguments.command == "state":
        print(json.dumps(client.state(arguments.id)))
    elif arguments.command == "take-back":
        print(json.dumps({"evicted": client.take_back(arguments.id)}))
    else:
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, lambda number, frame: client.stop())
        client.receive(
            (lambda event: run_command(arguments.process, event)) if arguments.process else print_event,
            arguments.over,
            on_gap=lambda gap: say(f"{gap['from']} to {gap['to']} ended before they came: {gap['reason']}"),
            on_settled=lambda seqs: say(f"settled elsewhere: {seqs}"),
            on_trouble=lambda trouble, delay: say(f"{trouble}; again in {delay:.1f} s"),
        )


def say(text: str) -> None:
    print(f"handover: {text}", file=sys.stderr, flush=True)


def print_event(event: Json) -> None:
    try:
        print(json.dumps(event), flush=True)
    except BrokenPipeError:  # giving mail back again and again would make it dead
        sys.exit("handover: nobody reads what is printed; the message comes again")


def run_command(command: List[str], event: Json) -> None:
    subprocess.run(command, input=json.dumps(event).encode() + b"\n", check=True)


if __name__ == "__main__":
    main()
