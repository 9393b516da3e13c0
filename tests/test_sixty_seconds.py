"""A minute of telephone with human voices: what the timeline says was heard is what the ear received."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.people import human
from tests.town import NUMBER, town
from voice_runtime.audio.mixer import AudioMixer
from voice_runtime.events import Outcome
from voice_runtime.results import PlayResult
from voice_runtime.session import VoiceSession
from voice_runtime.testing.fake_twilio_settings import Faults
from voice_runtime.testing.phone import FakeCall, Phone
from voice_runtime.transports.mock_line import LineFaults

PROMPTS = [
    "basic-pbx-ivr-main",
    "cannot-complete-as-dialed",
    "vm-goodbye",
    "conf-adminmenu-162",
    "demo-congrats",
    "vm-intro",
    "vm-options",
    "agent-alreadyon",
]
CUT_AFTER_S = {0: 6.37, 4: 9.113}  # which prompts are interrupted, and when
CALLER_SAYS = ["agent-pass", "agent-user"]


@pytest.mark.parametrize(
    "line",
    [LineFaults(), LineFaults(latency_to_app_ms=80, latency_from_app_ms=60, jitter_ms=15)],
    ids=["clean", "140 ms round trip with jitter"],
)
def test_the_account_equals_the_ear(line: LineFaults, tmp_path: Path) -> None:
    """Sample for sample, and to within 40 ms where a clear cut the voice; the stereo recording shows both sides."""
    prompts = [human(name) for name in PROMPTS]
    caller_audio = [human(name) for name in CALLER_SAYS]
    results: list[PlayResult] = []
    accounts: list[list[bytes]] = []
    path = tmp_path / "call.wav"
    with town(faults=Faults(line=line)) as t:
        mixer = AudioMixer(record_path=path, stereo=True, monitor=False, clock=t.clock)
        mixer.start()

        class Minute(VoiceSession):
            def run(self) -> None:
                tap = self.live.timeline.on_heard
                assert tap is not None
                account: list[bytes] = []

                def both(at_ms: float, audio: bytes) -> None:
                    account.append(audio)
                    tap(at_ms, audio)

                self.live.timeline.on_heard = both
                for number, prompt in enumerate(prompts):
                    account = []
                    accounts.append(account)
                    if number in CUT_AFTER_S:
                        t.clock.start_thread(lambda after=CUT_AFTER_S[number]: self._cut(after), "barge-in")  # type: ignore[misc]
                    results.append(self.play(prompt))
                    self.sleep(0.4)

            def _cut(self, after_s: float) -> None:
                t.clock.sleep(after_s)
                self.clear()

        def make(_: Any) -> VoiceSession:
            session = Minute()
            session.set_mixer(mixer)
            return session

        def person(call: FakeCall) -> None:
            for audio in caller_audio:
                call.sleep(3.3)
                call.says(audio)

        t.serve(make)
        began = t.clock.monotonic()
        call = t.fake.place_call(to=NUMBER, from_="+358401234567", phone=Phone(script=person))
        assert call.wait_ended(300) == "completed"
        t.clock.sleep(0.5)
        assert t.clock.monotonic() - began > 60
        mixer.shutdown()
        spans = call.heard.spans

    assert len(spans) == len(PROMPTS)
    for number, (prompt, result, account, span) in enumerate(zip(prompts, results, accounts, spans, strict=True)):
        ours = b"".join(account)
        if number in CUT_AFTER_S:
            assert result.outcome is Outcome.INTERRUPTED
            assert result.heard_ms == len(ours) / 8
            assert abs(len(span.data) - len(ours)) <= 40 * 8
            shorter = min(len(span.data), len(ours))
            assert span.data[:shorter] == ours[:shorter] == prompt[:shorter]
        else:
            assert result.outcome is Outcome.PLAYED
            assert span.data == ours == prompt

    both = path.read_bytes()[58:]
    caller, agent = both[0::2], both[1::2]
    assert all(audio in caller for audio in caller_audio)
    for number, prompt in enumerate(prompts):
        if number not in CUT_AFTER_S:
            assert prompt in agent
    # The distance between two prompts in the recording is what it was in the ear, to within two frames.
    first, last = agent.find(prompts[1]), agent.find(prompts[-1])
    assert (last - first) / 8 == pytest.approx(spans[-1].at_ms - spans[1].at_ms, abs=40)
