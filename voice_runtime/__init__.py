"""Telephone calls as plain, blocking Python over Twilio Media Streams."""
