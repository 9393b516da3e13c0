"""Text messages: one that goes out later, answers to those that come in, and calling one back.

    TWILIO_MESSAGING_SERVICE_SID=MG... python examples/sms.py +358401234567 ...

Let your number's messaging webhook be https://voice.example.com/sms (POST). Only a messaging service can send later.
"""

import datetime
import sys

from voice_runtime import IncomingSms, OptedOutError, VoiceServer, mask_number, reject

REMINDER = "Your table is booked for eight. Please write NO if you cannot come."
reminders: dict[str, str] = {}  # who was reminded, and by which message


def remind(server: VoiceServer, guest: str) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=3)
    try:
        sent = server.send_sms(guest, REMINDER, send_at=later)
        reminders[guest] = sent.message_sid
        print(f"{mask_number(guest)} in three hours, billed as {sent.segments.segments} message")
    except OptedOutError as error:  # they once wrote STOP, and Twilio keeps to it
        print(error)


def answer(message: IncomingSms) -> str:
    if message.body.strip().casefold() != "no":  # not "cancel": that is one of Twilio's words for STOP
        return "See you at eight!"
    sid = reminders.pop(message.sender, None)
    if sid and server.cancel_sms(sid):
        return "Your table is cancelled."
    return "It is too late to cancel. Please call us."


if __name__ == "__main__":
    server = VoiceServer(lambda facts: reject(), on_sms=answer)  # calls are not taken
    for guest in sys.argv[1:]:
        remind(server, guest)
    server.run()
